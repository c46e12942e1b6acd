"""How fast the hot paths are, as ratios within one run.

Absolute seconds depend on the machine and on who else uses it; ratios of medians taken in turn don't, much.
"""

import itertools
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import tyro
from gymnasium.spaces import Box
from torch import nn
from torch.distributions import Independent, Normal
from torch.nn.functional import binary_cross_entropy

from experiments.pets import Args as PetsArgs
from layeredrl.agents.mpc_agent import MPCAgent
from layeredrl.envs.tasks import TASKS
from layeredrl.models.probabilistic_ensemble import ProbabilisticEnsemble
from layeredrl.nets.prob_fc_dynamics import ProbFCDynamics
from layeredrl.planners.cem import CEM
from layeredrl.planners.objective import ModelObjective
from layeredrl.training.trainer import clip_member_gradients
from layeredrl.types import Batch

N_MODELS, N_PARTICLES, HORIZON, N_STARTS = 5, 4, 30, 400
N_STATES, N_ACTIONS, HIDDEN_SIZES = 18, 6, (200, 200, 200, 200)
TRAIN_BATCH = 256
MATRIX_SIZE = 2048

STATE_SPACE = Box(-float("inf"), float("inf"), (N_STATES,))
ACTION_SPACE = Box(-1.0, 1.0, (N_ACTIONS,))
NET = partial(ProbFCDynamics, hidden_sizes=HIDDEN_SIZES, nonlinearity=nn.SiLU)


@dataclass(frozen=True)
class Args:
    """Measure speed."""

    only: tuple[str, ...] = ()
    """Names of measurements; none: all. They are rollout, train, plan and policy."""
    threads: int | None = None
    """CPU threads; none: torch's own choice."""
    repeats: int = 5
    """Runs that medians are taken of, after one warm-up."""
    json: Path | None = None
    """Where to write the figures."""


@dataclass(frozen=True)
class Row:
    """One line of the table: ours against something else, both in seconds."""

    name: str
    ours: float
    other_name: str
    other: float

    @property
    def ratio(self) -> float:
        return self.ours / self.other


def medians(repeats: int, *calls: Callable[[], object]) -> list[float]:
    """Median seconds of each call. They take turns, so that all see the same machine."""
    seconds: list[list[float]] = [[] for _ in calls]
    for repeat in range(repeats + 1):
        for call, own in zip(calls, seconds, strict=True):
            start = time.perf_counter()
            call()
            if repeat:  # the first round warms up
                own.append(time.perf_counter() - start)
    return [statistics.median(own) for own in seconds]


def forward_flops() -> int:
    """Floating-point operations of one row through one member: a multiplication and an addition per weight."""
    widths = (N_STATES + N_ACTIONS, *HIDDEN_SIZES, 2 * N_STATES + 2)
    return sum(2 * n_in * n_out for n_in, n_out in itertools.pairwise(widths))


def measure_rollout(repeats: int) -> list[Row]:
    """A rollout of many particles, against the same FLOPs as one large matrix product (sgemm)."""
    model = ProbabilisticEnsemble(
        STATE_SPACE, None, ACTION_SPACE, NET, n_models=N_MODELS, n_particles_per_model=N_PARTICLES
    )
    state, actions = torch.randn(N_STARTS, N_STATES), 2 * torch.rand(N_STARTS, HORIZON, N_ACTIONS) - 1
    a, b = torch.randn(2, MATRIX_SIZE, MATRIX_SIZE)
    with torch.no_grad():
        ours, product = medians(repeats, lambda: model.rollout(state, None, actions), lambda: a @ b)
    flops = N_MODELS * N_PARTICLES * N_STARTS * HORIZON * forward_flops()
    bound = product * flops / (2 * MATRIX_SIZE**3)
    return [
        Row(
            f"rollout E={N_MODELS} P={N_PARTICLES} H={HORIZON} B={N_STARTS}", ours, "the same FLOPs as sgemm", bound
        )
    ]


