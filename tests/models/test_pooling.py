"""Members are drawn together as far as their disagreement is chance, wherever they are asked."""

import pytest
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from layeredrl.models.held_out import HeldOut
from layeredrl.models.pooling import fit_pool
from tests.models.calibrating import disagreeing, normal, transitions
from tests.models.ensembles import CONTEXT, make_batch, make_ensemble, query


def held_out(members, truth, std=1.0):
    """Of members `(N, E, S)` that expect this, each with the same noise."""
    offset = (members - members.mean(dim=1, keepdim=True)) / std
    log_std = torch.full_like(members, std).log()
    weight = torch.full_like(members[..., 0], 1 / members.shape[1])
    return HeldOut((truth.unsqueeze(1) - members) / std, log_std, weight, offset)


def log_prob(members, truth, spread, temperature):
    """Of whole states, by torch.distributions."""
    mean = members.mean(dim=1, keepdim=True)
    laws = Independent(Normal(mean + spread * (members - mean), temperature), 1)
    return MixtureSameFamily(Categorical(torch.ones(members.shape[:2])), laws).log_prob(truth).mean()


def test_members_that_err_by_chance_are_drawn_to_their_mean():
    """What is left is the error of the mean, a fifth of a member's variance, and the noise."""
    torch.manual_seed(0)
    truth = torch.randn(4000, 6, dtype=torch.float64)
    members = truth.unsqueeze(1) + torch.randn(4000, 5, 6, dtype=torch.float64)
    spread, temperature = fit_pool(held_out(members, truth + 0.5 * torch.randn_like(truth)))
    variance = temperature.square() + spread.square() * 0.8
    assert (spread < 0.25).all()
    torch.testing.assert_close(variance, torch.full_like(variance, 0.5**2 + 1 / 5), rtol=0.05, atol=0.0)


def test_members_one_of_whom_is_right_stay_apart():
    torch.manual_seed(1)
    members = 3 * torch.randn(2000, 5, 4, dtype=torch.float64)
    right = members[torch.arange(2000), torch.randint(5, (2000,))]
    spread, temperature = fit_pool(held_out(members, right + 0.1 * torch.randn_like(right)))
    torch.testing.assert_close(spread, torch.ones_like(spread), rtol=0.0, atol=0.01)
    torch.testing.assert_close(temperature, torch.full_like(temperature, 0.1), rtol=0.1, atol=0.0)


def test_no_other_spread_or_temperature_is_likelier():
    torch.manual_seed(2)
    shared, own = (torch.randn(500, n, 1, dtype=torch.float64) for n in (1, 3))
    members, truth = shared + own, torch.zeros(500, 1, dtype=torch.float64)
    spread, temperature = fit_pool(held_out(members, truth))
    best = log_prob(members, truth, spread, temperature)
    others = [
        log_prob(members, truth, c, t) for c in torch.linspace(0, 1, 21) for t in torch.linspace(0.3, 2.5, 45)
    ]
    assert best > max(others) - 1e-3


def test_nothing_near_is_likelier_for_whole_states_under_noise_of_all_sizes():
    torch.manual_seed(5)
    members, truth = torch.randn(300, 3, 4, dtype=torch.float64), torch.zeros(300, 4, dtype=torch.float64)
    std = torch.rand(300, 3, 4, dtype=torch.float64) + 0.2
    mean = members.mean(dim=1, keepdim=True)
    weight = torch.full((300, 3), 1 / 3, dtype=torch.float64)
    fitted = fit_pool(HeldOut((truth.unsqueeze(1) - members) / std, std.log(), weight, (members - mean) / std))

    def density(spread, temperature):
        laws = Independent(Normal(mean + spread * (members - mean), temperature * std), 1)
        return MixtureSameFamily(Categorical(weight), laws).log_prob(truth).mean()

    best = density(*fitted)
    for s in range(4):
        for i, step in ((0, 0.1), (0, -0.1), (1, 0.1), (1, -0.1)):
            other = [value.clone() for value in fitted]
            other[i][s] = (other[i][s] + step).clamp_min(0.0)
            assert density(*other) <= best + 1e-6


@pytest.mark.parametrize("members", [torch.randn(50, 1, 2), torch.randn(50, 1, 2).expand(50, 4, 2)])
def test_where_members_agree_there_is_nothing_to_draw_together(members):
    truth = members[:, 0].double() + 0.3
    spread, temperature = fit_pool(held_out(members.double(), truth))
    assert torch.equal(spread, torch.ones_like(spread))
    torch.testing.assert_close(temperature.square(), torch.full_like(temperature, (50 * 0.09 + 1) / 51))


def pooled(**settings):
    torch.manual_seed(3)
    model = make_ensemble(n_models=3, n_modes=2, n_particles_per_model=2, **settings)
    model.recalibrate(make_batch(300, context_space=model.context_space), "pooled")
    model.calibration.spread = torch.tensor([0.2, 0.5, 1.0])
    return model


def test_disagreement_shrinks_by_the_share_that_is_kept_and_modes_move_along():
    model = pooled()
    inputs = query(model, 5)
    got = model.predict(*inputs)
    model.reset_calibration()
    raw = model.predict(*inputs)
    means = [(x.weights.unsqueeze(-1) * x.mean).sum(dim=-2) for x in (raw, got)]
    torch.testing.assert_close(means[1].mean(dim=1), means[0].mean(dim=1))
    var = [x.var(dim=1) for x in means]
    torch.testing.assert_close(var[1], torch.tensor([0.04, 0.25, 1.0]) * var[0], rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(got.mean.diff(dim=-2), raw.mean.diff(dim=-2))


def test_a_member_answers_alone_as_among_all():
    model = pooled()
    model.set_elites(torch.tensor([0, 2]))
    inputs = query(model, 5)
    alone = model.predict(*inputs, members=torch.tensor([1]))
    torch.testing.assert_close(alone.mean[:, 0], model.predict(*inputs).mean[:, 1])


@pytest.mark.parametrize("context_space", [None, CONTEXT])
@pytest.mark.parametrize("max_rows", [None, 3])
def test_each_particle_is_drawn_towards_what_the_elites_expect_where_it_is(context_space, max_rows):
    model = pooled(context_space=context_space)
    model.set_elites(torch.tensor([0, 2]))
    state, context, action = query(model, 4)
    actions = torch.stack([action, -action], dim=1)
    *_, last = model.unroll(state, context, actions, max_rows=max_rows)
    for e in range(3):
        for p in range(2):
            one = model.predict(last.state[e, p], context, -action, members=torch.tensor([e]))
            expected = (one.weights.unsqueeze(-1) * one.mean).sum(dim=-2).squeeze(1)
            torch.testing.assert_close(last.mean[e, p], expected)


def test_whole_states_are_explained_better_than_by_temperatures_alone():
    """Of 3 dimensions in which members err by ±1, and the truth lies in between."""
    torch.manual_seed(4)
    judged, model = transitions(0.3 * normal(500)), disagreeing(1.0, (-1.0, 0.0, 1.0))
    found = {}
    for method in ("temperature", "pooled"):
        model.recalibrate(transitions(0.3 * normal(500)), method)
        found[method] = model.get_log_prob(judged.state, None, judged.action, judged.next_state)[0].mean()
    assert found["pooled"] > found["temperature"] + 0.5
