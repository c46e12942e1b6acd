"""Longer real runs, by hand: `scripts/test -m slow`."""

import json

import pytest

from experiments.pets import Args, main


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_pendulum_is_swung_up_after_a_thousand_steps(tmp_path, seed):
    main(Args(seed=seed, eval_episodes=20, name="run", runs=tmp_path))
    result = json.loads((tmp_path / "Pendulum-v1" / "run" / "result.json").read_text())
    assert result["evaluation_return_mean"] >= -180
