"""Golden plans: searches that were recorded once with all their inputs, and have to come out the same for ever.

`python -m tests.planners.golden` records them anew, for when a planner was changed on purpose.
"""

import json
from pathlib import Path
from typing import Any

import torch
from gymnasium.spaces import Box, Dict, Discrete, Space

from layeredrl.planners.cem import CEM
from layeredrl.planners.icem import ICEM
from layeredrl.planners.mppi import MPPI
from layeredrl.planners.planner import Plan, Planner, PlannerState
from layeredrl.planners.random_shooting import RandomShooting

FOLDER = Path(__file__).parent / "golden"
SPACES: dict[str, Space[Any]] = {
    "box": Box(-1.0, 2.0, (2,)),
    "discrete": Discrete(3, start=5),
    "dict": Dict({"push": Box(-1.0, 1.0, (1,)), "turn": Discrete(3)}),
}
PLANNERS: dict[str, tuple[type[Planner], dict[str, Any]]] = {
    "random_shooting": (RandomShooting, {"n_candidates": 6}),
    "cem": (CEM, {"n_candidates": 6, "n_iterations": 2, "elite_ratio": 0.5}),
    "cem_truncated_mean": (CEM, {"n_candidates": 6, "n_iterations": 2, "sampling": "truncated", "result": "mean"}),
    "icem": (ICEM, {"n_candidates": 6, "n_iterations": 3, "elite_ratio": 0.3, "keep_elite_ratio": 0.5}),
    "mppi": (MPPI, {"n_candidates": 6, "n_iterations": 2, "temperature": 0.5, "smoothing": 0.5}),
}
HORIZON, N_ENVS = 3, 2


def make(planner: str, space: str) -> Planner:
    kind, settings = PLANNERS[planner]
    return kind(SPACES[space], HORIZON, **settings)


def search(planner: Planner, inputs: dict[str, torch.Tensor]) -> Plan:
    """Towards a target plan, from a given state and with a given noise."""
    state = PlannerState(inputs["mean"], inputs["elites"], inputs["n_open"])
    target = inputs["target"].unsqueeze(1)
    return planner.search(
        lambda plans: -(plans - target).float().abs().sum(dim=(2, 3)), state, inputs["noise"], inputs["proposals"]
    )


def outputs(plan: Plan) -> dict[str, torch.Tensor]:
    return {
        "actions": plan.actions,
        "value": plan.value,
        "next_mean": plan.state.mean,
        "next_elites": plan.state.elites,
    }


def draw_inputs(planner: Planner) -> dict[str, torch.Tensor]:
    """A state in the middle of an episode in one environment, and that of a new one in the other."""
    warm = planner.plan(lambda plans: plans.float().sum(dim=(2, 3)), planner.init(N_ENVS)).state
    state = planner.reset(planner.shift(warm), torch.tensor([False, True]))
    target, proposals = (
        planner.space.decode(*planner.start(state), torch.randn(N_ENVS, n, HORIZON, planner.space.row_size))
        for n in (1, 2)
    )
    return {
        "mean": state.mean,
        "elites": state.elites,
        "n_open": state.n_open,
        "target": target[:, 0],
        "proposals": proposals,
        "noise": planner.draw_noise(N_ENVS),
    }


def record() -> None:
    FOLDER.mkdir(exist_ok=True)
    torch.manual_seed(0)
    for name in PLANNERS:
        for space in SPACES:
            planner = make(name, space)
            inputs = draw_inputs(planner)
            # Written and read again, so that what is replayed starts from the very same digits.
            texts = {key: json.loads(json.dumps(value.tolist())) for key, value in inputs.items()}
            plan = search(planner, inputs)
            golden = {"inputs": texts, "outputs": {key: value.tolist() for key, value in outputs(plan).items()}}
            (FOLDER / f"{name}_{space}.json").write_text(json.dumps(golden) + "\n")


if __name__ == "__main__":
    record()
