"""Checkpoints restore everything, and run nothing."""

import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch

from layeredrl.training.checkpoint import load_checkpoint, save_checkpoint
from layeredrl.training.trainer import EnsembleTrainer, TrainerConfig
from tests.training.linear_system import make_batch, make_buffer, make_model, make_reward_model

SETTINGS = {"symmetry_breaking_start": True, "sb_start_duration": 1000, "n_particles_per_model": 2}


def make_fitted():
    model, buffer = make_model(3, seed=0, **SETTINGS), make_buffer(80)
    EnsembleTrainer(model, TrainerConfig(max_epochs=2, n_elites=2)).fit(buffer)
    model.set_n_total_env_steps(700)
    return model, buffer


def everything(model, buffer) -> dict[str, torch.Tensor]:
    content = buffer.state_dict()
    return {**model.state_dict(), **content["columns"], "n_added": torch.tensor(content["n_added"])}


def assert_same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> None:
    assert one.keys() == two.keys()
    for name in one:
        assert torch.equal(one[name], two[name]), name


def test_everything_comes_back_bit_for_bit(tmp_path):
    model, buffer = make_fitted()
    save_checkpoint(tmp_path / "checkpoint.pt", model, buffer)
    other, other_buffer = make_model(3, seed=9, **SETTINGS), make_buffer(80)
    assert not torch.equal(other.random_dynamics.map, model.random_dynamics.map)
    load_checkpoint(tmp_path / "checkpoint.pt", other, other_buffer)
    assert_same(everything(model, buffer), everything(other, other_buffer))
    assert torch.equal(model.elites, other.elites)
    assert len(other.elites) == 2
    assert int(other.n_total_env_steps) == 700
    assert torch.equal(buffer.is_holdout, other_buffer.is_holdout)
    assert torch.equal(buffer.bootstrap_counts(3), other_buffer.bootstrap_counts(3))


def test_a_reward_model_comes_back_with_the_rest(tmp_path):
    (model, buffer), rewards = make_fitted(), make_reward_model()
    EnsembleTrainer(rewards, TrainerConfig(max_epochs=2, n_elites=2)).fit(buffer)
    save_checkpoint(tmp_path / "checkpoint.pt", model, buffer, reward_model=rewards)
    other, other_buffer, other_rewards = (
        make_model(3, seed=9, **SETTINGS),
        make_buffer(80),
        make_reward_model(seed=9),
    )
    load_checkpoint(tmp_path / "checkpoint.pt", other, other_buffer, reward_model=other_rewards)
    assert_same(everything(model, buffer), everything(other, other_buffer))
    assert_same(rewards.state_dict(), other_rewards.state_dict())
    batch = make_batch(20)
    transition = batch.state, None, batch.action, batch.next_state
    assert torch.equal(rewards(*transition), other_rewards(*transition))


@pytest.mark.parametrize(
    ("saved", "given", "message"),
    [
        (None, make_reward_model, "reward_model: got one, but the checkpoint holds none"),
        (make_reward_model, None, "reward_model: got None, but the checkpoint holds one"),
        (make_reward_model, lambda: make_reward_model(2), r"reward_model: got .* in the checkpoint, expected"),
    ],
)
def test_a_checkpoint_of_another_reward_model_is_refused_before_anything_changes(tmp_path, saved, given, message):
    save_checkpoint(tmp_path / "checkpoint.pt", *make_fitted(), reward_model=saved and saved())
    model, buffer, rewards = make_model(3, seed=1, **SETTINGS), make_buffer(80, spoil=3), given and given()
    before = {name: x.clone() for name, x in everything(model, buffer).items()}
    with pytest.raises(ValueError, match=message):
        load_checkpoint(tmp_path / "checkpoint.pt", model, buffer, reward_model=rewards)
    assert_same(before, everything(model, buffer))


