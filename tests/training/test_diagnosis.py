"""Diagnoses of an ensemble, against plain loops and closed forms."""

import math
import statistics
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

from layeredrl.models.probabilistic_ensemble import ProbabilisticEnsemble
from layeredrl.nets.prob_fc_dynamics import ProbFCDynamics
from layeredrl.training.diagnosis import diagnose, disagreement, error_correlation
from tests.training.linear_system import ACTION, STATE, make_batch, make_model


class Constant(nn.Module):
    """Foretells the same change whatever it is asked: two modes with given weights and noise."""

    def __init__(self, *spaces_and_modes, weights=(0.5, 0.5), log_std=(0.0, 0.0)):
        super().__init__()
        self.mean = nn.Parameter(torch.randn(2, 2))
        self.weights, self.log_std = torch.tensor(weights), torch.tensor(log_std)

    def forward(self, state, context, action):
        shape = state.shape[:-1]
        std = self.log_std.exp()[:, None].expand(*shape, 2, 2)
        return (self.mean.expand(*shape, 2, 2), std), self.weights.expand(*shape, 2), torch.zeros(shape)


def make_constant(**settings) -> ProbabilisticEnsemble:
    return ProbabilisticEnsemble(STATE, None, ACTION, partial(Constant, **settings), n_models=3, n_modes=2)


def with_noise_at(log_std: float | torch.Tensor, dim: int = 0):
    """A model whose noise of one dimension is what its last layer wants it to be, and 1 elsewhere."""
    model = make_model(2)
    head = model.members.nets.members.net[-2]
    with torch.no_grad():
        head.weight.zero_()
        head.bias.zero_()
        head.bias[:, 2 + dim] = log_std
    return model


def ranked_correlation(a, b) -> float:
    return statistics.correlation(*([sorted(x).index(value) for value in x] for x in (a.tolist(), b.tolist())))


def test_errors_correlate_as_their_ranks_do():
    error = torch.randn(30, 3, 2) + torch.randn(30, 1, 2)
    error[0] *= 1e6  # one row that would decide Pearson's
    expected = [
        [statistics.mean(ranked_correlation(error[:, i, s], error[:, j, s]) for s in (0, 1)) for j in range(3)]
        for i in range(3)
    ]
    torch.testing.assert_close(error_correlation(error), torch.tensor(expected))


def test_copies_correlate_at_one_whatever_their_errors():
    error = torch.randn(20, 1, 3).expand(20, 4, 3)
    torch.testing.assert_close(error_correlation(error), torch.ones(4, 4))
    assert disagreement(error).tolist() == [0, 0, 0]


def test_dimensions_whose_errors_do_not_vary_do_not_count():
    error = torch.randn(20, 3, 2)
    constant = torch.cat([error, torch.ones(20, 3, 1)], dim=-1)
    torch.testing.assert_close(error_correlation(constant), error_correlation(error))
    assert error_correlation(error[:1]).isnan().all()


def test_independent_errors_do_not_correlate_and_disagree_by_their_own_size():
    error = torch.randn(4000, 5, 2) * torch.tensor([1.0, 100.0])
    others = ~torch.eye(5, dtype=torch.bool)
    assert error_correlation(error)[others].abs().max() < 0.07
    # Median of a chi distribution with 4 degrees of freedom, over that of a normal error.
    expected = math.sqrt(3.3567 / 4) / 0.67449
    torch.testing.assert_close(disagreement(error), torch.full((2,), expected), rtol=0.05, atol=0)


def test_what_nobody_could_foretell_leaves_the_disagreement_alone():
    error = torch.randn(300, 4, 2)
    surprised = error.clone()
    surprised[:5] *= 1e4
    torch.testing.assert_close(disagreement(surprised), disagreement(error), rtol=0.05, atol=0)


def test_a_single_member_neither_disagrees_nor_correlates_with_others():
    diagnosis = diagnose(make_model(1), make_batch(20))
    assert diagnosis.disagreement.tolist() == [0, 0]
    assert math.isnan(diagnosis.mean_correlation)


def test_errors_are_those_of_the_mixture_mean_in_units_of_the_targets():
    model, batch = make_constant(weights=(0.25, 0.75)), make_batch(50)
    model.members.targets.scale.copy_(torch.tensor([2.0, 0.5]))
    mean, *_ = model.predict(batch.state, None, batch.action)
    error = (0.25 * mean[:, :, 0] + 0.75 * mean[:, :, 1] - batch.next_state[:, None]) / torch.tensor([2.0, 0.5])
    diagnosis = diagnose(model, batch)
    torch.testing.assert_close(diagnosis.disagreement, disagreement(error), rtol=1e-3, atol=0)
    torch.testing.assert_close(diagnosis.error_correlation, error_correlation(error), rtol=0, atol=0.01)


