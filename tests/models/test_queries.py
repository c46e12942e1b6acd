"""predict, get_log_prob and sample against a loop over members and torch.distributions."""

import pytest
import torch

from tests.compiler import needs_compiler
from tests.models.ensembles import ACTION, CONTEXT, DISCRETE, NESTED, draw, make_ensemble, make_fixed, query
from tests.reference.loop_ensemble import LoopEnsemble

FUSED = pytest.param(True, True, marks=needs_compiler)
SIZES = [(1, 1), (3, 1), (1, 2), (4, 3)]


@pytest.fixture(
    params=[(None, ACTION), (CONTEXT, ACTION), (DISCRETE, DISCRETE), (NESTED["a"], NESTED)],
    ids=["box", "context", "discrete", "nested"],
)
def spaces(request):
    context_space, action_space = request.param
    return {"context_space": context_space, "action_space": action_space}


@pytest.mark.parametrize(("n_models", "n_modes"), SIZES)
@pytest.mark.parametrize(("predict_delta", "compile"), [(True, False), (False, False), FUSED])
def test_predict_equals_a_loop_over_members(n_models, n_modes, predict_delta, compile, spaces):
    model = make_ensemble(
        n_models=n_models, n_modes=n_modes, predict_delta=predict_delta, compile=compile, **spaces
    )
    state, context, action = query(model, 7)
    prediction = model.predict(state, context, action)
    loop = LoopEnsemble(model)
    term_probs = []
    for e in range(n_models):
        law, term_prob = loop.member_outputs(e, state, context, action)
        torch.testing.assert_close(prediction.mean[:, e], law.component_distribution.base_dist.loc)
        torch.testing.assert_close(prediction.std[:, e], law.component_distribution.base_dist.scale)
        torch.testing.assert_close(prediction.weights[:, e], law.mixture_distribution.probs)
        term_probs.append(term_prob)
    torch.testing.assert_close(prediction.term_prob, torch.stack(term_probs).mean(dim=0))


