"""Queries of a recalibrated ensemble speak of one and the same law, and training of the networks alone."""

import pytest
import torch
from gymnasium.spaces import Box

from layeredrl.models.probabilistic_ensemble import ProbabilisticEnsemble
from layeredrl.types import Batch
from tests.models.calibrating import disagreeing, exponential, laplace, transitions
from tests.models.ensembles import ACTION, CONTEXT, Fixed, draw, make_batch, make_ensemble, query

METHODS = ["temperature", "isotonic", "pooled"]
LINE = Box(-torch.inf, torch.inf, (1,))


def along_a_line(method) -> ProbabilisticEnsemble:
    """Two members of two modes each, fitted to skewed noise, that expect steps in one dimension."""
    nets = iter(
        [
            Fixed(offset=[-0.5, 0.2], std=[[0.5], [0.6]], weights=[0.3, 0.7]),
            Fixed(offset=[0.0, 0.4], std=[[0.8], [0.3]], weights=[0.8, 0.2]),
        ]
    )
    model = ProbabilisticEnsemble(
        LINE, None, ACTION, lambda *_: next(nets), 2, 2, 3, normalize_targets=False, normalize_inputs=False
    )
    state = torch.randn(1000, 1)
    noise = 1.5 * torch.empty(1000, 1).exponential_() - 1.5
    model.recalibrate(
        Batch(state, None, draw(ACTION, 1000), state + noise, torch.zeros(1000, dtype=torch.bool)), method
    )
    return model


def fitted(method, **settings):
    """A usual ensemble whose noise was wrong."""
    model = make_ensemble(n_models=3, n_modes=2, n_particles_per_model=2, create_optimizer=True, **settings)
    model.recalibrate(make_batch(300, context_space=model.context_space), method)
    return model


@pytest.mark.parametrize("method", METHODS)
def test_the_density_integrates_to_one_and_samples_follow_it(method):
    torch.manual_seed(0)
    model = along_a_line(method)
    x = torch.linspace(-12, 12, 200_001).unsqueeze(1)
    state, action = torch.zeros_like(x), torch.zeros(len(x), 2)
    density = model.get_log_prob(state, None, action, x)[0].exp()
    cdf = torch.cumulative_trapezoid(density.double(), x.squeeze(1).double())
    assert cdf[-1].item() == pytest.approx(1.0, abs=1e-4)
    samples = model.sample(torch.zeros(40_000, 1), None, torch.zeros(40_000, 2)).squeeze(1)
    edges = torch.arange(-3.0, 4.0, 0.25)
    shares = (samples.unsqueeze(1) <= edges).float().mean(dim=0)
    expected = cdf[torch.searchsorted(x.squeeze(1), edges) - 1].float()
    torch.testing.assert_close(shares, expected, rtol=0.0, atol=0.01)


@pytest.mark.parametrize("method", METHODS)
def test_predicted_moments_are_those_of_samples(method):
    torch.manual_seed(1)
    model = along_a_line(method)
    state, action = torch.zeros(100_000, 1), torch.zeros(100_000, 2)
    samples = model.sample(state, None, action)
    mean, weights, std, _ = model.predict(state[:1], None, action[:1])
    weights = weights[0].unsqueeze(-1) / 2
    expected_mean = (weights * mean[0]).sum()
    expected_var = (weights * (std[0] ** 2 + (mean[0] - expected_mean) ** 2)).sum()
    torch.testing.assert_close(samples.mean(), expected_mean, rtol=0.0, atol=0.02)
    torch.testing.assert_close(samples.var(), expected_var, rtol=0.04, atol=0.0)


@pytest.mark.parametrize("method", ["isotonic", "pooled"])
@pytest.mark.parametrize("propagation", ["ts_inf", "ts1"])
def test_particles_follow_the_law_of_their_member(propagation, method):
    torch.manual_seed(2)
    model = along_a_line(method)
    start = torch.zeros(20_000, 1)
    rollout = model.rollout(start, None, torch.zeros(20_000, 1, 2), propagation=propagation)
    levels = torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95])
    for e in range(2):
        mean, weights, std, _ = model.predict(start[:1], None, torch.zeros(1, 2), members=torch.tensor([e]))
        means = model.get_member_log_prob(e, start[:1], None, torch.zeros(1, 2), start[:1])[2]["means"]
        torch.testing.assert_close(rollout.step_mean[0, e, 0, 0], means[0, 0])
        var = (weights[0, 0].unsqueeze(-1) * (std[0, 0] ** 2 + (mean[0, 0] - means[0, 0]) ** 2)).sum(dim=0)
        torch.testing.assert_close(rollout.step_var[0, e, 0, 0], var)
        if propagation == "ts_inf":
            moved = rollout.state[:, e, :, 1].flatten()
            torch.testing.assert_close(moved.mean(), means[0, 0, 0], rtol=0.0, atol=0.03)
            torch.testing.assert_close(moved.var(), var[0], rtol=0.05, atol=0.0)
    samples = model.sample(torch.zeros(40_000, 1), None, torch.zeros(40_000, 2)).flatten()
    moved = rollout.state[:, :, :, 1].flatten()
    torch.testing.assert_close(moved.quantile(levels), samples.quantile(levels), rtol=0.0, atol=0.05)


