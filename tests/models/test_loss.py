"""The training loss: its value, its weights and masks, and who learns from what."""

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import binary_cross_entropy

from tests.compiler import needs_compiler
from tests.models.ensembles import CONTEXT, make_batch, make_ensemble, make_fixed
from tests.reference.loop_ensemble import LoopEnsemble


def gradients(model, batch) -> list[torch.Tensor]:
    model.zero_grad()
    model.loss(batch).backward()
    return [parameter.grad.clone() for parameter in model.get_parameters()]


@pytest.mark.parametrize(
    ("predict_delta", "compile"), [(True, False), (False, False), pytest.param(True, True, marks=needs_compiler)]
)
def test_loss_is_likelihood_plus_termination_summed_over_members(predict_delta, compile):
    model = make_ensemble(
        n_models=3, n_modes=2, context_space=CONTEXT, predict_delta=predict_delta, compile=compile
    )
    batch = make_batch(40, CONTEXT)
    expected = torch.zeros(())
    log_scale = model.members.targets.var.sqrt().log().sum()
    for e in range(3):
        law, term_prob = LoopEnsemble(model).member_outputs(e, batch.state, batch.context, batch.action)
        nll = -(law.log_prob(batch.next_state) + log_scale)  # in the units of the targets
        expected = expected + nll.mean() + binary_cross_entropy(term_prob, batch.terminated.float())
    torch.testing.assert_close(model.loss(batch), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("term_prob", [0.0, 1.0])
def test_a_member_that_ruled_out_what_happened_has_a_large_but_finite_loss(term_prob):
    model, batch = make_fixed({"offset": [0.0], "std": 1.0, "term_prob": term_prob}), make_batch(8)
    right, wrong = (replace(batch, terminated=torch.full((8,), bool(term_prob) == fits)) for fits in (True, False))
    assert 50 < model.loss(wrong) - model.loss(right) < torch.inf


@pytest.mark.parametrize("n_models", [1, 5])
def test_transitions_of_no_weight_or_masked_out_move_no_gradient(n_models):
    model = make_ensemble(n_models=n_models, weighted_loss=True)
    batch = make_batch(8, weight=torch.tensor([1.0] * 7 + [0.0]))
    garbage = replace(batch, next_state=batch.next_state + 100.0 * (torch.arange(8) == 7).unsqueeze(-1))
    for a, b in zip(gradients(model, batch), gradients(model, garbage), strict=True):
        assert torch.equal(a, b)
    mask = torch.arange(8) < 5
    masked = replace(garbage, weight=torch.ones(8), mask=mask)
    for a, b in zip(
        gradients(model, masked), gradients(model, replace(batch, weight=torch.ones(8))[mask]), strict=True
    ):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("n_models", [1, 5])
def test_doubling_a_weight_doubles_its_part(n_models):
    model = make_ensemble(n_models=n_models, weighted_loss=True)
    batch = make_batch(6)
    ones, only, doubled = torch.ones(6), torch.zeros(6), torch.ones(6)
    only[2], doubled[2] = 1.0, 2.0
    once, part, twice = (gradients(model, replace(batch, weight=w)) for w in (ones, only, doubled))
    for a, b, c in zip(once, part, twice, strict=True):
        torch.testing.assert_close(c, a + b)
        assert b.abs().max() > 0 or a.abs().max() == 0


def test_weights_count_only_in_a_weighted_loss():
    batch = make_batch(6)
    heavy = replace(batch, weight=torch.full((6,), 9.0))
    model = make_ensemble()
    assert torch.equal(model.loss(batch), model.loss(heavy))
    with pytest.raises(ValueError, match=r"batch\.weight: got None"):
        make_ensemble(weighted_loss=True).loss(batch)


@pytest.mark.parametrize("size", [3, 9, 10, 11, 12])
def test_partitioned_members_learn_from_every_eth_transition(size):
    model = make_ensemble(n_models=3, partition_batch=True)
    alone = make_ensemble(n_models=3)
    alone.load_state_dict(model.state_dict())
    batch = make_batch(size, mask=torch.arange(size) != 1)
    losses = model.get_member_losses(batch)
    for e in range(3):
        torch.testing.assert_close(losses[e], alone.get_member_losses(batch[e::3])[e])


def test_fewer_transitions_than_members_leave_some_without_loss():
    losses = make_ensemble(n_models=5, partition_batch=True).get_member_losses(make_batch(2))
    assert (losses[:2] != 0).all()
    assert (losses[2:] == 0).all()


def test_sets_of_their_own_are_for_the_member_of_that_number():
    model = make_ensemble(n_models=2)
    first, second = make_batch(5), make_batch(5)
    both = replace(first, **{n: torch.stack([v, dict(second.items())[n]]) for n, v in first.items()})
    losses = model.get_member_losses(both)
    torch.testing.assert_close(losses[0], model.get_member_losses(first)[0])
    torch.testing.assert_close(losses[1], model.get_member_losses(second)[1])
    with pytest.raises(ValueError, match="batch: got 2 sets of transitions, expected 3"):
        make_ensemble(n_models=3).get_member_losses(both)


def test_loss_changes_nothing():
    model = make_ensemble(n_models=2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.loss(make_batch(10)).backward()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_scores_are_in_state_units():
    model = make_ensemble(n_models=2, n_modes=2)
    batch = make_batch(50)
    scores = model.get_member_scores(batch)
    for e in range(2):
        args = (batch.state, None, batch.action)
        log_prob, _, info = model.get_member_log_prob(e, *args, batch.next_state)
        torch.testing.assert_close(scores.nll[e], -log_prob.mean(), rtol=1e-4, atol=1e-4)
        expected = (info["means"][:, 0] - batch.next_state).square().mean(dim=0)
        torch.testing.assert_close(scores.mse[e], expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(scores.loss, model.get_member_losses(batch))
