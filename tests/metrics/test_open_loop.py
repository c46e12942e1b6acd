"""Forecasts over a horizon, judged: against one step, the model's own rollouts, and a world that is known."""

import math

import pytest
import torch
from gymnasium.spaces import Box

from layeredrl.metrics.calibration import COVERAGE_LEVELS
from layeredrl.metrics.one_step import evaluate_one_step
from layeredrl.metrics.open_loop import evaluate_open_loop
from layeredrl.metrics.segments import Segments, cut_segments
from tests.live_bytes import LiveBytes
from tests.metrics.figures import assert_same_figures, figures
from tests.metrics.linear_world import NOISE, linear_model, live, noise_after
from tests.models.ensembles import (
    ACTION,
    CONTEXT,
    DISCRETE,
    NESTED,
    STATE,
    draw,
    make_batch,
    make_ensemble,
    make_fixed,
)
from tests.models.rollout_only import RolloutOnly

SPACES = {"box": (None, ACTION), "discrete-in-context": (CONTEXT, DISCRETE), "dict-in-dict": (NESTED, NESTED)}


def seeded():
    return torch.Generator().manual_seed(7)


def make_segments(n=6, horizon=3, context_space=None, action_space=ACTION):
    return Segments(draw(STATE, n, horizon + 1), draw(context_space, n), draw(action_space, n, horizon))


@pytest.mark.parametrize("spaces", SPACES.values(), ids=SPACES.keys())
def test_a_horizon_of_one_is_one_step(spaces):
    """With one mode, all particles of a member stand for the same law."""
    model = make_ensemble(context_space=spaces[0], action_space=spaces[1], n_models=3)
    batch = make_batch(20, *spaces)
    got = figures(evaluate_open_loop(model, cut_segments(batch, horizon=1)))
    one_step = figures(evaluate_one_step(model, batch))
    assert_same_figures(got, {name: value[None] for name, value in one_step.items()})


