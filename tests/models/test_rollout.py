"""Rollouts: against recursions by hand, closed forms and a loop over members."""

import pytest
import torch

from layeredrl.models.propagation import MERGE
from tests.compiler import needs_compiler
from tests.models.ensembles import (
    ACTION,
    CONTEXT,
    DISCRETE,
    NESTED,
    draw,
    make_batch,
    make_ensemble,
    make_fixed,
    query,
)
from tests.reference.loop_ensemble import LoopEnsemble


def identical(n_members: int, **member) -> list[dict]:
    return [{"offset": 0.0, "std": 0.5, **member}] * n_members


def start(n: int) -> tuple[torch.Tensor, None, torch.Tensor]:
    """States and actions for H = 4."""
    return torch.randn(n, 3), None, draw(ACTION, n, 4)


@pytest.mark.parametrize(("n_models", "n_modes", "n_particles"), [(1, 1, 1), (3, 1, 2), (2, 3, 4)])
@pytest.mark.parametrize(
    "spaces", [(None, ACTION), (CONTEXT, DISCRETE), (NESTED, NESTED)], ids=["plain", "discrete", "nested"]
)
@pytest.mark.parametrize("compile", [False, pytest.param(True, marks=needs_compiler)])
def test_deterministic_rollout_is_the_recursion_of_each_members_mean(
    n_models, n_modes, n_particles, spaces, compile
):
    model = make_ensemble(
        context_space=spaces[0],
        action_space=spaces[1],
        n_models=n_models,
        n_modes=n_modes,
        n_particles_per_model=n_particles,
        compile=compile,
    )
    state, context, _ = query(model, 5)
    actions = draw(spaces[1], 5, 6)
    rollout = model.rollout(state, context, actions, deterministic=True)
    assert rollout.state.shape == (5, n_models, n_particles, 7, 3)
    assert rollout.term_prob.shape == (5, n_models, n_particles, 6)
    loop = LoopEnsemble(model)
    for e in range(n_models):
        expected = loop.deterministic_rollout(e, state, context, actions)
        torch.testing.assert_close(rollout.state[:, e, -1], expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(rollout.state_mean[:, e], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("propagation", ["ts_inf", "ts1"])
def test_one_step_of_a_stochastic_rollout_has_the_moments_of_predict(propagation):
    model = make_ensemble(n_models=2, n_modes=2, n_particles_per_model=20_000)
    state, _, action = query(model, 1)
    particles = model.rollout(state, None, action[:, None], propagation=propagation).state[0, :, :, 1]
    mean, weights, std, _ = model.predict(state, None, action)
    weights = weights[0].unsqueeze(-1)
    member_mean = (weights * mean[0]).sum(dim=1)
    member_var = (weights * (std[0] ** 2 + mean[0] ** 2)).sum(dim=1) - member_mean**2
    if propagation == "ts1":  # particles have met either member
        expected = member_var.mean(dim=0) + member_mean.var(dim=0, correction=0)
        torch.testing.assert_close(particles.flatten(0, 1).var(dim=0), expected, rtol=0.05, atol=0.0)
    else:
        torch.testing.assert_close(particles.var(dim=1), member_var, rtol=0.05, atol=0.0)


@pytest.mark.parametrize("propagation", ["ts_inf", "ts1", "moment_matching"])
def test_noise_adds_up_over_time(propagation):
    """A random walk of three alike members: variance t σ², all of it aleatoric."""
    model = make_fixed(*identical(3), n_particles_per_model=50)
    rollout = model.rollout(torch.zeros(200, 3), None, torch.zeros(200, 8, 2), propagation=propagation)
    expected = 0.25 * torch.arange(9.0)[:, None].expand(9, 3)
    torch.testing.assert_close(rollout.state_aleatoric_var.mean(dim=0), expected, rtol=0.08, atol=1e-6)
    torch.testing.assert_close(rollout.state.var(dim=(0, 1, 2)), expected, rtol=0.08, atol=1e-6)
    assert (rollout.state_epistemic_var.mean(dim=0) < 0.01 * expected + 1e-6).all()


@pytest.mark.parametrize("n_particles", [1, 4])
@pytest.mark.parametrize("propagation", ["ts_inf", "ts1", "expectation"])
def test_identical_members_have_no_epistemic_variance(n_particles, propagation):
    model = make_fixed(*identical(5, gain=0.3), n_particles_per_model=n_particles)
    rollout = model.rollout(*start(50), propagation=propagation)
    assert rollout.state_epistemic_var.abs().max() < 1e-8
    assert rollout.state_aleatoric_var[:, -1].min() > 0.1


def test_identical_networks_have_no_epistemic_variance_for_one_particle_or_four():
    for n_particles in (1, 4):
        model = make_ensemble(n_models=4, n_modes=2, n_particles_per_model=n_particles)
        for value in model.members.nets.state_dict().values():
            value.copy_(value[:1].expand_as(value).clone())
        rollout = model.rollout(*start(20))
        assert rollout.state_epistemic_var.max() < 1e-5 * rollout.state_aleatoric_var.max()


@pytest.mark.parametrize("n_particles", [1, 4])
def test_two_different_deterministic_members_have_no_aleatoric_variance(n_particles):
    model = make_fixed(
        {"offset": -1.0, "std": 1e-6}, {"offset": 3.0, "std": 1e-6}, n_particles_per_model=n_particles
    )
    rollout = model.rollout(*start(5))
    assert rollout.state_aleatoric_var.max() < 1e-9
    times = torch.arange(5.0)
    expected = (2.0 * times) ** 2  # members drift apart by 4 per step: population variance (4 t / 2)²
    torch.testing.assert_close(rollout.state_epistemic_var, expected[None, :, None].expand(5, 5, 3))


@pytest.mark.parametrize("propagation", list(MERGE))
def test_total_variance_is_that_of_the_particles(propagation):
    """Two members that differ in mean and noise; moments over many starts that are all the same."""
    model = make_fixed({"offset": -0.5, "std": 0.2}, {"offset": 0.5, "std": 0.6}, n_particles_per_model=8)
    rollout = model.rollout(torch.zeros(2_000, 3), None, torch.zeros(2_000, 1, 2), propagation=propagation)
    aleatoric = rollout.state_aleatoric_var[:, 1].mean(dim=0)
    epistemic = rollout.state_epistemic_var[:, 1].mean(dim=0)
    torch.testing.assert_close(aleatoric, torch.full((3,), 0.2))
    torch.testing.assert_close(epistemic, torch.full((3,), 0.25))
    if propagation != "expectation":  # which has no spread by design
        spread = rollout.state[..., 1, :].var(dim=(0, 1, 2))
        torch.testing.assert_close(spread, torch.full((3,), 0.45), rtol=0.05, atol=0.0)


def test_ts1_particles_change_members_and_ts_inf_particles_do_not():
    members = [{"offset": float(10**e), "std": 1e-6} for e in range(3)]
    model = make_fixed(*members, n_particles_per_model=4)
    state, actions = torch.zeros(50, 3), torch.zeros(50, 6, 2)
    stays = model.rollout(state, None, actions).state[:, :, :, -1, 0]
    torch.testing.assert_close(stays, torch.tensor([6.0, 60, 600])[:, None].expand(50, 3, 4))
    changing = model.rollout(state, None, actions, propagation="ts1").state[..., 0]
    steps = changing.diff(dim=-1).round()
    assert all((steps == value).float().mean() == pytest.approx(1 / 3, abs=1e-6) for value in (1, 10, 100))
    assert ((steps != steps[..., :1]).any(dim=-1)).float().mean() > 0.98


def test_expectation_follows_the_mean_over_members():
    model = make_fixed({"offset": 1.0, "std": 0.5}, {"offset": 4.0, "std": 0.5}, n_particles_per_model=2)
    rollout = model.rollout(torch.zeros(1, 3), None, torch.zeros(1, 3, 2), propagation="expectation")
    expected = torch.tensor([0.0, 2.5, 5.0, 7.5])[:, None].expand(1, 2, 2, 4, 3)
    torch.testing.assert_close(rollout.state, expected)


@pytest.mark.parametrize("propagation", list(MERGE))
def test_members_restrict_the_rollout(propagation):
    offsets = [{"offset": float(e), "std": 1e-6} for e in range(4)]
    model = make_fixed(*offsets, n_particles_per_model=2)
    chosen = torch.tensor([3, 1])
    rollout = model.rollout(*start(6), members=chosen, propagation=propagation)
    assert rollout.state.shape == (6, 2, 2, 5, 3)
    torch.testing.assert_close(
        rollout.step_mean[:, :, 0, 0].mean(dim=(0, 2)) - rollout.state[:, 0, 0, 0].mean(), torch.tensor([3.0, 1.0])
    )


def test_the_generator_decides_everything():
    model = make_ensemble(n_models=3, n_modes=2, n_particles_per_model=2)
    inputs = start(4)
    for propagation in MERGE:
        first, second, other = (
            model.rollout(*inputs, propagation=propagation, generator=torch.Generator().manual_seed(seed)).state
            for seed in (7, 7, 8)
        )
        assert torch.equal(first, second)
        assert torch.equal(first, other) == (propagation == "expectation")


def test_gradients_flow_to_actions_and_states():
    model = make_ensemble(n_models=2, n_particles_per_model=2)
    state, _, actions = start(3)
    state.requires_grad_()
    actions.requires_grad_()
    model.rollout(state, None, actions).state[..., -1, :].sum().backward()
    assert (state.grad != 0).all()
    assert (actions.grad != 0).all()


def test_gradient_of_a_deterministic_rollout_is_that_of_the_recursion():
    model = make_fixed({"offset": 0.0, "std": 0.1, "gain": 2.0})
    state, _, actions = start(3)
    actions.requires_grad_()
    model.rollout(state, None, actions, deterministic=True).state[:, 0, 0, -1].sum().backward()
    torch.testing.assert_close(actions.grad[..., 0], torch.full((3, 4), 6.0))  # three dimensions, gain 2


def test_learned_termination_is_reported_per_particle():
    model = make_fixed(
        {"offset": 0.0, "std": 0.1, "term_prob": 0.25}, {"offset": 0.0, "std": 0.1, "term_prob": 0.75}
    )
    term_prob = model.rollout(*start(3)).term_prob
    torch.testing.assert_close(term_prob[:, :, 0, 2], torch.tensor([[0.25, 0.75]]).expand(3, 2))


def test_moments_that_are_asked_for_later_are_those_of_the_time_of_the_rollout():
    model, later = make_ensemble(n_models=3, n_particles_per_model=2), make_ensemble(n_models=3)
    state, actions = draw(model.state_space, 4), draw(model.action_space, 4, 3)
    rollout, early = (
        model.rollout(state, None, actions, generator=torch.Generator().manual_seed(0)) for _ in range(2)
    )
    expected = early.step_mean, early.step_var
    model.load_state_dict(later.state_dict())
    model.set_statistics(make_batch(50))
    torch.testing.assert_close((rollout.step_mean, rollout.step_var), expected, rtol=0, atol=0)
