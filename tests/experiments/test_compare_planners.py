"""The comparison of planners: equal work, and a table and a picture in the end."""

import json

import pytest
import torch

from experiments.compare_planners import Args, main, make_planners, true_objective
from experiments.tasks import make_env
from layeredrl.envs.tasks import TASKS
from layeredrl.training.trainer import TrainerConfig


def test_the_true_objective_is_what_the_environment_pays():
    env = make_env(TASKS["Pendulum-v1"], 3)
    state = torch.tensor(env.reset(seed=0)[0])
    plans = 4 * torch.rand(3, 1, 30, 1) - 2
    expected = sum(torch.tensor(env.step(action.numpy())[1]) for action in plans[:, 0].unbind(dim=1))
    torch.testing.assert_close(true_objective(state)(plans)[:, 0].double(), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("n", [40, 100, 400])
@pytest.mark.parametrize("name", make_planners(3))
def test_every_planner_tries_as_many_plans(name, n):
    asked = []

    def objective(plans):
        asked.append(plans.shape[1])
        return plans.sum(dim=(2, 3))

    planner = make_planners(3)[name](n)
    planner.plan(objective, planner.init(1))
    assert sum(asked) == pytest.approx(n, rel=0.06)


def test_it_leaves_a_table_and_a_picture(tmp_path, capsys, unchecked):
    quick = Args(
        budgets=(16,), horizon=2, episodes=2, model_steps=60, trainer=TrainerConfig(max_epochs=1), out=tmp_path
    )
    main(quick)
    scores = json.loads((tmp_path / "result.json").read_text())
    assert len(scores) == 2 * 4
    assert all(len(score["returns"]) == 2 for score in scores)
    assert (tmp_path / "result.png").exists()
    out = capsys.readouterr().out
    assert "true dynamics" in out
    assert "learned dynamics" in out