def test_figures_are_of_the_mixture_over_particles_that_a_rollout_gives():
    model = make_ensemble(n_models=3, n_modes=2, n_particles_per_model=4)
    segments = make_segments()
    quality = evaluate_open_loop(model, segments, n_particles=4, generator=seeded())
    rollout = model.rollout(segments.state[:, 0], None, segments.action, generator=seeded())
    for got, part in ((quality.epistemic_std, "epistemic"), (quality.aleatoric_std, "aleatoric")):
        expected = getattr(rollout, f"state_{part}_var")[:, 1:].mean(dim=0).sqrt()
        torch.testing.assert_close(got.float(), expected, rtol=1e-4, atol=1e-5)
    errors = rollout.state_mean[:, :, 1:] - segments.state[:, None, 1:]
    each = errors.square().mean(dim=0).sqrt()
    torch.testing.assert_close(quality.members.rmse.float(), each.transpose(0, 1), rtol=1e-4, atol=1e-5)
    together = errors.mean(dim=1).square().mean(dim=0).sqrt()
    torch.testing.assert_close(quality.ensemble.rmse.float(), together, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("spaces", SPACES.values(), ids=SPACES.keys())
def test_rows_at_a_time_make_no_difference(spaces):
    model = make_ensemble(context_space=spaces[0], action_space=spaces[1], n_models=2, n_modes=2)
    segments = make_segments(7, 3, *spaces)
    few, all_ = (
        figures(evaluate_open_loop(model, segments, n_particles=3, max_rows=n, generator=seeded()))
        for n in (6, 4096)
    )
    assert_same_figures(few, all_)


def test_any_model_is_judged():
    ensemble, segments = make_ensemble(n_models=2, n_particles_per_model=2), make_segments()
    got, expected = (
        figures(evaluate_open_loop(model, segments, n_particles=4, generator=seeded()))
        for model in (RolloutOnly(ensemble), ensemble)
    )
    assert_same_figures(got, expected)


def test_chosen_members_are_an_ensemble_of_their_own():
    model, segments = make_ensemble(n_models=3), make_segments()
    all_, some = (
        evaluate_open_loop(model, segments, members=x, generator=seeded()) for x in (None, torch.tensor([2, 0]))
    )
    torch.testing.assert_close(some.members.nll, all_.members.nll[:, [2, 0]])


def test_a_single_member_knows_no_ignorance():
    quality = evaluate_open_loop(make_ensemble(n_models=1), make_segments())
    assert not quality.epistemic_std.any()
    assert not quality.epistemic_correlation.any()


def test_members_that_part_grow_ignorant_in_step():
    """Offsets of ±1 at every step are h apart from their mean after h steps."""
    model = make_fixed({"offset": -1.0, "std": 0.1}, {"offset": 1.0, "std": 0.1})
    quality = evaluate_open_loop(model, make_segments(horizon=3))
    expected = torch.arange(1.0, 4.0).double()[:, None].expand(3, 3)
    torch.testing.assert_close(quality.epistemic_std, expected, rtol=1e-4, atol=0)


def test_the_variance_explained_is_that_of_the_change_since_the_start():
    """A model that expects no change explains none of it."""
    model, segments = make_fixed({"offset": 0.0, "std": 1e-3}), make_segments(50)
    explained = evaluate_open_loop(model, segments).ensemble.explained_variance
    torch.testing.assert_close(explained, torch.zeros(3, 3).double(), atol=1e-2, rtol=0)


def test_the_truth_is_calibrated_at_every_step_and_its_scores_are_the_expected_ones():
    quality = evaluate_open_loop(
        linear_model(n_particles_per_model=3),
        cut_segments(live(4000), horizon=4),
        n_particles=24,
        generator=seeded(),
    )
    std = torch.stack([noise_after(h) for h in range(1, 5)]).double()
    levels = torch.tensor(COVERAGE_LEVELS).double()
    ensemble = quality.ensemble
    torch.testing.assert_close(ensemble.coverage, levels.expand_as(ensemble.coverage), atol=0.05, rtol=0)
    assert (ensemble.calibration_error < 0.03).all()
    torch.testing.assert_close(ensemble.sharpness, std, rtol=0.03, atol=0)
    torch.testing.assert_close(ensemble.crps, std / math.sqrt(math.pi), rtol=0.06, atol=0)
    torch.testing.assert_close(ensemble.rmse, std, rtol=0.06, atol=0)
    torch.testing.assert_close(quality.aleatoric_std, std, rtol=0.03, atol=0)
    assert (quality.epistemic_std < 1e-6).all()


def test_more_particles_make_the_truth_look_less_overconfident():
    """Where earlier noise is all there is, variances are (n − 1) / (n + 1) of those of the errors."""
    segments, last = cut_segments(live(4000), horizon=4), -1
    excess = []
    for n in (2, 16):
        figures_ = evaluate_open_loop(
            linear_model(n_models=1), segments, n_particles=n, generator=seeded()
        ).ensemble
        variance, error = figures_.sharpness[last].square(), figures_.rmse[last].square()
        earlier = noise_after(4).square().double() - NOISE.square()
        torch.testing.assert_close(error - variance, 2 / n * earlier, atol=0.06 * float(earlier.max()), rtol=0)
        excess.append((error / variance).max())
    assert excess[1] < excess[0]


@pytest.mark.parametrize("factor", [1e20, 3e38])
def test_diverging_forecasts_give_huge_but_finite_figures(factor):
    """Variances overflow; so do, with the larger noise, states, whose differences are no numbers."""
    model = linear_model(factor=factor, n_models=2)
    quality = evaluate_open_loop(model, cut_segments(live(40), horizon=4))
    assert all(value.isfinite().all() for value in figures(quality).values())


def test_a_generator_makes_figures_reproducible():
    model, segments = make_ensemble(n_models=2), make_segments()
    first, second = (evaluate_open_loop(model, segments, generator=seeded()).to_json() for _ in range(2))
    assert first == second


def test_steps_are_forgotten_once_they_are_judged():
    """Five times the horizon takes hardly more memory than once."""
    model, peaks = make_ensemble(n_models=3), []
    for horizon in (2, 10):
        segments = make_segments(32, horizon)
        with LiveBytes() as live_bytes:
            evaluate_open_loop(model, segments, max_rows=64)
        peaks.append(live_bytes.peak)
    assert peaks[1] < 1.5 * peaks[0]


SEGMENTS = make_segments(4, 2)


@pytest.mark.parametrize(
    ("segments", "settings", "message"),
    [
        (make_segments(0), {}, "segments: got no windows, expected at least one"),
        (
            make_segments(4, 2, action_space=Box(-1, 1, (1,))),
            {},
            r"segments\.action: got shape \(4, 2, 1\), expected \(…, 2",
        ),
        (make_segments(4, 2, CONTEXT), {}, r"segments\.context: got a Tensor, expected None"),
        (
            Segments(SEGMENTS.state[..., :2], None, SEGMENTS.action),
            {},
            r"segments\.state: got shape \(4, 3, 2\), expected \(…, 3\)",
        ),
        (
            Segments(SEGMENTS.state / 0, None, SEGMENTS.action),
            {},
            r"segments\.state: got -?inf at index \(0, 0, 0\), expected finite values",
        ),
        (SEGMENTS, {"n_particles": 1}, "n_particles: got 1, expected at least 2, to show how noise spreads"),
        (SEGMENTS, {"max_rows": 0}, "max_rows: got 0, expected at least 1"),
    ],
)
def test_bad_input_is_named(segments, settings, message, unchecked):
    with pytest.raises((ValueError, TypeError), match=message):
        evaluate_open_loop(make_ensemble(), segments, **settings)
