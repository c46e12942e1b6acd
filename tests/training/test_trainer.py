"""EnsembleTrainer: every member as if it were alone, judged by what it never saw."""

import math
from dataclasses import replace

import pytest
import torch
from einops import rearrange
from torch import Tensor

from layeredrl.data.replay_buffer import ReplayBuffer
from layeredrl.models.ensemble import Ensemble
from layeredrl.models.losses import MemberScores
from layeredrl.training.trainer import EnsembleTrainer, TrainerConfig
from tests.compiler import needs_compiler
from tests.training.linear_system import make_batch, make_buffer, make_model, make_reward_model

QUICK = TrainerConfig(learning_rate=1e-2, batch_size=32, max_epochs=8)
# Every epoch counts as an improvement: the weights kept are the last.
LAST_WEIGHTS = replace(QUICK, patience=10**6, min_improvement=-math.inf, max_epochs=4)


@pytest.fixture(params=[make_model, make_reward_model], ids=["dynamics", "rewards"])
def make(request):
    """What is trained makes no difference to the trainer."""
    return request.param


def make_trainer(model: Ensemble, config: TrainerConfig = QUICK) -> EnsembleTrainer:
    return EnsembleTrainer(model, config, generator=torch.Generator().manual_seed(0))


def weights(model: Ensemble) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.get_member_tensors().items()}


def holdout_loss(model: Ensemble, buffer: ReplayBuffer) -> Tensor:
    return model.get_member_scores(buffer[:][buffer.is_holdout]).loss


def script_scores(monkeypatch, model: Ensemble, losses: list[list[float]]) -> list[dict[str, Tensor]]:
    """Members are judged by what is written here; the weights they had at each judgement."""
    seen: list[dict[str, Tensor]] = []

    def scores(model, examples):
        loss = torch.tensor(losses[min(len(seen), len(losses) - 1)])
        seen.append(weights(model))
        return MemberScores(loss, loss, torch.zeros(len(loss), 2))

    monkeypatch.setattr(type(model), "get_example_scores", scores)
    return seen


def test_a_fit_learns_what_was_never_shown():
    model, buffer = make_model(), make_buffer()
    report = make_trainer(model).fit(buffer)
    assert bool((report.holdout_loss[-1] < report.holdout_loss[0] - 0.5).all())
    fresh = make_model()
    fresh.set_statistics(make_batch(1000, seed=5))
    before, after = (m.get_member_scores(make_batch(1000, seed=5)) for m in (fresh, model))
    assert bool((after.nll < before.nll - 1).all())
    assert bool((after.mse < 0.2 * before.mse).all())
    assert not model.training


def test_the_report_describes_the_weights_that_were_kept(make):
    model, buffer = make(), make_buffer()
    report = make_trainer(model, replace(QUICK, n_elites=2)).fit(buffer)
    n_epochs = len(report.train_loss)
    assert report.holdout_loss.shape == (n_epochs, 3)
    assert torch.equal(report.holdout.loss, holdout_loss(model, buffer))
    training = model.get_member_scores(buffer[:][~buffer.is_holdout])
    assert torch.equal(report.train.nll, training.nll)
    assert torch.equal(report.train.mse, training.mse)
    assert report.n_holdout == int(buffer.is_holdout.sum())
    assert report.n_train == 300 - report.n_holdout
    assert report.seconds > 0


def test_each_member_keeps_its_best_weights_and_its_own_patience(make):
    """A plain loop over members, from the curves in the report. So few data are soon learned by heart."""
    model, buffer = make(4, hidden_sizes=(32, 32)), make_buffer(60)
    start = make(4, hidden_sizes=(32, 32))
    start.set_statistics(buffer[:][~buffer.is_holdout])
    first = holdout_loss(start, buffer)
    config = replace(QUICK, max_epochs=60, patience=4, min_improvement=0.02)
    report = make_trainer(model, config).fit(buffer)
    ends = []
    for member, curve in enumerate(report.holdout_loss.T.tolist()):
        best, best_epoch, epoch = float(first[member]), -1, -1
        while epoch - best_epoch < 4 and epoch + 1 < len(curve):
            epoch += 1
            if curve[epoch] < best - 0.02:
                best, best_epoch = curve[epoch], epoch
        ends.append(epoch)
        assert int(report.best_epoch[member]) == best_epoch
        assert float(report.holdout.loss[member]) == pytest.approx(best, abs=1e-5)
    assert len(report.holdout_loss) == max(ends) + 1 < 60
    assert len(set(report.best_epoch.tolist())) > 1
    assert torch.equal(report.holdout.loss, holdout_loss(model, buffer))


