"""EnsembleTrainer with too little data, wrong settings, or interrupted."""

from dataclasses import replace

import pytest
import torch
from gymnasium.spaces import Box

from layeredrl.data.replay_buffer import ReplayBuffer
from layeredrl.models.probabilistic_ensemble import ProbabilisticEnsemble
from layeredrl.training.trainer import EnsembleTrainer, TrainerConfig
from layeredrl.types import Batch
from tests.training.linear_system import ACTION, make_buffer, make_model

QUICK = TrainerConfig(learning_rate=1e-2, batch_size=32, max_epochs=6)


def interrupt_after(monkeypatch, n_calls: int) -> None:
    """Ctrl-C in the middle of an epoch."""
    original, calls = ProbabilisticEnsemble.get_example_losses, iter(range(n_calls))

    def losses(model, examples):
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return original(model, examples)

    monkeypatch.setattr(ProbabilisticEnsemble, "get_example_losses", losses)


def test_an_interrupted_fit_keeps_the_best_weights_so_far(monkeypatch):
    original, seen = ProbabilisticEnsemble.get_example_scores, []

    def scores(model, examples):
        seen.append(original(model, examples).loss)
        return original(model, examples)

    monkeypatch.setattr(ProbabilisticEnsemble, "get_example_scores", scores)
    interrupt_after(monkeypatch, 70)
    model, buffer = make_model(), make_buffer()
    with pytest.raises(KeyboardInterrupt):
        EnsembleTrainer(model, replace(QUICK, min_improvement=0.0, max_epochs=100)).fit(buffer)
    assert not model.training
    assert len(seen) > 5
    kept = model.get_member_scores(buffer[:][buffer.is_holdout]).loss
    assert torch.allclose(kept, torch.stack(seen).amin(dim=0), atol=1e-5)


def test_a_fit_interrupted_at_once_keeps_the_weights_from_before(monkeypatch):
    interrupt_after(monkeypatch, 3)
    model = make_model()
    before = {name: x.clone() for name, x in model.members.nets.state_dict().items()}
    with pytest.raises(KeyboardInterrupt):
        EnsembleTrainer(model, QUICK).fit(make_buffer())
    assert not model.training
    assert all(torch.equal(x, before[name]) for name, x in model.members.nets.state_dict().items())


def test_a_later_fit_learns_on():
    model, buffer = make_model(), make_buffer()
    trainer = EnsembleTrainer(model, QUICK)
    first, second = trainer.fit(buffer), trainer.fit(buffer)
    assert bool((second.holdout_loss[0] < first.holdout_loss[0] - 0.3).all())
    assert bool((second.holdout.loss <= first.holdout.loss).all())


def test_without_holdout_members_are_judged_by_their_training_data():
    model, buffer = make_model(), make_buffer(holdout_ratio=0.0)
    report = EnsembleTrainer(model, QUICK).fit(buffer)
    assert (report.n_train, report.n_holdout) == (300, 0)
    assert torch.equal(report.holdout.loss, report.train.loss)
    assert torch.equal(report.holdout.loss, model.get_member_scores(buffer[:]).loss)


def test_a_batch_larger_than_the_data_is_all_data():
    report = EnsembleTrainer(make_model(), replace(QUICK, batch_size=10**6)).fit(make_buffer(50))
    assert bool(report.train_loss.isfinite().all())


def test_a_progress_bar_is_shown_on_request_only(capsys):
    EnsembleTrainer(make_model(), QUICK).fit(make_buffer(50))
    assert capsys.readouterr().err == ""
    EnsembleTrainer(make_model(), QUICK, progress=True).fit(make_buffer(50))
    assert "holdout=" in capsys.readouterr().err


def test_an_empty_buffer_is_refused():
    with pytest.raises(ValueError, match=r"buffer: got 0 transitions, none of them to train on; collect more"):
        EnsembleTrainer(make_model()).fit(make_buffer(0))


def test_a_buffer_with_nothing_held_out_is_refused():
    model = make_model()
    before = {name: x.clone() for name, x in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"buffer: got 3 transitions, none held out at holdout_ratio=0\.01.*=0 to"):
        EnsembleTrainer(model).fit(make_buffer(3, holdout_ratio=0.01))
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())


def test_a_buffer_with_only_held_out_transitions_is_refused():
    with pytest.raises(ValueError, match=r"buffer: got 2 transitions, none of them to train on"):
        EnsembleTrainer(make_model()).fit(make_buffer(2, holdout_ratio=0.99))


@pytest.mark.parametrize("n", [1, 2])
def test_transitions_that_leave_a_member_without_data_are_refused_before_anything_changes(n):
    buffer = make_buffer(n, holdout_ratio=0.0)
    model = make_model(8)
    assert bool((buffer.bootstrap_counts(8).sum(dim=0) == 0).any())
    before = {name: x.clone() for name, x in model.state_dict().items()}
    with pytest.raises(ValueError, match=rf"buffer: got {n} transitions, none for members \["):
        EnsembleTrainer(model, QUICK).fit(buffer)
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())


def test_data_of_other_spaces_are_refused_before_anything_changes(unchecked):
    model = make_model()
    before = {name: x.clone() for name, x in model.state_dict().items()}
    buffer = ReplayBuffer(Box(-1, 1, (3,)), None, ACTION, 50, holdout_ratio=0.0)
    x = torch.randn(50, 3)
    buffer.add(Batch(x, None, torch.zeros(50, 1), x, torch.zeros(50, dtype=torch.bool)))
    with pytest.raises(ValueError, match=r"state: got shape \(50, 3\), expected .*2"):
        EnsembleTrainer(model).fit(buffer)
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())


@pytest.mark.parametrize("n_elites", [0, 4, -1])
def test_a_bad_number_of_elites_is_refused(n_elites):
    with pytest.raises(ValueError, match=rf"config\.n_elites: got {n_elites}, expected a number in 1 … 3"):
        EnsembleTrainer(make_model(3), TrainerConfig(n_elites=n_elites))


@pytest.mark.parametrize("name", ["max_epochs", "batch_size", "patience", "max_grad_norm"])
def test_settings_that_cannot_train_are_refused_by_name(name, unchecked):
    with pytest.raises(ValueError, match=f"{name}: got -1"):
        EnsembleTrainer(make_model(), replace(QUICK, **{name: -1}))
