"""Forecasts of one step, judged: against the model's own densities, closed forms, and a world that is known."""

import math

import pytest
import torch
from gymnasium.spaces import Box
from scipy.stats import spearmanr

from layeredrl.metrics.calibration import COVERAGE_LEVELS
from layeredrl.metrics.one_step import evaluate_one_step
from layeredrl.types import Batch
from tests.metrics.linear_world import NOISE, linear_model, live
from tests.models.ensembles import ACTION, CONTEXT, DISCRETE, NESTED, make_batch, make_ensemble, make_fixed
from tests.models.rollout_only import RolloutOnly

SPACES = {"box": (None, ACTION), "discrete-in-context": (CONTEXT, DISCRETE), "dict-in-dict": (NESTED, NESTED)}


@pytest.mark.parametrize("spaces", SPACES.values(), ids=SPACES.keys())
def test_the_likelihood_is_that_of_the_model_and_of_each_member(spaces):
    model = make_ensemble(context_space=spaces[0], action_space=spaces[1], n_models=3, n_modes=2)
    batch = make_batch(20, *spaces)
    transition = (batch.state, batch.context, batch.action, batch.next_state)
    quality = evaluate_one_step(model, batch)
    torch.testing.assert_close(quality.ensemble.nll.float(), -model.get_log_prob(*transition)[0].mean())
    each = torch.stack([-model.get_member_log_prob(i, *transition)[0].mean() for i in range(3)])
    torch.testing.assert_close(quality.members.nll.float(), each)


def test_the_likelihood_knows_the_shape_of_calibrated_noise():
    model, batch = make_ensemble(n_models=3, n_modes=2), make_batch(20)
    model.recalibrate(make_batch(200), "isotonic")
    expected = -model.get_log_prob(batch.state, None, batch.action, batch.next_state)[0].mean()
    torch.testing.assert_close(evaluate_one_step(model, batch).ensemble.nll.float(), expected)


def test_errors_are_those_of_the_mean_over_members_and_modes():
    model, batch = make_ensemble(n_models=3, n_modes=2), make_batch(20)
    means = model.get_log_prob(batch.state, None, batch.action, batch.next_state)[2]["means"]
    quality = evaluate_one_step(model, batch)
    each = (means - batch.next_state[:, None]).square().mean(dim=0).sqrt()
    torch.testing.assert_close(quality.members.rmse.float(), each)
    together = (means.mean(dim=1) - batch.next_state).square().mean(dim=0).sqrt()
    torch.testing.assert_close(quality.ensemble.rmse.float(), together)


def test_rows_at_a_time_make_no_difference():
    model, batch = make_ensemble(n_models=2, n_modes=2), make_batch(20)
    few, all_ = (evaluate_one_step(model, batch, max_rows=n).to_json() for n in (7, 4096))
    assert few["n_rows"] == 20
    assert few["ensemble"]["crps"] == pytest.approx(all_["ensemble"]["crps"], rel=1e-5)
    assert few["ensemble"]["std_correlation"] == pytest.approx(all_["ensemble"]["std_correlation"], abs=0.01)
    assert few["members"]["nll"] == pytest.approx(all_["members"]["nll"], rel=1e-5)


def test_spread_splits_into_ignorance_and_noise():
    model = make_fixed({"offset": 0.0, "std": 1.0}, {"offset": 2.0, "std": 3.0})
    quality = evaluate_one_step(model, make_batch(10))
    torch.testing.assert_close(quality.epistemic_std, torch.ones(3).double())
    torch.testing.assert_close(quality.aleatoric_std, torch.full((3,), math.sqrt(5.0)).double())
    torch.testing.assert_close(quality.ensemble.sharpness, torch.full((3,), math.sqrt(6.0)).double())
    torch.testing.assert_close(quality.members.sharpness, torch.tensor([[1.0] * 3, [3.0] * 3]).double())


def test_a_single_member_is_the_ensemble_and_knows_no_ignorance():
    quality = evaluate_one_step(make_ensemble(n_models=1), make_batch(30))
    assert not quality.epistemic_std.any()
    assert not quality.epistemic_correlation.any()
    for name in ("nll", "crps", "calibration_error", "std_correlation"):
        member, ensemble = getattr(quality.members, name), getattr(quality.ensemble, name)
        torch.testing.assert_close(member, ensemble[None], rtol=1e-5, atol=1e-6)


def test_chosen_members_are_an_ensemble_of_their_own():
    model, batch = make_ensemble(n_models=3, n_modes=2), make_batch(20)
    all_, some = (evaluate_one_step(model, batch, members=x) for x in (None, torch.tensor([2, 0])))
    torch.testing.assert_close(some.members.nll, all_.members.nll[[2, 0]])
    transition = (batch.state, None, batch.action, batch.next_state)
    expected = -model.get_log_prob(*transition, members=torch.tensor([0, 2]))[0].mean()
    torch.testing.assert_close(some.ensemble.nll.float(), expected)


