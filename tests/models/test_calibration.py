"""What recalibration is for: intervals of held-out data hold what they promise, and nothing is explained worse."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from layeredrl.models.calibration import HeldOut, fit_quantiles, fit_temperature
from layeredrl.models.noise_shape import KNOTS, NoiseShape
from tests.models.calibrating import (
    calibration_error,
    disagreeing,
    exponential,
    laplace,
    nll,
    normal,
    student_t,
    transitions,
)

AGREEING, DISAGREEING = (0.0,), (-0.3, 0.1, 0.3)


@pytest.mark.parametrize("offsets", [AGREEING, DISAGREEING], ids=["one member", "members that disagree"])
@pytest.mark.parametrize(
    ("method", "noise", "std"),
    [
        ("temperature", normal, 0.4),
        ("temperature", normal, 2.5),
        ("temperature", laplace, 2.5),
        ("isotonic", normal, 0.4),
        ("isotonic", normal, 2.5),
        ("isotonic", student_t, 1.0),
        ("isotonic", student_t, 0.5),
        ("isotonic", laplace, 1.0),
        ("isotonic", laplace, 2.0),
        ("isotonic", exponential, 1.5),
        ("pooled", normal, 0.4),
        ("pooled", normal, 2.5),
        ("pooled", laplace, 2.5),
    ],
)
def test_on_other_data_calibration_errors_halve_and_likelihoods_do_not_fall(method, noise, std, offsets):
    torch.manual_seed(0)
    model = disagreeing(std, offsets)
    judged = transitions(noise(1000))
    error, loss = calibration_error(model, judged), nll(model, judged)
    model.recalibrate(transitions(noise(1000)), method)
    assert calibration_error(model, judged) < 0.5 * error
    assert nll(model, judged) < loss


@pytest.mark.parametrize(("method", "cost"), [("temperature", 0.01), ("isotonic", 0.05), ("pooled", 0.01)])
def test_what_is_calibrated_stays_as_it_is_but_for_chance(method, cost):
    torch.manual_seed(1)
    model = disagreeing(1.0)
    judged = transitions(normal(3000))
    loss = nll(model, judged)
    model.recalibrate(transitions(normal(1000)), method)
    assert nll(model, judged) < loss + cost
    assert calibration_error(model, judged) < 0.03


def test_the_temperature_of_one_gaussian_is_the_root_mean_square_of_its_scores():
    """With one more row that is as far off as foretold."""
    model = disagreeing(0.5)
    noise = torch.tensor([1.0, 10.0, 0.1]) * normal(2000)
    model.recalibrate(transitions(noise))
    expected = ((noise.square().sum(dim=0) + 0.5**2) / 2001).sqrt()
    std = model.predict(torch.zeros(1, 3), None, torch.zeros(1, 2)).std[0, 0, 0]
    torch.testing.assert_close(std, expected)


def test_disagreement_counts_as_a_part_of_the_spread():
    """Members a unit apart explain a variance of 1 + 1 with a noise of 1, whatever they said of it."""
    torch.manual_seed(2)
    signs = 2.0 * torch.randint(2, (20_000, 3)) - 1.0
    model = disagreeing(0.3, (-1.0, 1.0))
    model.recalibrate(transitions(signs + normal(20_000)))
    std = model.predict(torch.zeros(1, 3), None, torch.zeros(1, 2)).std
    torch.testing.assert_close(std, torch.ones_like(std), rtol=0.03, atol=0.0)


def test_skewed_noise_keeps_its_mean_and_its_bounds():
    torch.manual_seed(3)
    model = disagreeing(1.0)
    model.recalibrate(transitions(exponential(5000)), "isotonic")
    state, action = torch.zeros(20_000, 3), torch.zeros(20_000, 2)
    mean, _, std, _ = model.predict(state[:1], None, action[:1])
    torch.testing.assert_close(mean, torch.zeros_like(mean), rtol=0.0, atol=0.05)
    torch.testing.assert_close(std, torch.ones_like(std), rtol=0.06, atol=0.0)
    samples = model.sample(state, None, action)
    assert (samples < -1.3).float().mean() < 0.01  # a Gaussian has 10 % there
    assert (samples > 3).float().mean().item() == pytest.approx(0.018, abs=0.006)  # and 0.1 % there


def test_isotonic_takes_off_what_predictions_are_off_by_throughout():
    torch.manual_seed(8)
    model = disagreeing(0.5, (-0.1, 0.1))
    model.recalibrate(transitions(normal(3000) + 2.0), "isotonic")
    mean = model.predict(torch.zeros(1, 3), None, torch.zeros(1, 2)).mean.mean(dim=(0, 1, 2))
    torch.testing.assert_close(mean, torch.full((3,), 2.0), rtol=0.0, atol=0.1)


def mixture(score, log_std, weight):
    return HeldOut(*(torch.as_tensor(x, dtype=torch.float64) for x in (score, log_std, weight, 0 * log_std)))


def marginal_log_prob(held_out, values):
    """By torch.distributions, row by row, of g(z) with the given values at the knots, in one dimension."""
    pieces = [
        torch.distributions.AffineTransform(float(low - (high - low) / (b - a) * a), float((high - low) / (b - a)))
        for a, b, low, high in zip(KNOTS, KNOTS[1:], values, values[1:], strict=False)
    ]
    total = 0.0
    for scores, log_stds, weights in zip(*held_out[:3], strict=True):
        density = 0.0
        for x, log_std, weight in zip(scores[:, 0], log_stds[:, 0], weights, strict=True):
            piece = pieces[int((x > values[1:-1]).sum())]
            law = torch.distributions.TransformedDistribution(torch.distributions.Normal(0.0, 1.0), [piece])
            density += float(weight) * float((law.log_prob(x) - log_std).exp())
        total += torch.tensor(density, dtype=torch.float64).log().item()
    return total


@settings(max_examples=15)
@given(st.integers(0, 2**31), st.floats(0.1, 10.0), st.floats(0.0, 3.0))
def test_data_that_is_fitted_to_is_never_explained_worse(seed, scale, disagreement):
    """By either method, however members disagree: shapes no worse than temperatures, these no worse than none."""
    torch.manual_seed(seed)
    means = disagreement * torch.randn(25, 3, 1)
    held_out = mixture(scale * torch.randn(25, 1, 1) - means, torch.randn(25, 3, 1), torch.rand(25, 3).softmax(1))
    temperature = fit_temperature(held_out)
    shape = fit_quantiles(held_out, temperature)
    none, some, all_of_it = (
        marginal_log_prob(held_out, values) for values in (KNOTS, temperature * KNOTS, shape.squeeze(0))
    )
    assert some >= none - 1e-6
    assert all_of_it >= some - 1e-6


def test_tails_are_the_likeliest():
    """Longer ones and shorter ones, on either side, explain heavy-tailed scores worse."""
    torch.manual_seed(9)
    score = torch.cat([student_t(20_000)[:, :1], laplace(20_000)[:, :1]], dim=1).double()
    held_out = mixture(score.unsqueeze(1), torch.zeros(20_000, 1, 2), torch.ones(20_000, 1))
    values = fit_quantiles(held_out, fit_temperature(held_out))
    best = NoiseShape(values).log_prob(score).mean(dim=0)
    for end, inner in ((0, 1), (-1, -2)):
        for factor in (0.8, 1.25):
            other = values.clone()
            other[:, end] = values[:, inner] + factor * (values[:, end] - values[:, inner])
            assert (NoiseShape(other).log_prob(score).mean(dim=0) < best).all()


@pytest.mark.parametrize("method", ["temperature", "isotonic", "pooled"])
def test_dimensions_that_never_change_keep_a_law(method):
    torch.manual_seed(4)
    noise = normal(200)
    noise[:, 1] = 0.0
    model = disagreeing(1e-6)
    batch = transitions(noise)
    model.recalibrate(batch, method)
    std = model.predict(batch.state, None, batch.action).std
    assert (std > 0).all()
    assert (std[..., 1] < 1e-6).all()
    log_prob = model.get_log_prob(batch.state, None, batch.action, batch.next_state + 1.0)[0]
    assert log_prob.isfinite().all()
    assert model.sample(batch.state, None, batch.action).isfinite().all()
    assert (model.calibration.shape.diff(dim=1) > 0).all()


def test_one_row_or_rows_that_are_all_alike_make_no_spikes():
    model = disagreeing(1.0)
    model.recalibrate(transitions(torch.zeros(1, 3)))
    assert (model.predict(torch.zeros(1, 3), None, torch.zeros(1, 2)).std > 0.5).all()
    model.recalibrate(transitions(torch.ones(100_000, 3)), "isotonic")
    assert (model.calibration.shape.diff(dim=1) > 0).all()
    state, action = torch.zeros(1, 3), torch.zeros(1, 2)
    assert model.get_log_prob(state, None, action, state)[0].isfinite()
