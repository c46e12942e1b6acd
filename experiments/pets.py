"""PETS: learn a probabilistic ensemble of an environment's dynamics, plan with it (Chua et al. 2018).

Collects with random actions first, then alternates between fitting the ensemble to everything seen so far and
acting by planning. Ends with an evaluation from fixed starts.
"""

import time
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
import tyro
from torch import nn
from tqdm import tqdm

from experiments.planners import PlannerName, find_risk, make_planner
from experiments.report import make_run_folder, write_report
from experiments.tasks import find_task, make_env
from layeredrl.agents.mpc_agent import MPCAgent
from layeredrl.agents.random_agent import RandomAgent
from layeredrl.data.replay_buffer import ReplayBuffer
from layeredrl.envs.task import never
from layeredrl.metrics.open_loop import evaluate_open_loop
from layeredrl.models.probabilistic_ensemble import ProbabilisticEnsemble
from layeredrl.models.reward_model import RewardModel
from layeredrl.nets.prob_fc_dynamics import ProbFCDynamics
from layeredrl.planners.objective import ModelObjective
from layeredrl.planners.terminal_value import TerminalValue
from layeredrl.planners.terms import Halt
from layeredrl.policies.scaled_value import ScaledValue
from layeredrl.policies.trunks import MLP
from layeredrl.training.checkpoint import save_checkpoint
from layeredrl.training.collector import Collector, Episode
from layeredrl.training.evaluation import cut_episodes, evaluate, forecast
from layeredrl.training.monitor import Monitor
from layeredrl.training.trainer import EnsembleTrainer, TrainerConfig
from layeredrl.training.value_trainer import ValueTrainer, ValueTrainerConfig
from layeredrl.types import Propagation

# Evaluation starts are the same for every run, and none that training could have seen.
EVAL_SEED = 1_000_000
# Lengths of plans, unless given: less is to be seen ahead where states have a value.
HORIZON, HORIZON_WITH_VALUE = 25, 15
# Steps that the pictures in TensorBoard look ahead.
FORECAST_HORIZON = 50
# Steps between the starts of the windows that open-loop errors are measured on, and particles behind each.
FORECAST_STRIDE, FORECAST_PARTICLES = 25, 8


@dataclass(frozen=True)
class Args:
    """Learn to control an environment by model-predictive control with a learned ensemble."""

    env_id: str = "Pendulum-v1"
    """Environment: one whose reward is known, or any with --task."""
    task: str | None = None
    """Your own reward and termination: `module:NAME` of a layeredrl.envs.tasks.Task."""
    learn_reward: bool = False
    """Learn rewards and ends from data, instead of using those of a task; for any environment."""
    seed: int = 0
    """Of environment, networks and planner."""
    name: str | None = None
    """Run folder below runs/<env_id>/. Default: date, time and seed."""
    steps: int = 1000
    """Environment steps, the random ones included."""
    random_steps: int = 200
    """Environment steps with random actions, before anything is learned."""
    fit_every: int = 200
    """Environment steps between two fits."""
    n_envs: int = 1
    """Environments to collect from at a time."""
    eval_episodes: int = 5
    """Episodes of the final evaluation, from fixed start seeds, in one vector environment; 0: none."""

    n_models: int = 5
    """Members of the ensemble."""
    n_modes: int = 1
    """Gaussians in each member's mixture."""
    hidden_sizes: tuple[int, ...] = (128, 128, 128)
    """Widths of each member's hidden layers (SiLU)."""
    n_particles: int = 1
    """Particles per member in a rollout."""
    propagation: Propagation = "ts_inf"
    """How particles move through members."""
    compile: bool = False
    """Make the networks faster. On a CPU, that takes a C++ compiler."""
    # With few data, an epoch has few steps.
    trainer: TrainerConfig = field(
        default_factory=partial(TrainerConfig, max_epochs=400, max_updates=3000, patience=40)
    )

    planner: PlannerName = "icem"
    """How to search for plans."""
    horizon: int | None = None
    """Length of a plan. Default: 15 with a terminal value, else 25."""
    n_candidates: int = 80
    """Plans that are tried per iteration."""
    n_iterations: int = 4
    """Iterations of the search per step."""
    refine_steps: int = 0
    """Steps of gradient ascent from the best plan; for continuous actions."""
    risk: str = "mean"
    """What a plan is worth whose particles disagree: mean, worst_member or cvar:ALPHA."""
    halt_penalty: float | None = None
    """Imagined plans end, at this price, where members disagree more than on 99 % of the held-out transitions. It
    should exceed what a plan can lose. Plans take n_models times as long, except with --propagation expectation."""
    terminal_value: bool | None = None
    """Whether to count what the last state of a plan is worth, by what planning earned from such states before.
    Default: where an episode can end early, so that survival beyond the horizon matters."""
    values: ValueTrainerConfig = field(default_factory=ValueTrainerConfig)

    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """Where to learn and plan."""
    runs: Path = Path("runs")
    """Where run folders go."""


