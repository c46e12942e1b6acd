"""The experiment runs to its end, leaves what it promises, and says what is wrong."""

import json
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from experiments.pets import Args, main
from experiments.planners import find_risk
from experiments.tasks import make_env
from layeredrl.envs.tasks import TASKS
from layeredrl.training.collector import Collector
from layeredrl.training.trainer import TrainerConfig
from layeredrl.training.value_trainer import ValueTrainerConfig

QUICK = {
    "steps": 80,
    "random_steps": 40,
    "fit_every": 40,
    "hidden_sizes": (8,),
    "n_models": 2,
    "horizon": 3,
    "n_candidates": 8,
    "n_iterations": 1,
    "eval_episodes": 2,
    "name": "quick",
    "device": "cpu",
    "trainer": TrainerConfig(max_epochs=2),
    "values": ValueTrainerConfig(n_steps=5),
}


def run(tmp_path: Path, **settings) -> tuple[Path, dict]:
    args = Args(**{**QUICK, "runs": tmp_path, **settings})
    main(args)
    folder = tmp_path / args.env_id / "quick"
    return folder, json.loads((folder / "result.json").read_text())


@pytest.mark.parametrize("env_id", ["InvertedPendulum-v5", "CartPole-v1"])
def test_a_run_leaves_result_picture_checkpoint_and_log(tmp_path, env_id, capsys):
    folder, result = run(tmp_path, env_id=env_id, n_envs=2)
    assert result["arguments"]["env_id"] == env_id
    assert result["versions"]["torch"] == torch.__version__
    assert not result["interrupted"]
    assert [row["seed"] for row in result["evaluation"]] == [1_000_000, 1_000_001]
    mean = sum(row["return"] for row in result["evaluation"]) / 2
    assert result["evaluation_return_mean"] == pytest.approx(mean)
    with Image.open(folder / "result.png") as picture:
        assert picture.size[0] > 500
    checkpoint = torch.load(folder / "checkpoint.pt", weights_only=True)
    assert checkpoint["buffer"]["n_added"] == 80
    log = EventAccumulator(str(folder)).Reload().Tags()["scalars"]
    assert {"members/disagreement/state_0", "evaluation/return_mean"} <= set(log)
    assert "1000001" in capsys.readouterr().out


@pytest.mark.parametrize(
    "settings",
    [
        {"planner": "cem", "risk": "worst_member", "propagation": "expectation"},
        {"planner": "mppi", "risk": "cvar:0.5", "n_envs": 2, "terminal_value": False},
        {"planner": "random_shooting", "terminal_value": True, "refine_steps": 1, "halt_penalty": 100.0},
    ],
    ids=lambda settings: settings["planner"],
)
def test_planners_and_risks_can_be_chosen(tmp_path, settings, unchecked):
    _, result = run(tmp_path, env_id="InvertedPendulum-v5", **settings)
    assert result["arguments"]["planner"] == settings["planner"]
    assert result["evaluation_return_mean"] > 0


def test_rewards_and_ends_can_be_learned_in_an_environment_that_nothing_is_known_about(tmp_path, unchecked):
    folder, result = run(tmp_path, env_id="MountainCar-v0", learn_reward=True, eval_episodes=1)
    assert result["evaluation_return_mean"] == -200
    assert any("reward_model" in name for name in torch.load(folder / "checkpoint.pt", weights_only=True))


@pytest.mark.parametrize("words", ["cvar", "cvar:0", "cvar:2", "cvar:x", "best"])
def test_an_unknown_risk_is_named(words):
    with pytest.raises(SystemExit, match=rf"--risk: got {words}: "):
        find_risk(words)


def test_the_seed_decides_the_result(tmp_path, unchecked):
    settings = {"env_id": "InvertedPendulum-v5", "eval_episodes": 1}
    first, second = (run(tmp_path / str(i), seed=3, **settings)[1] for i in range(2))
    other = run(tmp_path / "other", seed=4, **settings)[1]
    assert first["training"] == second["training"]
    assert first["evaluation"] == second["evaluation"]
    assert other["training"] != first["training"]


def test_interrupting_keeps_what_was_learned(tmp_path, monkeypatch, capsys):
    step = Collector.step

    def interrupted_step(self, agent):
        if self.n_steps == 60:
            raise KeyboardInterrupt
        return step(self, agent)

    monkeypatch.setattr(Collector, "step", interrupted_step)
    folder, result = run(tmp_path, env_id="InvertedPendulum-v5")
    assert result["interrupted"]
    assert result["evaluation_return_mean"] is None
    assert torch.load(folder / "checkpoint.pt", weights_only=True)["buffer"]["n_added"] == 60
    assert "Interrupted after 60 steps" in capsys.readouterr().out


def test_a_folder_that_exists_is_never_written_to(tmp_path):
    folder = tmp_path / "Pendulum-v1" / "quick"
    folder.mkdir(parents=True)
    with pytest.raises(SystemExit, match="exists already and is never overwritten"):
        run(tmp_path)
    assert not list(folder.iterdir())


def test_an_unknown_environment_lists_the_known_and_the_way_out(tmp_path):
    with pytest.raises(
        SystemExit, match=r"got Hopper-v9.*Pendulum-v1, .*Swimmer-v5(.|\n)*--task my_module:MY_TASK"
    ):
        run(tmp_path, env_id="Hopper-v9")
    assert not list(tmp_path.iterdir())


def test_environments_show_the_positions_that_rewards_need():
    shapes = [make_env(TASKS[env_id], 2).observation_space.shape for env_id in ("HalfCheetah-v5", "Reacher-v5")]
    assert shapes == [(2, 18), (2, 10)]


def test_a_task_of_ones_own(tmp_path, monkeypatch):
    (tmp_path / "my_tasks.py").write_text(
        "from layeredrl.envs.tasks import Task, never, pendulum_reward\n"
        "MINE = Task('Pendulum-v1', pendulum_reward, never)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    folder, _ = run(tmp_path, task="my_tasks:MINE", eval_episodes=0)
    assert (folder / "result.json").exists()
    for path, message in [("my_tasks:YOURS", "got my_tasks:YOURS"), ("sys:path", "got a list at sys:path")]:
        with pytest.raises(SystemExit, match=message):
            run(tmp_path, task=path, name="again")
    assert "my_tasks" in sys.modules