def test_patience_is_per_member(make, monkeypatch):
    losses = [[5.0, 5.0], [4.0, 4.5], [4.0, 4.0], [4.0, 3.0], [1.0, 2.0], [1.0, 2.0], [1.0, 2.0], [0.0, 0.0]]
    model = make(2)
    seen = script_scores(monkeypatch, model, losses)
    report = make_trainer(model, replace(QUICK, max_epochs=50, patience=2)).fit(make_buffer(60))
    # Member 0 had given up before it would have improved again.
    assert report.best_epoch.tolist() == [0, 3]
    assert report.holdout_loss.tolist() == losses[1:7]
    for name, tensor in weights(model).items():
        assert torch.equal(tensor[0], seen[1][name][0])
        assert torch.equal(tensor[1], seen[4][name][1])
        assert not torch.equal(seen[1][name][1], seen[4][name][1])


def test_small_improvements_do_not_count(make, monkeypatch):
    model = make(1)
    seen = script_scores(monkeypatch, model, [[5.0], [4.995], [4.992], [4.98], [4.975], [4.971]])
    report = make_trainer(model, replace(QUICK, patience=2, max_epochs=50)).fit(make_buffer(60))
    assert report.best_epoch.tolist() == [-1]
    assert len(report.train_loss) == 2
    assert all(torch.equal(tensor, seen[0][name]) for name, tensor in weights(model).items())


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_member_whose_loss_is_not_finite_keeps_earlier_weights(make, monkeypatch, bad):
    model = make(2)
    seen = script_scores(monkeypatch, model, [[5.0, 5.0], [4.0, 4.0], [bad, 3.0], [bad, 2.0]])
    make_trainer(model, replace(QUICK, max_epochs=3)).fit(make_buffer(60))
    assert all(torch.equal(tensor[0], seen[1][name][0]) for name, tensor in weights(model).items())


def test_a_member_that_diverges_does_not_stop_the_others(make, monkeypatch):
    model, buffer, n_steps = make(), make_buffer(), iter(range(10**6))
    original = type(model).get_example_losses

    def losses(model, examples):
        if next(n_steps) == 20:
            for tensor in model.get_member_tensors().values():
                tensor[1] = math.nan
        return original(model, examples)

    monkeypatch.setattr(type(model), "get_example_losses", losses)
    report = make_trainer(model, replace(QUICK, n_elites=2)).fit(buffer)
    assert bool(report.holdout_loss[-1, 1].isnan())
    assert bool(report.holdout_loss[:, [0, 2]].isfinite().all())
    assert bool(report.holdout.loss.isfinite().all())
    assert report.best_epoch[1] < report.best_epoch[[0, 2]].min()


@pytest.mark.parametrize(("n_elites", "expected"), [(1, [2]), (2, [1, 2]), (3, [1, 2, 3]), (None, [0, 1, 2, 3])])
def test_elites_are_the_best_on_held_out_data(make, monkeypatch, n_elites, expected):
    model = make(4)
    script_scores(monkeypatch, model, [[9.0, 9.0, 9.0, 9.0], [4.0, 2.0, 1.0, 3.0]])
    report = make_trainer(model, replace(QUICK, max_epochs=1, n_elites=n_elites)).fit(make_buffer(60))
    assert sorted(report.elites.tolist()) == expected
    assert model.elites.tolist() == expected


def test_a_member_that_diverged_is_no_elite(make, monkeypatch):
    model = make(3)
    script_scores(monkeypatch, model, [[9.0, 9.0, 9.0], [4.0, math.nan, 1.0]])
    make_trainer(model, replace(QUICK, max_epochs=1, n_elites=2)).fit(make_buffer(60))
    assert model.elites.tolist() == [0, 2]