@pytest.mark.parametrize("method", ["isotonic", "pooled"])
def test_moment_matching_and_means_speak_of_calibrated_moments(method):
    torch.manual_seed(3)
    model = along_a_line(method)
    start, actions = torch.zeros(5000, 1), torch.zeros(5000, 1, 2)
    samples = model.sample(torch.zeros(40_000, 1), None, torch.zeros(40_000, 2))
    matched = model.rollout(start, None, actions, propagation="moment_matching").state[:, :, :, 1]
    torch.testing.assert_close(matched.var(), samples.var(), rtol=0.05, atol=0.0)
    expected = model.rollout(start[:1], None, actions[:1], propagation="expectation").state[0, 0, 0, 1]
    torch.testing.assert_close(expected, samples.mean(dim=0), rtol=0.0, atol=0.02)


@pytest.mark.parametrize("method", ["temperature", "isotonic"])
def test_a_temperature_or_shape_scales_spread_and_leaves_weights_and_ends(method):
    torch.manual_seed(4)
    model = make_ensemble(n_models=3, n_modes=2)
    inputs = query(model, 5)
    raw = model.predict(*inputs)
    model.recalibrate(make_batch(300), method)
    calibrated = model.predict(*inputs)
    factor, shift = calibrated.std / raw.std, (calibrated.mean - raw.mean) / raw.std
    torch.testing.assert_close(factor, factor[:1, :1, :1].expand_as(factor))
    torch.testing.assert_close(shift, shift[:1, :1, :1].expand_as(shift), rtol=1e-3, atol=1e-3)
    assert torch.equal(raw.weights, calibrated.weights)
    assert torch.equal(raw.term_prob, calibrated.term_prob)
    if method == "temperature":
        assert torch.equal(raw.mean, calibrated.mean)


@pytest.mark.parametrize("method", METHODS)
def test_until_it_is_fitted_and_once_it_is_reset_nothing_changes(method):
    torch.manual_seed(5)
    model = make_ensemble(n_models=2, n_modes=2, context_space=CONTEXT)
    inputs, next_state = query(model, 6), torch.randn(6, 3)

    def answers():
        generator = torch.Generator().manual_seed(0)
        return [
            *model.predict(*inputs),
            model.sample(*inputs, generator=generator),
            model.get_log_prob(*inputs, next_state)[0],
            model.rollout(*inputs[:2], inputs[2].unsqueeze(1), generator=generator).state,
        ]

    before = answers()
    model.recalibrate(make_batch(100, CONTEXT), method)
    assert not any(
        torch.equal(a, b) for a, b in zip(before[2:3] + before[4:], answers()[2:3] + answers()[4:], strict=True)
    )
    model.reset_calibration()
    assert all(torch.equal(a, b) for a, b in zip(before, answers(), strict=True))


@pytest.mark.parametrize("method", METHODS)
def test_losses_and_scores_speak_of_the_networks_alone(method):
    torch.manual_seed(6)
    model = make_ensemble(n_models=2)
    batch = make_batch(50)
    loss, scores = model.get_member_losses(batch), model.get_member_scores(batch)
    model.recalibrate(make_batch(100), method)
    assert torch.equal(model.get_member_losses(batch), loss)
    assert all(torch.equal(a, b) for a, b in zip(model.get_member_scores(batch), scores, strict=True))


@pytest.mark.parametrize("method", METHODS)
def test_training_ends_it(method):
    for train in (lambda model: model.learn([make_batch(20)]), lambda model: model.set_statistics(make_batch(20))):
        model = fitted(method)
        train(model)
        inputs = query(model, 4)
        got = model.predict(*inputs)
        model.reset_calibration()
        assert all(torch.equal(a, b) for a, b in zip(got, model.predict(*inputs), strict=True))


@pytest.mark.parametrize("method", METHODS)
def test_it_is_kept_in_the_state_dict(method):
    model = fitted(method)
    other = make_ensemble(n_models=3, n_modes=2)
    other.load_state_dict(model.state_dict())
    inputs, next_state = query(model, 4), torch.randn(4, 3)
    assert torch.equal(other.get_log_prob(*inputs, next_state)[0], model.get_log_prob(*inputs, next_state)[0])
    generators = (torch.Generator().manual_seed(3) for _ in range(2))
    samples = [
        m.sample(*inputs, generator=generator) for m, generator in zip((model, other), generators, strict=True)
    ]
    assert torch.equal(*samples)


