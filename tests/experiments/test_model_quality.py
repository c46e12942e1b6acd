"""The report on a model is complete and finite, whatever the data are like, or it says what is wrong with them."""

import json
import math
from pathlib import Path

import minari
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from PIL import Image

from experiments.model_quality import Args, main
from layeredrl.training.trainer import TrainerConfig

pytestmark = [
    pytest.mark.usefixtures("unchecked"),
    # Minari would like to know who records, and by what code.
    pytest.mark.filterwarnings("ignore::UserWarning:minari.utils"),
]

QUICK = {
    "name": "quick",
    "device": "cpu",
    "hidden_sizes": (8,),
    "n_models": 2,
    "n_particles": 2,
    "horizon": 5,
    "trainer": TrainerConfig(max_epochs=2),
}


def run(tmp_path: Path, **settings) -> tuple[str, dict]:
    """What report.md and result.json hold."""
    main(Args(**{**QUICK, "runs": tmp_path / "runs", **settings}))
    folder = tmp_path / "runs" / "model_quality" / "quick"
    return (folder / "report.md").read_text(), json.loads((folder / "result.json").read_text())


def write(path: Path, *lengths: int, seed: int = 0, **changes) -> Path:
    """Episodes of a slowly rotating point with the states and actions of Pendulum-v1."""
    generator = np.random.default_rng(seed)
    n = sum(lengths)
    action = generator.uniform(-2, 2, size=(n, 1))
    ends = np.concatenate([np.arange(length) == length - 1 for length in lengths])
    state = np.zeros((n, 3))
    next_state = np.zeros((n, 3))
    for i in range(n):
        state[i] = next_state[i - 1] if i > 0 and not ends[i - 1] else generator.normal(size=3)
        turn = np.array([-state[i, 1], state[i, 0], action[i, 0]])
        next_state[i] = state[i] + 0.1 * turn + 0.01 * generator.normal(size=3)
    arrays = {"state": state, "action": action, "next_state": next_state, "terminated": ends}
    np.savez(path, **{**arrays, **changes})
    return path


def numbers(value):
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from numbers(item)
    elif isinstance(value, float):
        yield value


def test_a_run_leaves_tables_pictures_figures_and_the_model(tmp_path, capsys):
    text, result = run(tmp_path, env_id="Pendulum-v1", transitions=600)
    assert "Learned from 400 transitions" in text
    assert "Judged by 200 of other episodes, and by 40 windows of 5 steps" in text
    assert "| layeredrl " in capsys.readouterr().out
    assert set(result["models"]) == {"layeredrl", "layeredrl, pooled"}
    assert result["arguments"]["env_id"] == "Pendulum-v1"
    assert all(math.isfinite(number) for number in numbers(result))
    folder = tmp_path / "runs" / "model_quality" / "quick"
    for name in ("calibration", "open_loop", "fans", "doubts"):
        assert f"]({name}.png)" in text
        with Image.open(folder / f"{name}.png") as picture:
            assert min(picture.size) > 300
    assert (folder / "checkpoint.pt").exists()


def test_transitions_on_file_can_be_learned_from_and_judged_by(tmp_path):
    train, test, shifted = (write(tmp_path / f"{i}.npz", 60, 60, seed=i) for i in range(3))
    text, result = run(tmp_path, env_id="Pendulum-v1", data=(train,), test=(test,), shifted=(shifted,))
    assert "Learned from 120 transitions" in text
    assert "Judged by 120 of other episodes, and by 24 windows" in text
    assert 0 <= result["models"]["layeredrl"]["auroc"] <= 1


def test_some_of_the_recorded_transitions_will_do(tmp_path):
    text, _ = run(tmp_path, env_id="Pendulum-v1", data=(write(tmp_path / "x.npz", *[20] * 20),), transitions=200)
    assert "Learned from 160 transitions" in text


def test_without_shifted_transitions_there_is_no_auroc(tmp_path):
    _, result = run(tmp_path, env_id="Pendulum-v1", data=(write(tmp_path / "x.npz", 60, 60),), recalibrate=())
    assert result["models"]["layeredrl"]["auroc"] is None
    assert list(result["models"]) == ["layeredrl"]