@pytest.mark.parametrize(("n_models", "n_modes"), SIZES)
def test_log_prob_is_that_of_the_mixture_of_mixtures(n_models, n_modes, spaces):
    model = make_ensemble(n_models=n_models, n_modes=n_modes, **spaces)
    state, context, action = query(model, 9)
    next_state = state + torch.randn_like(state)
    log_prob, _, info = model.get_log_prob(state, context, action, next_state)
    loop = LoopEnsemble(model)
    expected = loop.log_prob(state, context, action, next_state)
    torch.testing.assert_close(log_prob, expected, rtol=1e-5, atol=1e-4)
    for e in range(n_models):
        law, term_prob = loop.member_outputs(e, state, context, action)
        member_log_prob, member_term_prob, _ = model.get_member_log_prob(e, state, context, action, next_state)
        torch.testing.assert_close(member_log_prob, law.log_prob(next_state), rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(member_term_prob, term_prob)
        torch.testing.assert_close(info["means"][:, e], law.mean)


def test_any_leading_dims_give_the_same_answers():
    model = make_ensemble(n_models=3, n_modes=2, context_space=CONTEXT)
    state, context, action = query(model, 2, 3, 4)
    flat = model.predict(*(x.flatten(0, 2) for x in (state, context, action)))
    for got, expected in zip(model.predict(state, context, action), flat, strict=True):
        torch.testing.assert_close(got.flatten(0, 2), expected)
    assert model.sample(state, context, action).shape == state.shape
    assert model.get_log_prob(state, context, action, state)[0].shape == (2, 3, 4)


def test_a_single_row_needs_no_leading_dims():
    model = make_ensemble(n_models=3, n_modes=2, context_space=CONTEXT)
    state, context, action = query(model)
    batch = model.predict(*(x.unsqueeze(0) for x in (state, context, action)))
    for got, expected in zip(model.predict(state, context, action), batch, strict=True):
        torch.testing.assert_close(got, expected.squeeze(0))
    assert model.sample(state, context, action).shape == state.shape
    assert model.get_log_prob(state, context, action, state)[0].shape == ()


@pytest.mark.parametrize(("n_models", "n_modes"), SIZES)
def test_samples_have_the_moments_of_the_mixture(n_models, n_modes):
    model = make_ensemble(n_models=n_models, n_modes=n_modes)
    state, _, action = (x if x is None else x.expand(40_000, -1) for x in query(model, 1))
    sample = model.sample(state, None, action)
    mean, weights, std, _ = model.predict(state[:1], None, action[:1])
    weights = weights[0].unsqueeze(-1) / n_models
    expected_mean = (weights * mean[0]).sum(dim=(0, 1))
    expected_var = (weights * (std[0] ** 2 + mean[0] ** 2)).sum(dim=(0, 1)) - expected_mean**2
    error = (expected_var / 40_000).sqrt()
    assert ((sample.mean(dim=0) - expected_mean).abs() < 4.5 * error).all()
    torch.testing.assert_close(sample.var(dim=0), expected_var, rtol=0.06, atol=0.0)


def test_samples_follow_the_density():
    """Each sample falls into one of the two members' well separated modes as often as their weights say."""
    model = make_fixed(
        {"offset": [-6.0, -2.0], "std": 0.1, "weights": [0.25, 0.75]},
        {"offset": [2.0, 6.0], "std": 0.1, "weights": [0.9, 0.1]},
        n_modes=2,
    )
    sample = model.sample(torch.zeros(40_000, 3), None, torch.zeros(40_000, 2))[:, 0]
    shares = [((sample - centre).abs() < 1).float().mean().item() for centre in (-6, -2, 2, 6)]
    assert shares == pytest.approx([0.125, 0.375, 0.45, 0.05], abs=0.01)


@pytest.mark.parametrize("distance", [1e3, 1e10, 1e30])
def test_log_prob_and_prob_stay_finite_in_the_tail(distance):
    model = make_ensemble(n_models=3, n_modes=2)
    state, context, action = query(model, 4)
    next_state = (state + distance).requires_grad_()
    log_prob, _, _ = model.get_log_prob(state, context, action, next_state)
    log_prob.sum().backward()
    assert log_prob.isfinite().all()
    assert (log_prob < -1e4).all()
    assert next_state.grad.isfinite().all()
    assert model.get_prob(state, context, action, next_state.detach())[0].isfinite().all()


def test_prob_stays_finite_where_the_density_is_huge():
    model = make_fixed({"offset": 0.0, "std": 1e-30})
    state = torch.zeros(2, 3)
    prob, _, _ = model.get_prob(state, None, torch.zeros(2, 2), state)
    assert (prob > 1e30).all()
    assert prob.isfinite().all()


def test_a_given_std_overrides_the_predicted_one():
    model = make_ensemble(n_models=2, n_modes=3)
    state, context, action = query(model, 5)
    next_state = torch.randn(5, 3)
    assert (model.predict(state, context, action, std=0.7).std == 0.7).all()
    per_dim = torch.tensor([0.1, 1.0, 10.0])
    mean, weights, std, _ = model.predict(state, context, action, std=per_dim)
    assert (std == per_dim).all()
    laws = torch.distributions.Independent(torch.distributions.Normal(mean, std), 1)
    expected = torch.logsumexp(laws.log_prob(next_state[:, None, None]) + (weights / 2).log(), dim=(1, 2))
    torch.testing.assert_close(model.get_log_prob(state, context, action, next_state, std=per_dim)[0], expected)


def test_a_transform_applies_to_target_and_mean():
    model = make_ensemble(n_models=2)
    state, context, action = query(model, 5)
    next_state = torch.randn(5, 3)
    got, _, info = model.get_log_prob(
        state, context, action, next_state, std=0.5, transform=lambda x: x[..., :1] ** 2
    )
    mean = model.predict(state, context, action).mean[..., :1] ** 2
    law = torch.distributions.Normal(mean[:, :, 0, 0], 0.5)
    expected = torch.logsumexp(law.log_prob(next_state[:, :1] ** 2), dim=1) - torch.tensor(2.0).log()
    torch.testing.assert_close(got, expected)
    assert info["means"].shape == (5, 2, 3)
    with pytest.raises(ValueError, match="transform: got one without std"):
        model.get_log_prob(state, context, action, next_state, transform=torch.sin)


def test_queries_change_neither_inputs_nor_model_nor_global_random_state():
    model = make_ensemble(n_models=2, n_modes=2, n_particles_per_model=2)
    inputs = [*query(model, 5), torch.randn(5, 3)]
    actions = draw(ACTION, 5, 4)
    copies = [x if x is None else x.clone() for x in inputs]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    generator = torch.Generator().manual_seed(1)
    random_state = torch.get_rng_state()
    model.get_log_prob(*inputs)
    model.sample(*inputs[:3], generator=generator)
    model.rollout(inputs[0], None, actions, generator=generator)
    assert torch.equal(random_state, torch.get_rng_state())
    assert all(a is b is None or torch.equal(a, b) for a, b in zip(inputs, copies, strict=True))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_step_function_serves_any_number_of_particles():
    model = make_ensemble(context_space=CONTEXT, n_models=2)
    state, context, action = query(model, 3)
    step = model.members.step_function(context, None)
    once, twice = (step(state.repeat(p, 1).expand(2, -1, -1), action.repeat(1, p, 1)).mean for p in (1, 2))
    torch.testing.assert_close(twice, once.repeat(1, 2, 1, 1))
