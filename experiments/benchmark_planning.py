"""How long a plan takes: against other libraries' planners, against a bar, for many environments in one call."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from experiments.benchmark_contest import OURS, UNFUSED, Bench, compare
from experiments.benchmark_peers import MBRL, PYTORCH_MPPI, TORCHRL
from experiments.benchmark_plain import quadratic_cost
from experiments.benchmark_sizes import Planning, can_be_fused
from experiments.measuring import Call, Row, Timing
from experiments.pets import HORIZON
from experiments.pets import Args as PetsArgs
from experiments.planners import make_planner
from layeredrl.agents.mpc_agent import MPCAgent
from layeredrl.envs.tasks import Task, never
from layeredrl.planners.cem import CEM
from layeredrl.planners.mppi import MPPI

ELITE_RATIO = 0.1
PENDULUM_BAR = 0.1
# Candidates that our searches try beyond those they draw: the mean of the last iteration, or that and, once more,
# the best candidate.
MEAN_ALONE, MEAN_AND_BEST = 1, 2
# Nothing to keep but close to zero: for libraries that bring no tasks of their own.
STAY = Task(
    "none", reward=lambda state, context, action, next_state: -quadratic_cost(next_state), termination=never
)


def measure_plan(bench: Bench) -> list[Row]:
    """One plan, against the planners of other libraries that roll out as many particles for as many steps."""
    return [*_pets_rows(bench), *_cem_rows(bench), *_mppi_rows(bench)]


def _pets_rows(bench: Bench) -> list[Row]:
    """With the task of mbrl-lib's own example."""
    planning = bench.sizes.pets
    rivals: dict[str, Call] = {}
    if can_be_fused(bench.device):
        rivals[UNFUSED] = partial(planning.agent(bench.device, fused=False).act, _first_state(bench))
    if MBRL in bench.peers:
        from experiments.benchmark_mbrl import mbrl_plan

        rivals[MBRL.name] = mbrl_plan(planning, bench.device)
    return _plan_rows(bench, "PETS", planning.agent(bench.device), rivals, MEAN_ALONE)


def _cem_rows(bench: Bench) -> list[Row]:
    if TORCHRL not in bench.peers:
        return []
    from experiments.benchmark_torchrl import torchrl_plan

    planning = bench.sizes.pets
    cem = CEM(
        planning.action_space,
        planning.horizon,
        n_candidates=planning.n_candidates,
        n_iterations=planning.n_iterations,
        elite_ratio=ELITE_RATIO,
        momentum=0.0,
        device=bench.device,
    )
    rivals = {f"{TORCHRL.name}, CEMPlanner": torchrl_plan(planning, bench.device, ELITE_RATIO)}
    return _plan_rows(bench, "CEM", planning.agent(bench.device, cem, STAY), rivals, MEAN_ALONE)


def _mppi_rows(bench: Bench) -> list[Row]:
    if PYTORCH_MPPI not in bench.peers:
        return []
    from experiments.benchmark_mppi import pytorch_mppi_plan

    planning = bench.sizes.pets
    mppi = MPPI(
        planning.action_space,
        planning.horizon,
        n_candidates=planning.n_candidates,
        n_iterations=planning.n_iterations,
        initial_std=planning.max_action / 2,
        device=bench.device,
    )
    rivals = {PYTORCH_MPPI.name: pytorch_mppi_plan(planning, bench.device, std=planning.max_action / 2)}
    return _plan_rows(bench, "MPPI", planning.agent(bench.device, mppi, STAY), rivals, MEAN_AND_BEST)


def _plan_rows(bench: Bench, planner: str, agent: MPCAgent, rivals: dict[str, Call], n_extra: int) -> list[Row]:
    """Compare plans for which we may try `n_extra` candidates more than the rivals."""
    planning = bench.sizes.pets
    return compare(
        bench,
        f"plan by {planner}, {describe(planning)}",
        planning,
        partial(agent.act, _first_state(bench)),
        rivals,
        flops_per_step=planning.step_flops,
        tolerance=n_extra * planning.candidate_steps,
    )


def _first_state(bench: Bench) -> Tensor:
    return torch.zeros(1, bench.sizes.pets.n_states, device=bench.device)


def describe(planning: Planning) -> str:
    return (
        f"E={planning.n_models} P={planning.n_particles} N={planning.n_candidates} H={planning.horizon} "
        f"I={planning.n_iterations}"
    )


def measure_pendulum(bench: Bench) -> list[Row]:
    """One planning step at the Pendulum defaults of experiments/pets.py, against a bar."""
    args = PetsArgs()
    (width,) = set(args.hidden_sizes)
    planning = Planning(
        env_id="Pendulum-v1",
        n_states=3,
        n_actions=1,
        max_action=2.0,
        n_models=args.n_models,
        n_particles=args.n_particles,
        n_candidates=args.n_candidates,
        horizon=HORIZON,
        n_iterations=args.n_iterations,
        width=width,
        n_layers=len(args.hidden_sizes),
    )
    planner = make_planner(
        args.planner,
        planning.action_space,
        planning.horizon,
        n_candidates=planning.n_candidates,
        n_iterations=planning.n_iterations,
        device=bench.device,
    )
    agent = planning.agent(bench.device, planner)
    taken = bench.timings({OURS: partial(agent.act, torch.zeros(1, 3, device=bench.device))})
    return [Row("plan, Pendulum defaults", taken[OURS], "the bar", Timing.exactly(PENDULUM_BAR))]


def measure_envs(bench: Bench) -> list[Row]:
    """A small plan for V environments in one call: the time per environment, against that of one alone."""
    planning, numbers = bench.sizes.small, bench.sizes.n_envs
    acts = {
        f"V={n}": partial(planning.agent(bench.device).act, torch.zeros(n, planning.n_states, device=bench.device))
        for n in numbers
    }
    taken = bench.timings(acts)
    own = {name: time.scaled(1 / n) for (name, time), n in zip(taken.items(), numbers, strict=True)}
    alone = next(iter(own))
    return [Row(f"plan per environment, {name}", time, alone, own[alone]) for name, time in own.items()]


def draw_envs(bench: Bench, rows: Sequence[Row], path: Path) -> None:
    """A picture of what `measure_envs` found."""
    from matplotlib.figure import Figure  # takes a second to import, which only pictures need

    numbers = bench.sizes.n_envs
    figure = Figure(figsize=(5.0, 3.5), layout="constrained")
    axes = figure.subplots()
    axes.plot(numbers, [1e3 * row.ours.median for row in rows], marker="o", label="in one call")
    axes.axhline(1e3 * rows[0].other.median, color="0.6", linestyle="--", label="one alone")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xticks(numbers, [str(n_envs) for n_envs in numbers])
    axes.set_xlabel("environments V")
    axes.set_ylabel("ms per environment and plan")
    axes.legend()
    figure.savefig(path, dpi=150)