def test_a_policy_of_ones_own_collects(tmp_path, monkeypatch):
    (tmp_path / "my_policy.py").write_text(
        "import torch\n\n\ndef still(state):\n    return torch.zeros(len(state), 1)\n\n\nnumber = 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    run(tmp_path, env_id="Pendulum-v1", policy="my_policy:still", transitions=400)
    checkpoint = torch.load(tmp_path / "runs/model_quality/quick/checkpoint.pt", weights_only=True)
    assert not checkpoint["buffer"]["columns"]["action"].any()
    for path, message in [("my_policy:jump", "expected module:NAME"), ("my_policy:number", "got a int at")]:
        with pytest.raises(SystemExit, match=message):
            run(tmp_path, env_id="Pendulum-v1", policy=path)


def test_a_minari_dataset_needs_no_environment(tmp_path, monkeypatch):
    name = record(tmp_path, monkeypatch, size=4)
    text, result = run(tmp_path, minari=name)
    assert "Judged by 30 of other episodes" in text
    assert len(result["models"]["layeredrl"]["unit"]) == 4


def test_a_dataset_of_other_spaces_than_the_environment_is_refused(tmp_path, monkeypatch):
    name = record(tmp_path, monkeypatch, size=4)
    with pytest.raises(SystemExit, match=r"--minari: got states of Box.*, expected Box.* as in --env-id"):
        run(tmp_path, minari=name, env_id="Pendulum-v1")
    path = write(tmp_path / "x.npz", 30, state=np.zeros((30, 4)))
    with pytest.raises(SystemExit, match=r"state: got shape \(30, 4\) in .*, expected 30 rows of 3"):
        run(tmp_path, data=(path,), env_id="Pendulum-v1")


def record(tmp_path, monkeypatch, size: int) -> str:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    generator = np.random.default_rng(0)
    buffers = [
        minari.data_collector.EpisodeBuffer(
            observations=generator.normal(size=(31, size)).astype(np.float32),
            actions=generator.uniform(-1, 1, size=(30, 1)).astype(np.float32),
            rewards=np.zeros(30),
            terminations=np.zeros(30, dtype=bool),
            truncations=np.arange(30) == 29,
            infos={},
        )
        for _ in range(5)
    ]
    spaces = {"observation_space": Box(-np.inf, np.inf, (size,)), "action_space": Box(-1, 1, (1,))}
    minari.create_dataset_from_buffers("here/noise-v0", buffers, **spaces)
    return "here/noise-v0"


# What is odd about data, and still has an answer ---------------------------------------------------------------


def test_a_single_member_has_no_epistemic_variance(tmp_path):
    files = [write(tmp_path / f"{i}.npz", 60, 60, seed=i) for i in range(2)]
    text, result = run(tmp_path, env_id="Pendulum-v1", data=files[:1], shifted=files[1:], n_models=1)
    assert "A single member" in text
    assert result["models"]["layeredrl"]["auroc"] is None
    assert set(result["models"]["layeredrl"]["one_step"]["epistemic_std"]) == {0.0}
    assert "doubts.png" not in text


def test_a_horizon_beyond_every_episode_is_cut(tmp_path):
    text, result = run(tmp_path, env_id="Pendulum-v1", data=(write(tmp_path / "x.npz", *[8] * 20),), horizon=50)
    assert "Horizon: 8 steps instead of 50" in text
    assert len(result["models"]["layeredrl"]["open_loop_unit"]) == 8


def test_episodes_of_a_single_step_are_judged_one_step_ahead(tmp_path):
    text, _ = run(tmp_path, env_id="Pendulum-v1", data=(write(tmp_path / "x.npz", *[1] * 100),))
    assert "Horizon: 1 steps instead of 5" in text


def test_a_coordinate_that_never_changes_is_left_out_of_means(tmp_path):
    path = write(tmp_path / "x.npz", *[20] * 10)
    arrays = dict(np.load(path))
    for name in ("state", "next_state"):
        arrays[name][:, 1] = 3.0
    np.savez(path, **arrays)
    text, result = run(tmp_path, env_id="Pendulum-v1", data=(path,))
    assert "Constant: coordinates [1]" in text
    assert "| 1 (constant)" in text
    assert all(math.isfinite(number) for number in numbers(result))


def test_nothing_at_all_changes(tmp_path):
    path = write(tmp_path / "x.npz", *[20] * 10)
    arrays = dict(np.load(path))
    arrays["state"] = arrays["next_state"] = np.ones((200, 3))
    np.savez(path, **arrays)
    with pytest.raises(SystemExit, match="nothing to foretell"):
        run(tmp_path, env_id="Pendulum-v1", data=(path,))


def test_a_single_episode_is_judged_by_its_end(tmp_path):
    text, _ = run(tmp_path, env_id="Pendulum-v1", data=(write(tmp_path / "x.npz", 100),))
    assert "Learned from 80 transitions" in text
    assert "Judged by 20 of" in text


# What has none -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{"data": ("x.npz",)}, {}, {"policy": "a:b"}])
def test_the_environment_must_be_named(tmp_path, settings):
    with pytest.raises(SystemExit, match="--env-id: got none"):
        run(tmp_path, **settings)


def test_one_source_of_transitions_is_enough(tmp_path):
    with pytest.raises(SystemExit, match="--data and --minari: got both"):
        run(tmp_path, env_id="Pendulum-v1", data=("x.npz",), minari="x")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"horizon": 0}, "--horizon: got 0, expected at least 1"),
        ({"transitions": 0}, "--transitions: got 0, expected at least 2"),
        ({"n_particles": 1}, "--n-particles: got 1, expected at least 2"),
        ({"test_share": 1.5}, r"--test-share: got 1\.5"),
        ({"n_modes": 2, "beta_nll": 0.5}, r"--beta-nll: got 0\.5 with --n-modes 2"),
        ({"hidden_sizes": (8, 4), "compare": "mbrl"}, r"--hidden-sizes: got \(8, 4\), expected equal ones"),
    ],
)
def test_numbers_that_cannot_be_are_refused_before_anything_is_learned(tmp_path, settings, message):
    with pytest.raises(SystemExit, match=message):
        run(tmp_path, env_id="Pendulum-v1", **settings)