@pytest.mark.parametrize("weights", [(0.5, 0.5), (0.9, 0.1), (1.0, 0.0)])
def test_the_entropy_of_mixture_weights_is_in_nats(weights):
    expected = -sum(w * math.log(w) for w in weights if w)
    assert diagnose(make_constant(weights=weights), make_batch(10)).weight_entropy == pytest.approx(expected)


def test_one_mode_has_no_entropy():
    assert diagnose(make_model(2), make_batch(10)).weight_entropy is None


@pytest.mark.parametrize("weights", [(0.6, 0.4), (0.3, 0.7)])
def test_noise_is_that_of_the_likeliest_mode_in_units_of_the_targets(weights):
    model = make_constant(weights=weights, log_std=(-1.0, -3.0))
    model.members.targets.scale.copy_(torch.tensor([10.0, 0.01]))
    diagnosis = diagnose(model, make_batch(10))
    expected = -1.0 if weights[0] > 0.5 else -3.0
    torch.testing.assert_close(diagnosis.log_std, torch.full((10, 3, 2), expected))
    assert diagnosis.at_lower is diagnosis.at_upper is None  # nothing is known of the bounds


@pytest.mark.parametrize(("wanted", "at_lower", "at_upper"), [(-50.0, 1, 0), (-2.0, 0, 0), (50.0, 0, 1)])
def test_noise_that_is_held_by_a_bound_is_counted(wanted, at_lower, at_upper):
    diagnosis = diagnose(with_noise_at(wanted), make_batch(20))
    assert (diagnosis.at_lower.bound, diagnosis.at_upper.bound) == (-5.0, 0.25)
    assert diagnosis.at_lower.share.tolist() == [at_lower, 0]
    assert diagnosis.at_upper.share.tolist() == [at_upper, 0]


def test_a_recalibration_counts_for_misses_but_not_for_the_networks_bounds():
    model, batch = with_noise_at(-50.0), make_batch(100)
    before = diagnose(model, batch)
    assert before.at_lower.missed[0] > 0.5
    model.recalibrate(batch)
    after = diagnose(model, batch)
    assert torch.equal(after.log_std, before.log_std)
    assert after.at_lower.share.tolist() == [1, 0]
    assert after.at_lower.missed[0] < 0.1


def test_misses_are_errors_beyond_two_of_the_standard_deviations_claimed():
    """Both members foretell no change: seven of ten transitions keep to what they claim."""
    std = math.exp(-5)
    change = torch.tensor([0.0, 0.5, -0.5, 1.0, -1.0, 1.5, -1.5, 3.0, -3.0, 100.0]) * std
    batch = make_batch(10)
    batch = replace(batch, state=torch.zeros(10, 2), next_state=torch.stack([change, change], dim=1))
    assert diagnose(with_noise_at(-50.0), batch).at_lower.missed.tolist() == [pytest.approx(0.3), 0.0]
    held_by_one_member = diagnose(with_noise_at(torch.tensor([-50.0, -4.5])), batch).at_lower
    assert held_by_one_member.share.tolist() == [0.5, 0.0]
    assert held_by_one_member.missed.tolist() == [pytest.approx(0.3), 0.0]


def test_a_mode_that_is_right_makes_no_miss():
    def two_modes(*args):
        return ProbFCDynamics(*args, hidden_sizes=())

    model = ProbabilisticEnsemble(STATE, None, ACTION, two_modes, n_models=2, n_modes=2)
    head = model.members.nets.members.net[-2]
    with torch.no_grad():
        head.weight.zero_()
        head.bias.zero_()
        head.bias[:, :4] = torch.tensor([-1.0, -1.0, 1.0, 1.0])  # means of the modes
        head.bias[:, 4:8] = -50.0  # their noise
    batch = make_batch(40)
    batch = replace(batch, next_state=batch.state + torch.where(batch.state[:, :1] > 0, 1.0, -1.0))
    assert diagnose(model, batch).at_lower.missed.tolist() == pytest.approx([0, 0], abs=0.03)


def test_a_member_that_broke_down_does_not_hide_the_others():
    model, batch = make_model(3), make_batch(40)
    expected = diagnose(model, batch).error_correlation[1, 2]
    with torch.no_grad():
        model.members.nets.members.net[-2].bias[0] = torch.nan
    assert diagnose(model, batch).mean_correlation == pytest.approx(float(expected))


def test_what_has_been_learned_is_asked_about_even_while_it_has_no_say():
    model, batch = make_model(2, symmetry_breaking_start=True), make_batch(20)
    learned, given = (model.predict(batch.state, None, batch.action, loss_mode=mode).mean for mode in (True, False))
    assert not torch.equal(learned, given)
    expected = disagreement(learned.squeeze(2) - batch.next_state[:, None])
    torch.testing.assert_close(diagnose(model, batch).disagreement, expected)


def test_asking_changes_nothing_and_nothing_to_ask_about_is_refused():
    model, batch = make_model(2), make_batch(10)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert not diagnose(model, batch).log_std.requires_grad
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    with pytest.raises(ValueError, match="batch: got no transitions"):
        diagnose(model, batch[:0])