def test_an_epoch_shows_each_member_its_own_bootstrap_in_a_new_order(make, monkeypatch):
    model, seen = make(3), []
    original = type(model).get_example_losses
    monkeypatch.setattr(
        type(model), "get_example_losses", lambda m, examples: seen.append(examples.inputs) or original(m, examples)
    )
    # More batches than are gathered at a time.
    buffer, config = make_buffer(100), replace(LAST_WEIGHTS, max_epochs=2, batch_size=8)
    make_trainer(model, config).fit(buffer)
    is_seen = rearrange(torch.cat(seen, dim=1), "e b f -> e b 1 f") == model.make_examples(buffer[:]).inputs
    epochs = is_seen.all(dim=-1).int().argmax(dim=-1).chunk(2, dim=1)
    counts = buffer.bootstrap_counts(3)
    for epoch in epochs:
        assert epoch.shape[1] - 8 < counts.sum(dim=0).max() <= epoch.shape[1]
        for member, order in enumerate(epoch):
            own = order[: counts[:, member].sum()]  # then it begins again, to fill the last batches
            assert torch.equal(own.bincount(minlength=100), counts[:, member])
            assert torch.equal(order[len(own) :], own[: len(order) - len(own)])
    assert not torch.equal(epochs[0], epochs[1])
    assert len(seen) == 2 * math.ceil(counts.sum(dim=0).max() / 8)


def test_fitting_members_together_equals_fitting_each_alone(make, monkeypatch):
    """Against plain torch: one network, its own optimizer, clip_grad_norm_, the whole bootstrap as one batch."""
    buffer = make_buffer(40, holdout_ratio=0.0)
    counts = torch.stack([torch.tensor([1, 0, 3, 0]).roll(member).repeat(10) for member in range(3)], dim=1)
    monkeypatch.setattr(ReplayBuffer, "bootstrap_counts", lambda self, n_models: counts)
    config = replace(LAST_WEIGHTS, batch_size=1000, weight_decay=0.1, max_grad_norm=4.0)
    model = make(3)
    start, norms = weights(model), []
    make_trainer(model, config).fit(buffer)
    for member in range(3):
        alone = make(1)
        for name, tensor in alone.get_member_tensors().items():
            tensor.copy_(start[name][member : member + 1])
        alone.set_statistics(buffer[:])
        optimizer = torch.optim.AdamW(alone.get_parameters(), lr=1e-2, weight_decay=0.1)
        bootstrap = buffer[:][torch.arange(40).repeat_interleave(counts[:, member])]
        for _ in range(config.max_epochs):
            optimizer.zero_grad()
            alone.get_member_losses(bootstrap).backward()
            norms.append(torch.nn.utils.clip_grad_norm_(alone.get_parameters(), 4.0))
            optimizer.step()
        for name, tensor in weights(model).items():
            assert torch.allclose(tensor[member], weights(alone)[name][0], atol=1e-5), name
    assert min(norms) < 4 < max(norms)  # some are clipped, some are not


@pytest.mark.parametrize("compile", [False, pytest.param(True, marks=needs_compiler)])
def test_the_optimizer_is_compiled_as_the_model_is(make, compile):
    (group,) = make_trainer(make(compile=compile)).optimizer.param_groups
    assert group["compile"] == compile


def test_held_out_transitions_influence_neither_weights_nor_statistics(make):
    models = []
    for spoil in (None, "holdout", int((~make_buffer().is_holdout).nonzero()[0])):
        models.append(make())
        make_trainer(models[-1], LAST_WEIGHTS).fit(make_buffer(spoil=spoil))
    clean, other_holdout, _ = (model.state_dict() for model in models)
    assert all(torch.equal(clean[name], other_holdout[name]) for name in clean)
    clean, _, other_training = (weights(model) for model in models)
    assert not any(torch.equal(clean[name], other_training[name]) for name in clean)


def test_statistics_are_those_of_the_training_rows():
    model, buffer = make_model(), make_buffer()
    trainer = make_trainer(model, replace(QUICK, max_epochs=1))
    for rows in (buffer, make_buffer(100)):  # the second fit forgets the first one's
        trainer.fit(rows)
        train = rows[:][~rows.is_holdout]
        inputs, targets = torch.cat([train.state, train.action], dim=1), train.next_state - train.state
        for moments, x in ((model.members.inputs, inputs), (model.members.targets, targets)):
            assert torch.allclose(moments.mean, x.mean(dim=0), atol=1e-5)
            assert torch.allclose(moments.var, x.var(dim=0, correction=0), rtol=1e-5)


def test_the_same_generator_gives_the_same_fit(make):
    models = [make() for _ in range(2)]
    reports = [make_trainer(model).fit(make_buffer()) for model in models]
    assert torch.equal(reports[0].train_loss, reports[1].train_loss)
    assert all(torch.equal(x, weights(models[1])[name]) for name, x in weights(models[0]).items())