def test_too_few_transitions_to_hold_any_out_are_refused(tmp_path):
    with pytest.raises(SystemExit, match="--data: got 1 transition, expected at least 2"):
        run(tmp_path, env_id="Pendulum-v1", data=(write(tmp_path / "x.npz", 1),))
    path = write(tmp_path / "x.npz", 20, 20)
    with pytest.raises(SystemExit, match=r"held out, expected at least 15 .* so about 150 transitions"):
        run(tmp_path, env_id="Pendulum-v1", data=(path,), recalibrate=("pooled", "isotonic"))


@pytest.mark.parametrize("argument", ["data", "test", "shifted"])
@pytest.mark.parametrize(("field", "value"), [("state", np.nan), ("action", 6.0)])
def test_files_with_values_that_cannot_be_are_named(tmp_path, argument, field, value):
    files = {"data": (write(tmp_path / "x.npz", 60, 60),)}
    arrays = dict(np.load(files["data"][0]))
    arrays[field][3] = value
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(SystemExit, match=rf"bad.npz: Batch.{field}: "):
        run(tmp_path, env_id="Pendulum-v1", **{**files, argument: (tmp_path / "bad.npz",)})


@pytest.mark.parametrize("argument", ["data", "test", "shifted"])
def test_files_without_transitions_are_named(tmp_path, argument):
    files = {"data": (write(tmp_path / "x.npz", 60, 60),)}
    empty = tmp_path / "empty.npz"
    np.savez(empty, **{name: value[:0] for name, value in np.load(files["data"][0]).items()})
    with pytest.raises(SystemExit, match=r"empty.npz: got no transitions"):
        run(tmp_path, env_id="Pendulum-v1", **{**files, argument: (empty,)})


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(SystemExit, match=r"No such file.*nowhere.npz"):
        run(tmp_path, env_id="Pendulum-v1", data=(tmp_path / "nowhere.npz",))


def test_a_missing_dataset_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    with pytest.raises(SystemExit, match="--minari: dataset_id: got 'no/such-v0'"):
        run(tmp_path, minari="no/such-v0")