def main(args: Args) -> None:
    start = time.perf_counter()

    # Environment
    task = find_task(args.env_id, args.task, learn_reward=args.learn_reward)
    env = make_env(task, args.n_envs)
    state_space, action_space = env.single_observation_space, env.single_action_space

    # Model
    torch.manual_seed(args.seed)
    generator = torch.Generator(args.device).manual_seed(args.seed)
    watching = torch.Generator(args.device).manual_seed(args.seed)  # so that watching changes nothing
    model = ProbabilisticEnsemble(
        state_space,
        None,
        action_space,
        partial(ProbFCDynamics, hidden_sizes=args.hidden_sizes, nonlinearity=nn.SiLU),
        n_models=args.n_models,
        n_modes=args.n_modes,
        n_particles_per_model=args.n_particles,
        device=args.device,
        hidden_states=task.hidden,
        compile=args.compile,
    )
    buffer = ReplayBuffer(state_space, None, action_space, capacity=args.steps + args.n_envs, device=args.device)
    trainer = EnsembleTrainer(model, args.trainer, progress=True)
    reward_model = RewardModel(
        state_space,
        None,
        action_space,
        args.n_models,
        hidden_states=task.hidden,
        device=args.device,
        compile=args.compile,
    )
    reward_trainer = EnsembleTrainer(reward_model, args.trainer, progress=True)
    value = ScaledValue(state_space, action_space, MLP(activation=nn.SiLU), args.device, hidden_states=task.hidden)
    value_trainer = ValueTrainer(value, args.values, progress=True, generator=generator)

    # Agents
    use_value = task.termination is not never if args.terminal_value is None else args.terminal_value
    horizon = args.horizon or (HORIZON_WITH_VALUE if use_value else HORIZON)
    random_agent = RandomAgent(action_space, generator=generator)
    objective = ModelObjective(
        model,
        reward_model if args.learn_reward else task.reward,
        None if args.learn_reward else task.termination,
        discount=args.values.discount,
        propagation=args.propagation,
        risk=find_risk(args.risk),
        terms=[] if args.halt_penalty is None else [Halt(model.epistemic_limit, args.halt_penalty)],
        terminal_value=TerminalValue(value) if use_value else None,
    )
    planner = make_planner(
        args.planner,
        action_space,
        horizon,
        n_candidates=args.n_candidates,
        n_iterations=args.n_iterations,
        refine_steps=args.refine_steps,
        device=args.device,
    )
    planning_agent = MPCAgent(planner, objective, generator=generator)

    def fit() -> None:
        """Judge the model by what is new to it; learn from everything so far; values, from planning, if any."""
        if unseen:
            segments = cut_episodes(unseen, FORECAST_HORIZON, stride=FORECAST_STRIDE)
            quality = evaluate_open_loop(
                model, segments, n_particles=FORECAST_PARTICLES, members=model.elites, generator=watching
            )
            monitor.open_loop(quality, segments, collector.n_steps)
            unseen.clear()
        model.set_n_total_env_steps(collector.n_steps)
        report, holdout = trainer.fit(buffer), buffer[buffer.is_holdout]
        monitor.fit(report, model, collector.n_steps, holdout=holdout)
        if args.halt_penalty is not None:
            model.fit_epistemic_limit(holdout)
        if args.learn_reward:
            monitor.fit(reward_trainer.fit(buffer), reward_model, collector.n_steps)
        if use_value:
            planned = buffer[args.random_steps :]
            values = value_trainer.fit(planned if len(planned) else buffer[:])
            monitor.values(values, collector.n_steps)

    # Loop
    folder = make_run_folder(args.runs / args.env_id, args.name, args.seed)
    collector = Collector(env, buffer, seed=args.seed, device=args.device)
    monitor = Monitor(folder, settings=asdict(replace(args, horizon=horizon, terminal_value=use_value)))
    training: list[tuple[int, Episode]] = []
    evaluation: list[Episode] = []
    unseen: list[Episode] = []  # since the last fit
    n_ticks = 0  # steps of every environment since then
    interrupted = False
    next_fit = args.random_steps
    try:
        with tqdm(total=args.steps, desc=args.env_id, unit="step") as bar:
            while collector.n_steps < args.steps:
                if collector.n_steps >= next_fit:
                    fit()
                    next_fit += args.fit_every
                    n_ticks = 0
                n_ticks += 1
                is_random = collector.n_steps < args.random_steps
                for episode in collector.step(random_agent if is_random else planning_agent):
                    training.append((collector.n_steps, episode))
                    monitor.episode(episode, collector.n_steps, horizon=horizon, discount=args.values.discount)
                    if not is_random:
                        seen = forecast(model, episode, horizon=FORECAST_HORIZON)
                        monitor.forecast(seen, collector.n_steps)
                        unseen.append(episode.last(n_ticks))
                    bar.set_postfix_str(f"return {episode.return_:.1f}, length {len(episode)}")
                bar.update(min(collector.n_steps, args.steps) - bar.n)
            fit()
        if args.eval_episodes:
            eval_env = make_env(task, args.eval_episodes)
            evaluation = evaluate(eval_env, planning_agent, seed=EVAL_SEED, progress=True, device=args.device)
            monitor.evaluation(evaluation, collector.n_steps)
    except KeyboardInterrupt:
        interrupted = True
        print(f"\nInterrupted after {collector.n_steps} steps; what was learned so far is kept.")

    # Report
    monitor.close()
    save_checkpoint(
        folder / "checkpoint.pt", model, buffer, reward_model=reward_model if args.learn_reward else None
    )
    write_report(
        folder,
        args,
        training,
        evaluation,
        eval_seed=EVAL_SEED,
        interrupted=interrupted,
        seconds=time.perf_counter() - start,
        model=model,
    )


if __name__ == "__main__":
    main(tyro.cli(Args))