def test_the_restored_model_answers_as_the_saved_one(tmp_path):
    model, buffer = make_fitted()
    save_checkpoint(str(tmp_path / "checkpoint.pt"), model, buffer)
    other, batch = make_model(3, seed=9, **SETTINGS), make_batch(20)
    load_checkpoint(str(tmp_path / "checkpoint.pt"), other, make_buffer(80))
    actions = batch.action[:, None].repeat(1, 5, 1)
    generators = (torch.Generator().manual_seed(3) for _ in range(2))
    one, two = (m.rollout(batch.state, None, actions, generator=next(generators)) for m in (model, other))
    assert torch.equal(one.state, two.state)
    assert torch.equal(one.term_prob, two.term_prob)


def test_training_goes_on_from_a_checkpoint(tmp_path):
    model, buffer = make_fitted()
    save_checkpoint(tmp_path / "checkpoint.pt", model, buffer)
    other, other_buffer = make_model(3, seed=9, **SETTINGS), make_buffer(80)
    load_checkpoint(tmp_path / "checkpoint.pt", other, other_buffer)
    reports = [
        EnsembleTrainer(m, TrainerConfig(max_epochs=2), generator=torch.Generator().manual_seed(0)).fit(b)
        for m, b in ((model, buffer), (other, other_buffer))
    ]
    assert torch.equal(reports[0].holdout_loss, reports[1].holdout_loss)


def test_a_checkpoint_replaces_an_older_one_and_leaves_nothing_else(tmp_path):
    model, buffer = make_fitted()
    for steps in (1, 2):
        model.set_n_total_env_steps(steps)
        save_checkpoint(tmp_path / "checkpoint.pt", model, buffer)
    assert os.listdir(tmp_path) == ["checkpoint.pt"]
    load_checkpoint(tmp_path / "checkpoint.pt", model, buffer)
    assert int(model.n_total_env_steps) == 2


def test_a_failed_save_leaves_the_older_checkpoint_whole(tmp_path, monkeypatch):
    model, buffer = make_fitted()
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, model, buffer)
    before = path.read_bytes()

    def full_disk(_, file):
        Path(file).write_bytes(b"half a file")
        raise OSError("no space left")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="no space left"):
        save_checkpoint(path, model, buffer)
    assert path.read_bytes() == before


class Malicious:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("how", ["torch", "pickle", "inside"])
def test_a_checkpoint_that_would_run_code_is_refused_and_runs_nothing(tmp_path, how):
    path, proof = tmp_path / "checkpoint.pt", tmp_path / "it_ran"
    model, buffer = make_fitted()
    before = {name: x.clone() for name, x in everything(model, buffer).items()}
    if how == "pickle":
        path.write_bytes(pickle.dumps(Malicious(proof), protocol=2))
    elif how == "torch":
        torch.save({"model": model.state_dict(), "buffer": Malicious(proof)}, path)
    else:
        content = {**buffer.state_dict(), "more": Malicious(proof)}
        torch.save({"model": model.state_dict(), "buffer": content}, path)
        assert zipfile.is_zipfile(path)
    with pytest.raises(pickle.UnpicklingError):
        load_checkpoint(path, model, buffer)
    assert not proof.exists()
    assert_same(before, everything(model, buffer))
    if how != "pickle":  # the file is as bad as it should be
        torch.load(path, weights_only=False)
        assert proof.exists()


def test_a_checkpoint_of_another_model_is_refused_before_anything_changes(tmp_path):
    save_checkpoint(tmp_path / "checkpoint.pt", *make_fitted())
    model, buffer = make_model(3, seed=1, hidden_sizes=(8,), **SETTINGS), make_buffer(80, spoil=3)
    before = {name: x.clone() for name, x in everything(model, buffer).items()}
    with pytest.raises((ValueError, RuntimeError), match=r"size mismatch|model: got"):
        load_checkpoint(tmp_path / "checkpoint.pt", model, buffer)
    assert_same(before, everything(model, buffer))


def test_a_checkpoint_of_another_buffer_is_refused_before_anything_changes(tmp_path):
    save_checkpoint(tmp_path / "checkpoint.pt", *make_fitted())
    model, buffer = make_model(3, seed=1, **SETTINGS), make_buffer(90)
    before = {name: x.clone() for name, x in everything(model, buffer).items()}
    with pytest.raises(ValueError, match="capacity: got 80 in the state, expected 90"):
        load_checkpoint(tmp_path / "checkpoint.pt", model, buffer)
    assert_same(before, everything(model, buffer))
