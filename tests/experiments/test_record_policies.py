"""What is recorded of the policies is of its kinds, in its order, and fit to be learned from and judged by."""

import pytest
import torch
from gymnasium.spaces import Box

from experiments.model_quality_data import env_spaces, load_files
from experiments.record_policies import Args, main, make_agent, make_learner
from layeredrl.data.episodes import episode_numbers
from layeredrl.envs.tasks import TASKS

pytestmark = pytest.mark.usefixtures("unchecked")


def test_chance_and_the_half_trained_policy_are_learned_from_and_the_better_one_is_shifted(tmp_path, capsys):
    main(Args("Pendulum-v1", steps=20, train=600, test=40, shifted=30, out=tmp_path))
    spaces = env_spaces("Pendulum-v1")
    files = {name: load_files([tmp_path / f"{name}.npz"], spaces) for name in ("train", "test", "shifted")}
    assert [len(batch) for batch in files.values()] == [600, 40, 30]
    numbers = episode_numbers(files["train"])
    assert numbers[299] < numbers[300]
    starts = torch.cat([batch.state[:1] for batch in files.values()])
    assert len(starts.unique(dim=0)) == 3
    assert "chance: mean return -" in capsys.readouterr().out
    assert (tmp_path / "half.zip").exists()
    assert (tmp_path / "better.zip").exists()


def test_the_learner_does_not_see_what_the_task_hides():
    task = TASKS["Hopper-v5"]
    learner = make_learner(task, seed=0)
    assert learner.observation_space.shape == (11,)
    state = torch.zeros(1, 12)
    actions = []
    for x in (0.0, 1e3):
        state[:, 0] = x
        torch.manual_seed(0)
        actions.append(make_agent(learner, task).act(state)[0])
    assert torch.equal(*actions)
    assert actions[0].isfinite().all()


def test_an_environment_of_discrete_actions_is_refused():
    with pytest.raises(SystemExit, match=r"--env-id: got CartPole-v1 of Box.* and Discrete\(2\), expected Boxes"):
        make_learner(TASKS["CartPole-v1"], seed=0)
    assert isinstance(make_learner(TASKS["Pendulum-v1"], seed=0).action_space, Box)