@pytest.mark.parametrize("method", METHODS)
def test_a_given_std_bypasses_it(method):
    """All but the mean, which is the one that `predict` gives."""
    model = fitted(method)
    inputs, next_state = query(model, 5), torch.randn(5, 3)
    mean, weights, std, _ = model.predict(*inputs, std=0.7)
    assert (std == 0.7).all()
    laws = torch.distributions.Independent(torch.distributions.Normal(mean, std), 1)
    expected = torch.logsumexp(laws.log_prob(next_state[:, None, None]) + (weights / 3).log(), dim=(1, 2))
    torch.testing.assert_close(model.get_log_prob(*inputs, next_state, std=0.7)[0], expected)


@pytest.mark.parametrize("distance", [1e3, 1e10, -1e30])
def test_log_prob_stays_finite_in_the_tail(distance):
    model = disagreeing(0.1, (-1.0, 1.0))
    model.recalibrate(transitions(exponential(200)), "isotonic")
    next_state = torch.full((2, 3), distance, requires_grad=True)
    log_prob, _, _ = model.get_log_prob(torch.zeros(2, 3), None, torch.zeros(2, 2), next_state)
    log_prob.sum().backward()
    assert log_prob.isfinite().all()
    assert (log_prob < -1e3).all()
    assert next_state.grad.isfinite().all()


@pytest.mark.parametrize("method", METHODS)
def test_gradients_flow_to_actions_and_states(method):
    model = fitted(method)
    state, actions = draw(model.state_space, 4).requires_grad_(), draw(ACTION, 4, 3).requires_grad_()
    model.rollout(state, None, actions).state[..., -1, :].sum().backward()
    assert (state.grad != 0).any()
    assert (actions.grad != 0).any()


def test_the_random_start_is_not_calibrated_and_fades_into_calibrated_moments():
    torch.manual_seed(7)
    model = fitted("isotonic", symmetry_breaking_start=True, sb_start_duration=100)
    inputs, next_state = query(model, 5), torch.randn(5, 3)
    learned = model.predict(*inputs, loss_mode=True)
    assert (model.predict(*inputs).std == 0.3).all()
    model.set_n_total_env_steps(75)
    mean, weights, std, _ = model.predict(*inputs)
    torch.testing.assert_close(std, 0.5 * 0.3 + 0.5 * learned.std)
    laws = torch.distributions.Independent(torch.distributions.Normal(mean, std), 1)
    expected = torch.logsumexp(laws.log_prob(next_state[:, None, None]) + (weights / 3).log(), dim=(1, 2))
    torch.testing.assert_close(model.get_log_prob(*inputs, next_state)[0], expected)
    model.set_n_total_env_steps(100)
    assert torch.equal(model.predict(*inputs).std, learned.std)


def test_elites_alone_and_rows_that_are_not_masked_out_count():
    noise = laplace(400)
    everything = transitions(torch.cat([noise, 100.0 * noise]), mask=torch.arange(800) < 400)
    model, alone = disagreeing(1.0, (0.0, 50.0)), disagreeing(1.0)
    model.set_elites(torch.tensor([0]))
    model.recalibrate(everything, "isotonic")
    alone.recalibrate(everything[:400], "isotonic")
    torch.testing.assert_close(model.calibration.shape, alone.calibration.shape)
    torch.testing.assert_close(model.calibration.scale, alone.calibration.scale)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("batch", "method", "message"),
    [
        (make_batch(0), "temperature", r"batch: got 0 transitions to fit to, expected at least 1 for"),
        (make_batch(14), "isotonic", r"batch: got 14 transitions to fit to, expected at least 15 for"),
        (make_batch(5, mask=torch.zeros(5, dtype=torch.bool)), "temperature", r"batch: got 0 transitions"),
        (make_batch(20), "platt", r"method: got 'platt', expected one of temperature, isotonic, pooled"),
        (make_batch(20).map(lambda x: x.unsqueeze(0)), "temperature", r"batch: got leading dims \(1, 20\)"),
        (make_batch(20).map(lambda x: x / 0 if x.ndim == 2 else x), "temperature", "Batch.state: row 0 is"),
        (make_batch(20, CONTEXT), "temperature", "Batch.context: got a Tensor, expected None"),
        (
            transitions(torch.zeros(20, 3)).map(lambda x: 2 * x if x.ndim == 2 else x),
            "isotonic",
            "Batch.action: got",
        ),
    ],
    ids=["empty", "few", "masked", "method", "dims", "finite", "context", "action"],
)
def test_what_cannot_be_fitted_to_is_refused_and_nothing_changes(batch, method, message):
    model = fitted("temperature")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        model.recalibrate(batch, method)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_members_that_have_diverged_are_refused():
    model = make_ensemble(n_models=2)
    next(model.get_parameters()).data[1] = torch.nan
    with pytest.raises(ValueError, match="batch: got transitions of which the members' predictions aren't finite"):
        model.recalibrate(make_batch(20))