def measure_train(repeats: int) -> list[Row]:
    """A training step, against a loop over members in plain PyTorch that does the same work."""
    model = ProbabilisticEnsemble(STATE_SPACE, None, ACTION_SPACE, NET, n_models=N_MODELS)
    optimizer = torch.optim.AdamW(model.get_parameters(), fused=True)
    batch = Batch(
        state=torch.randn(N_MODELS, TRAIN_BATCH, N_STATES),
        context=None,
        action=torch.rand(N_MODELS, TRAIN_BATCH, N_ACTIONS),
        next_state=torch.randn(N_MODELS, TRAIN_BATCH, N_STATES),
        terminated=torch.zeros(N_MODELS, TRAIN_BATCH, dtype=torch.bool),
    )

    def ours() -> None:
        optimizer.zero_grad()
        model.get_member_losses(batch).sum().backward()
        clip_member_gradients(model.get_parameters(), 10.0)
        optimizer.step()

    nets = [NET(STATE_SPACE, None, ACTION_SPACE) for _ in range(N_MODELS)]
    optimizers = [torch.optim.AdamW(net.parameters()) for net in nets]

    def loop() -> None:
        for e, (net, own) in enumerate(zip(nets, optimizers, strict=True)):
            (mean, std), _, term_prob = net(batch.state[e], None, batch.action[e])
            law = Independent(Normal(mean.squeeze(1), std.squeeze(1), validate_args=False), 1)
            nll = -law.log_prob(batch.next_state[e] - batch.state[e])
            loss = (nll + binary_cross_entropy(term_prob, batch.terminated[e].float(), reduction="none")).mean()
            own.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 10.0)
            own.step()

    seconds = medians(10 * repeats, ours, loop)
    return [Row(f"training step E={N_MODELS} B={TRAIN_BATCH}", seconds[0], "plain loop over members", seconds[1])]


def measure_plan(repeats: int) -> list[Row]:
    """One planning step at the Pendulum defaults of experiments/pets.py, against the bar of 0.1 s."""
    args, task = PetsArgs(), TASKS["Pendulum-v1"]
    state_space, action_space = Box(-8.0, 8.0, (3,)), Box(-2.0, 2.0, (1,))
    net = partial(ProbFCDynamics, hidden_sizes=args.hidden_sizes, nonlinearity=nn.SiLU)
    model = ProbabilisticEnsemble(
        state_space, None, action_space, net, n_models=args.n_models, n_particles_per_model=args.n_particles
    )
    planner = CEM(action_space, args.horizon, n_candidates=args.n_candidates, n_iterations=args.n_iterations)
    agent = MPCAgent(planner, ModelObjective(model, task.reward, task.termination))
    (ours,) = medians(10 * repeats, lambda: agent.act(torch.zeros(1, 3)))
    return [Row("plan, Pendulum defaults", ours, "the bar", 0.1)]


def measure_policy(repeats: int) -> list[Row]:
    """One step of each kind of policy for 4,096 observations, against skrl's."""
    from experiments.benchmark_policy import policy_rows  # needs skrl, from the extra `dev`

    rows = policy_rows(n_repetitions=60 * repeats)
    return [Row(f"policy step, {row.mixin}", row.ours, "skrl's", row.skrl) for row in rows]


MEASUREMENTS = {"rollout": measure_rollout, "train": measure_train, "plan": measure_plan, "policy": measure_policy}


def main(args: Args) -> None:
    unknown = set(args.only) - MEASUREMENTS.keys()
    if unknown:
        raise SystemExit(f"--only: got {', '.join(sorted(unknown))}, expected some of {', '.join(MEASUREMENTS)}")
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    rows = [row for name in args.only or MEASUREMENTS for row in MEASUREMENTS[name](args.repeats)]
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads\n")
    print(f"{'measured':<38} {'ms':>9}   {'against':<26} {'ms':>9} {'ratio':>7}")
    for row in rows:
        ours, other = 1e3 * row.ours, 1e3 * row.other
        print(f"{row.name:<38} {ours:>9.2f}   {row.other_name:<26} {other:>9.2f} {row.ratio:>7.2f}")
    if args.json is not None:
        figures = [{"name": r.name, "seconds": r.ours, "against": r.other_name, "ratio": r.ratio} for r in rows]
        args.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Args))
