"""Every planner at equal budgets of model steps, with the true dynamics of a pendulum and with learned ones.

A budget counts the model steps that one plan may cost: candidates × iterations × horizon. What counts is the return
that an agent earns in the real environment, planning anew at every step from the same fixed starts.
"""

import itertools
import json
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
import tyro
from einops import rearrange
from matplotlib.figure import Figure
from torch import Tensor, nn
from tqdm import tqdm

from experiments.tasks import make_env
from layeredrl.agents.mpc_agent import MPCAgent, StateObjective
from layeredrl.agents.random_agent import RandomAgent
from layeredrl.data.replay_buffer import ReplayBuffer
from layeredrl.envs.classic_control import pendulum_reward
from layeredrl.envs.tasks import TASKS
from layeredrl.models.probabilistic_ensemble import ProbabilisticEnsemble
from layeredrl.nets.prob_fc_dynamics import ProbFCDynamics
from layeredrl.planners.candidates import Objective
from layeredrl.planners.cem import CEM
from layeredrl.planners.icem import ICEM
from layeredrl.planners.mppi import MPPI
from layeredrl.planners.objective import ModelObjective
from layeredrl.planners.planner import Planner
from layeredrl.planners.random_shooting import RandomShooting
from layeredrl.training.collector import Collector
from layeredrl.training.evaluation import evaluate
from layeredrl.training.trainer import EnsembleTrainer, TrainerConfig

TASK = TASKS["Pendulum-v1"]
EVAL_SEED = 1_000_000
N_ITERATIONS = 4
MakePlanner = Callable[[int], Planner]


@dataclass(frozen=True)
class Args:
    """Compare planners on Pendulum-v1."""

    budgets: tuple[int, ...] = (300, 600, 1200, 2500, 5000)
    """Model steps per plan."""
    horizon: int = 25
    """Length of the plans."""
    episodes: int = 20
    """Fixed starts that each planner is judged by."""
    model_steps: int = 2000
    """Environment steps with random actions that the ensemble learns from; 0: true dynamics only."""
    trainer: TrainerConfig = field(default_factory=partial(TrainerConfig, max_epochs=400, patience=40))
    seed: int = 0
    """Of data, networks and planners."""
    out: Path = Path("runs/compare_planners")
    """Folder for result.json and result.png."""


@dataclass(frozen=True)
class Score:
    """What a planner earned at a budget."""

    dynamics: str
    planner: str
    budget: int
    returns: list[float]

    @property
    def mean(self) -> float:
        return statistics.mean(self.returns)

    @property
    def error(self) -> float:
        """Standard error of the mean over starts."""
        return statistics.stdev(self.returns) / len(self.returns) ** 0.5 if len(self.returns) > 1 else float("nan")


def true_objective(state: Tensor, context: Tensor | None = None, *, generator: object = None) -> Objective:
    """Returns under gymnasium's own equations of the pendulum (g = 10, m = l = 1, Δt = 0.05)."""

    def objective(plans: Tensor) -> Tensor:
        cos, sin, speed = (rearrange(x, "v -> v 1") for x in state.unbind(dim=-1))
        angle, total = torch.atan2(sin, cos), torch.zeros(plans.shape[:2])
        for action in plans.unbind(dim=2):
            now = torch.broadcast_tensors(angle.cos(), angle.sin(), speed)
            total = total + pendulum_reward(torch.stack(now, dim=-1), None, action, torch.stack(now, dim=-1))
            speed = (speed + (15 * angle.sin() + 3 * action[..., 0]) * 0.05).clamp(-8, 8)
            angle = angle + speed * 0.05
        return total

    return objective


def learned_objective(args: Args) -> ModelObjective:
    """An ensemble that has seen random actions only, from many starts."""
    env = make_env(TASK, n_envs=10)
    spaces = env.single_observation_space, None, env.single_action_space
    buffer = ReplayBuffer(*spaces, capacity=args.model_steps + 10)
    random_agent = RandomAgent(spaces[2], generator=torch.Generator().manual_seed(args.seed))
    Collector(env, buffer, seed=args.seed).collect(random_agent, args.model_steps)
    net = partial(ProbFCDynamics, hidden_sizes=(128, 128, 128), nonlinearity=nn.SiLU)
    model = ProbabilisticEnsemble(*spaces, partial_net=net, n_models=5)
    EnsembleTrainer(model, args.trainer, progress=True).fit(buffer)
    return ModelObjective(model, TASK.reward, TASK.termination)