def test_where_members_disagree_they_err():
    """Their opinions part with the action; so does the world from both."""
    model = make_fixed({"offset": 0.0, "gain": 1.0, "std": 0.1}, {"offset": 0.0, "gain": 2.0, "std": 0.1})
    state, action = torch.zeros(50, 3), torch.rand(50, 2)
    batch = Batch(state, None, action, 5.0 * action[:, :1].expand(50, 3), torch.zeros(50, dtype=torch.bool))
    quality = evaluate_one_step(model, batch)
    torch.testing.assert_close(quality.epistemic_correlation, torch.ones(3).double())


def test_the_spread_is_ranked_with_the_absolute_error():
    model, batch = make_ensemble(n_models=2), make_batch(30)
    mean, _, std, _ = model.predict(batch.state, None, batch.action)
    error = (mean[:, 1, 0] - batch.next_state).abs().detach()
    expected = [spearmanr(std[:, 1, 0, dim].detach(), error[:, dim]).statistic for dim in range(3)]
    assert evaluate_one_step(model, batch).members.std_correlation[1].tolist() == pytest.approx(expected)


def test_any_model_is_judged():
    ensemble, batch = make_ensemble(n_models=2), make_batch(5)
    expected = evaluate_one_step(ensemble, batch)
    assert evaluate_one_step(RolloutOnly(ensemble), batch).to_json() == expected.to_json()


def test_the_truth_is_calibrated_and_its_scores_are_the_expected_ones():
    quality = evaluate_one_step(linear_model(), live(4000))
    for figures in (quality.ensemble, quality.members):
        levels = torch.tensor(COVERAGE_LEVELS).double().expand_as(figures.coverage)
        torch.testing.assert_close(figures.coverage, levels, atol=0.025, rtol=0)
        assert (figures.calibration_error < 0.015).all()
        # The mean CRPS of a Gaussian about itself is σ / √π, its entropy ½ log(2πe σ²).
        expected = (NOISE / math.sqrt(math.pi)).double().expand_as(figures.crps)
        torch.testing.assert_close(figures.crps, expected, rtol=0.03, atol=0)
        entropy = (0.5 * math.log(2 * math.pi * math.e) + NOISE.log()).double()
        torch.testing.assert_close(figures.marginal_nll, entropy.expand_as(figures.crps), rtol=0, atol=0.05)
        torch.testing.assert_close(figures.nll, entropy.sum().expand_as(figures.nll), rtol=0, atol=0.07)
        torch.testing.assert_close(figures.rmse, NOISE.double().expand_as(figures.rmse), rtol=0.04, atol=0)


@pytest.mark.parametrize(("factor", "sign"), [(0.5, -1), (2.0, 1)])
def test_forecasts_too_narrow_cover_too_little_and_too_wide_ones_too_much(factor, sign):
    figures = evaluate_one_step(linear_model(factor=factor), live(1000)).ensemble
    assert (sign * (figures.coverage - torch.tensor(COVERAGE_LEVELS)) > 0).all()
    assert (figures.calibration_error > 0.1).all()
    ends = figures.pit_histogram[:, [0, -1]].sum(dim=1)
    assert (sign * (0.2 - ends) > 0.1).all()


BATCH = make_batch(4)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (BATCH[:0], r"batch: got leading dims \(0,\), expected \(B,\) with at least one transition"),
        (BATCH.map(lambda x: x[None]), r"batch: got leading dims \(1, 4\)"),
        (make_batch(4, action_space=Box(-1, 1, (3,))), r"batch\.action: got shape \(4, 3\), expected \(…, 2\)"),
        (make_batch(4, CONTEXT), r"batch\.context: got a Tensor, expected None"),
        (
            Batch(BATCH.state, None, BATCH.action, BATCH.next_state / 0, BATCH.terminated),
            r"batch\.next_state: got -?inf at index \(0, 0\), expected finite values",
        ),
        (
            Batch(BATCH.state[:, :2], None, BATCH.action, BATCH.next_state[:, :2], BATCH.terminated),
            r"batch\.state: got shape \(4, 2\), expected \(…, 3\)",
        ),
    ],
)
def test_bad_input_is_named(batch, message, unchecked):
    with pytest.raises(ValueError, match=message):
        evaluate_one_step(make_ensemble(), batch)


def test_a_number_of_rows_below_one_is_refused():
    with pytest.raises(ValueError, match="max_rows: got 0, expected at least 1"):
        evaluate_one_step(make_ensemble(), BATCH, max_rows=0)


def test_a_model_that_forecasts_no_number_is_refused():
    model = make_ensemble()
    with torch.no_grad():
        next(model.get_parameters()).fill_(torch.nan)
    with pytest.raises(ValueError, match=r"Marginals\.mean: got nan"):
        evaluate_one_step(model, BATCH)


def test_the_model_is_left_as_it_was():
    model, batch = make_ensemble(n_models=2), make_batch(5)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    quality = evaluate_one_step(model, batch)
    assert not quality.ensemble.nll.requires_grad
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
