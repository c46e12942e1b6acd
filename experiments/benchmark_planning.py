"""How long a plan takes: for one environment, and for many in one call."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from gymnasium.spaces import Box
from torch import nn

from experiments.measuring import Row, medians
from experiments.pets import HORIZON
from experiments.pets import Args as PetsArgs
from experiments.planners import make_planner
from layeredrl.agents.mpc_agent import MPCAgent
from layeredrl.envs.tasks import TASKS
from layeredrl.models.probabilistic_ensemble import ProbabilisticEnsemble
from layeredrl.nets.prob_fc_dynamics import ProbFCDynamics
from layeredrl.planners.cem import CEM
from layeredrl.planners.objective import ModelObjective
from layeredrl.planners.planner import Planner
from layeredrl.planners.search_space import Sampling

N_ENVS = (1, 2, 4, 8, 16, 32, 64)


@dataclass(frozen=True)
class Planning:
    """The size of a planning problem, and what is planned for."""

    env_id: str
    state_space: Box
    action_space: Box
    n_models: int
    n_particles: int
    n_candidates: int
    horizon: int
    n_iterations: int
    hidden_sizes: tuple[int, ...]
    sampling: Sampling = "clipped"

    def agent(self, planner: Planner | None = None) -> MPCAgent:
        """Plans, by CEM unless told otherwise, with a model that has learned nothing, which takes no less time."""
        task = TASKS[self.env_id]
        model = ProbabilisticEnsemble(
            self.state_space,
            None,
            self.action_space,
            partial(ProbFCDynamics, hidden_sizes=self.hidden_sizes, nonlinearity=nn.SiLU),
            n_models=self.n_models,
            n_particles_per_model=self.n_particles,
        )
        cem = CEM(
            self.action_space,
            self.horizon,
            n_candidates=self.n_candidates,
            n_iterations=self.n_iterations,
            sampling=self.sampling,
        )
        return MPCAgent(planner or cem, ModelObjective(model, task.reward, task.termination))


PENDULUM = partial(Planning, "Pendulum-v1", Box(-8.0, 8.0, (3,)), Box(-2.0, 2.0, (1,)))
SMALL = PENDULUM(
    n_models=5, n_particles=1, n_candidates=32, horizon=10, n_iterations=4, hidden_sizes=(128, 128, 128)
)


def measure_pendulum(repeats: int) -> list[Row]:
    """One planning step at the Pendulum defaults of experiments/pets.py, against the bar of 0.1 s."""
    args = PetsArgs()
    planning = PENDULUM(
        n_models=args.n_models,
        n_particles=args.n_particles,
        n_candidates=args.n_candidates,
        horizon=HORIZON,
        n_iterations=args.n_iterations,
        hidden_sizes=args.hidden_sizes,
    )
    planner = make_planner(
        args.planner,
        planning.action_space,
        planning.horizon,
        n_candidates=planning.n_candidates,
        n_iterations=planning.n_iterations,
    )
    agent = planning.agent(planner)
    (ours,) = medians(10 * repeats, lambda: agent.act(torch.zeros(1, 3)))
    return [Row("plan, Pendulum defaults", ours, "the bar", 0.1)]


def measure_envs(repeats: int) -> list[Row]:
    """A small plan for V environments in one call: the time per environment, against that of one alone."""
    acts = [partial(SMALL.agent().act, torch.zeros(n_envs, 3)) for n_envs in N_ENVS]
    seconds = [total / n_envs for total, n_envs in zip(medians(4 * repeats, *acts), N_ENVS, strict=True)]
    return [
        Row(f"plan per environment, V={n_envs}", own, "V=1", seconds[0])
        for own, n_envs in zip(seconds, N_ENVS, strict=True)
    ]


def draw_envs(rows: Sequence[Row], path: Path) -> None:
    """A picture of what `measure_envs` found."""
    from matplotlib.figure import Figure  # takes a second to import, which only this needs

    figure = Figure(figsize=(5.0, 3.5), layout="constrained")
    axes = figure.subplots()
    axes.plot(N_ENVS, [1e3 * row.ours for row in rows], marker="o", label="in one call")
    axes.axhline(1e3 * rows[0].other, color="0.6", linestyle="--", label="one alone")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xticks(N_ENVS, [str(n_envs) for n_envs in N_ENVS])
    axes.set_xlabel("environments V")
    axes.set_ylabel("ms per environment and plan")
    axes.legend()
    figure.savefig(path, dpi=150)