def make_planners(horizon: int) -> dict[str, MakePlanner]:
    """From a number of candidates in all to a planner that tries so many, or a few more."""
    space = make_env(TASK, 1).single_action_space

    def share(n: int) -> int:
        return max(2, n // N_ITERATIONS)

    def icem(n: int) -> ICEM:
        # Later iterations draw fewer: as many in all as the others, with the elites that are tried again.
        decay = sum(1.25**-i for i in range(N_ITERATIONS))
        return ICEM(space, horizon, n_candidates=max(2, round(n / decay / 1.03)), n_iterations=N_ITERATIONS)

    return {
        "random shooting": lambda n: RandomShooting(space, horizon, n_candidates=n),
        "CEM": lambda n: CEM(space, horizon, n_candidates=share(n), n_iterations=N_ITERATIONS),
        "iCEM": icem,
        "MPPI": lambda n: MPPI(space, horizon, n_candidates=share(n), n_iterations=N_ITERATIONS),
    }


def measure(args: Args, dynamics: str, objective: StateObjective) -> list[Score]:
    """Scores of all planners at all budgets."""
    env = make_env(TASK, args.episodes)
    pairs = list(itertools.product(make_planners(args.horizon).items(), args.budgets))
    scores = []
    for (name, make), budget in tqdm(pairs, desc=f"{dynamics} dynamics"):
        generator = torch.Generator().manual_seed(args.seed)
        agent = MPCAgent(make(max(4, budget // args.horizon)), objective, generator=generator)
        episodes = evaluate(env, agent, seed=EVAL_SEED)
        scores.append(Score(dynamics, name, budget, [episode.return_ for episode in episodes]))
    return scores


def print_table(scores: list[Score], budgets: tuple[int, ...]) -> None:
    for dynamics, of_dynamics in itertools.groupby(scores, key=lambda score: score.dynamics):
        print(f"\n{dynamics + ' dynamics':<20}" + "".join(f"{budget:>16,}" for budget in budgets))
        for name, row in itertools.groupby(of_dynamics, key=lambda score: score.planner):
            print(f"{name:<20}" + "".join(f"{f'{s.mean:.0f} ± {s.error:.0f}':>16}" for s in row))


def draw(scores: list[Score]) -> Figure:
    kinds = list(dict.fromkeys(score.dynamics for score in scores))
    figure = Figure(figsize=(5.5 * len(kinds), 4), layout="constrained")
    for axes, dynamics in zip(figure.subplots(1, len(kinds), squeeze=False)[0], kinds, strict=True):
        chosen = [score for score in scores if score.dynamics == dynamics]
        for name, row in itertools.groupby(chosen, key=lambda score: score.planner):
            points = list(row)
            means, errors = [s.mean for s in points], [s.error for s in points]
            axes.errorbar([s.budget for s in points], means, errors, marker="o", ms=4, capsize=2, label=name)
        axes.set(title=f"{dynamics} dynamics", xscale="log", xlabel="model steps per plan", ylabel="return")
        budgets = sorted({s.budget for s in chosen})
        axes.set_xticks(budgets, [str(budget) for budget in budgets])
        axes.minorticks_off()
        axes.legend(fontsize="small")
    return figure


def main(args: Args) -> None:
    args.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)
    scores = measure(args, "true", true_objective)
    if args.model_steps:
        scores += measure(args, "learned", learned_objective(args))
    print_table(scores, args.budgets)
    figures = [
        {"dynamics": s.dynamics, "planner": s.planner, "budget": s.budget, "returns": s.returns} for s in scores
    ]
    (args.out / "result.json").write_text(json.dumps(figures, indent=2) + "\n")
    draw(scores).savefig(args.out / "result.png", dpi=120)
    print(f"\nTable and picture: {args.out}")


if __name__ == "__main__":
    main(tyro.cli(Args))
