"""Recorded searches come out as they were recorded, up to rounding: processors add in different orders."""

import json

import pytest
import torch

from tests.planners.golden import FOLDER, PLANNERS, SPACES, make, outputs, search


def to_tensor(values, like):
    """Numbers of a file in the dtype that they were written from."""
    return torch.tensor(values, dtype=like.dtype).reshape(like.shape)


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("planner", PLANNERS)
def test_a_golden_plan_replays_exactly(planner, space):
    golden = json.loads((FOLDER / f"{planner}_{space}.json").read_text())
    searcher = make(planner, space)
    state = searcher.init(2)
    rows = searcher.space.mode(state.mean)[:, 0]
    likes = {"mean": state.mean, "elites": state.elites, "n_open": state.n_open, "target": rows}
    inputs = {name: to_tensor(golden["inputs"][name], like) for name, like in likes.items()}
    inputs["noise"] = torch.tensor(golden["inputs"]["noise"])
    inputs["proposals"] = torch.tensor(golden["inputs"]["proposals"], dtype=rows.dtype)
    for name, got in outputs(search(searcher, inputs)).items():
        torch.testing.assert_close(got, to_tensor(golden["outputs"][name], got), rtol=1e-6, atol=1e-6)
