"""How far members disagree where particles are, and the limit that is learned of it: against loops by hand."""

import math

import pytest
import torch

from layeredrl.models.propagation import MERGE
from layeredrl.types import ModelStep
from tests.models.ensembles import (
    CONTEXT,
    DISCRETE,
    draw,
    make_batch,
    make_ensemble,
    make_fixed,
)
from tests.models.rollout_only import RolloutOnly

STATE_UNIT = torch.tensor([1.0, 10.0, 0.1])


def make(**settings):
    settings = {"n_models": 3, "n_modes": 2, "n_particles_per_model": 2, "context_space": CONTEXT, **settings}
    return make_ensemble(**settings)


def start(model, n=4, horizon=3):
    return draw(model.state_space, n), draw(model.context_space, n), draw(model.action_space, n, horizon)


@torch.no_grad()
def disagreement(model, state, context, action, members):
    """Population variance of the members' means for a single row."""
    context = None if context is None else context[None]
    mean, weights, _, _ = model.predict(state[None], context, action[None])
    means = [(weights[0, e, :, None] * mean[0, e]).sum(dim=0) for e in members]
    middle = sum(means) / len(means)
    return sum((m - middle) ** 2 for m in means) / len(means)


# One step -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("deterministic", [False, True], ids=["drawn", "mean"])
@pytest.mark.parametrize("propagation", MERGE)
def test_a_step_tells_how_far_members_disagree_where_each_particle_is(propagation, deterministic):
    """Each particle is put before each member of the rollout, one by one."""
    model, members = make(), torch.tensor([2, 0])
    state, context, actions = start(model, n=2)
    steps = model.unroll(state, context, actions, deterministic, propagation=propagation, members=members)
    for t, step in enumerate(steps):
        n_particles = step.state.shape[1]
        assert step.epistemic_var.shape == (2, n_particles, 2, 3)
        for e, p, b in torch.cartesian_prod(*map(torch.arange, (2, n_particles, 2))):
            expected = disagreement(model, step.state[e, p, b], context[b], actions[b, t], members)
            torch.testing.assert_close(step.epistemic_var[e, p, b], expected, rtol=1e-3, atol=1e-6)


def test_paths_that_have_drifted_apart_are_no_disagreement():
    """Members that move by 0 and by 4 are 2 off their middle after a step, and as much wherever they are."""
    model = make_fixed({"offset": 0.0, "std": 0.1}, {"offset": 4.0, "std": 0.1})
    for step in model.unroll(torch.zeros(2, 3), None, torch.zeros(2, 5, 2)):
        torch.testing.assert_close(step.epistemic_var, torch.full((2, 1, 2, 3), 4.0))


def test_differences_are_not_rounded_away_far_from_the_origin():
    model = make_fixed({"offset": 0.0, "std": 0.1}, {"offset": 1e-4, "std": 0.1})
    (step,) = model.unroll(torch.full((1, 3), 1e4), None, torch.zeros(1, 1, 2))
    torch.testing.assert_close(step.epistemic_var, torch.full((2, 1, 1, 3), 0.25e-8))


@pytest.mark.parametrize("max_rows", [1, 5])
def test_rows_that_are_read_at_a_time_make_no_difference(max_rows):
    model = make(action_space=DISCRETE)
    inputs = start(model)
    whole, few = (
        [
            step.epistemic_var
            for step in model.unroll(*inputs, max_rows=rows, generator=torch.Generator().manual_seed(1))
        ]
        for rows in (None, max_rows)
    )
    torch.testing.assert_close(few, whole, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(("propagation", "n_asked"), [("ts_inf", 3), ("ts1", 3), ("expectation", 1)])
def test_members_are_asked_no_more_than_need_be(propagation, n_asked):
    """Once, if nobody wants to know; on a common path, the step itself tells."""
    model, n_calls = make(), []
    model.members.nets.members.register_forward_pre_hook(lambda *_: n_calls.append(1))
    for ask, expected in ((False, 1), (True, n_asked)):
        n_calls.clear()
        for step in model.unroll(*start(model, horizon=1), propagation=propagation):
            _ = ask and (step.epistemic_var, step.epistemic_var)
        assert len(n_calls) == expected


def test_it_carries_no_gradient():
    model = make(context_space=None)
    actions = draw(model.action_space, 2, 1).requires_grad_()
    (step,) = model.unroll(torch.zeros(2, 3), None, actions)
    assert step.mean.requires_grad
    assert not step.epistemic_var.requires_grad


def test_a_single_member_and_a_model_that_does_not_tell_are_said_plainly():
    (step,) = make(n_models=1).unroll(torch.zeros(1, 3), torch.zeros(1, 2), torch.zeros(1, 1, 2))
    with pytest.raises(ValueError, match="members: got a single one, which has nobody to disagree with"):
        _ = step.epistemic_var
    (step,) = RolloutOnly(make()).unroll(torch.zeros(1, 3), torch.zeros(1, 2), torch.zeros(1, 1, 2))
    with pytest.raises(ValueError, match="epistemic_var: got a step of a model that doesn't tell"):
        _ = step.epistemic_var


# The limit ------------------------------------------------------------------------------------------------------


def steps_from(model, batch):
    """The first steps of a rollout from each transition's state, as they are judged."""
    return next(iter(model.unroll(batch.state, batch.context, batch.action[:, None])))


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99, 1.0])
def test_just_the_share_of_held_out_transitions_is_trusted(share):
    model, held_out = make(), make_batch(200, CONTEXT)
    model.fit_epistemic_limit(held_out, share)
    trusted = model.epistemic_limit(steps_from(model, held_out))
    n_trusted = trusted[0, 0].sum().item()
    assert math.ceil(share * 199) <= n_trusted <= math.ceil(share * 199) + 1


def test_limits_are_those_of_a_loop():
    """In proportion to the root mean squares of each dimension, up to the row that is sixth from above of 60."""
    model, held_out = make(), make_batch(60, CONTEXT)
    model.set_elites(torch.tensor([0, 2]))
    model.fit_epistemic_limit(held_out, share=54 / 59)
    rows = zip(held_out.state, held_out.context, held_out.action, strict=True)
    std = torch.stack([disagreement(model, *row, members=[0, 2]) for row in rows]).sqrt()
    typical = [math.sqrt(sum(float(x) ** 2 for x in column) / 60) for column in std.T]
    excess = sorted(max(float(x) / t for x, t in zip(row, typical, strict=True)) for row in std)
    expected = torch.tensor(typical) * excess[54]
    torch.testing.assert_close(model.epistemic_limit.std, expected, rtol=2e-3, atol=0.0)


def test_every_dimension_counts_in_its_own_unit():
    """What is usual in one is unheard of in another."""
    limit = make_fixed({"offset": 0.0, "std": 0.1}, {"offset": 0.0, "std": 0.1}).epistemic_limit
    limit.fit(STATE_UNIT * (0.5 + torch.rand(100, 3)), 1.0, torch.ones(3))
    (step,) = make_fixed({"offset": 0.0, "std": 0.1}, {"offset": 0.5, "std": 0.1}).unroll(
        torch.zeros(1, 3), None, torch.zeros(1, 1, 2)
    )
    assert step.epistemic_var.sqrt().flatten().tolist() == [0.25] * 6
    assert not limit(step).any()
    limit.fit(10 * STATE_UNIT * (0.5 + torch.rand(100, 3)), 1.0, torch.ones(3))
    assert limit(step).all()


def test_members_that_always_agree_are_trusted_up_to_rounding():
    model = make_fixed({"offset": 0.1, "std": 0.1}, {"offset": 0.1, "std": 0.1})
    model.fit_epistemic_limit(make_batch(50))
    assert model.epistemic_limit(steps_from(model, make_batch(50))).all()
    assert (model.epistemic_limit.std < 1e-5).all()


def test_what_is_not_a_number_is_not_trusted():
    model = make_fixed({"offset": 0.0, "std": 0.1}, {"offset": 1.0, "std": 0.1, "gain": 1.0})
    model.fit_epistemic_limit(make_batch(50), share=1.0)
    state = torch.where(torch.arange(5) == 2, torch.nan, 0.0)[None, None, :, None].expand(2, 1, 5, 3)
    step = ModelStep(state, state, torch.zeros(2, 1, 5), lambda: (state, state), lambda: state)
    assert model.epistemic_limit(step)[0, 0].tolist() == [True, True, False, True, True]


def test_masked_transitions_do_not_count():
    model, batch = make(), make_batch(60, CONTEXT, mask=torch.arange(60) < 40)
    limits = []
    for transitions in (batch, batch[:40], make_batch(60, CONTEXT)):
        model.fit_epistemic_limit(transitions)
        limits.append(model.epistemic_limit.std)
    assert torch.equal(limits[0], limits[1])
    assert not torch.equal(limits[0], limits[2])


def test_a_limit_is_kept_in_the_state_dict():
    model, other = make(), make()
    model.fit_epistemic_limit(make_batch(60, CONTEXT))
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.epistemic_limit.std, model.epistemic_limit.std)
    assert other.epistemic_limit(steps_from(other, make_batch(5, CONTEXT))).shape == (3, 2, 5)


@pytest.mark.parametrize(
    "change",
    [
        lambda model, batch: model.learn([batch]),
        lambda model, batch: model.set_statistics(batch),
        lambda model, batch: model.recalibrate(batch),
        lambda model, batch: model.reset_calibration(),
    ],
    ids=["learn", "statistics", "recalibrate", "reset"],
)
def test_whatever_may_move_the_means_ends_it(change):
    model, batch = make(create_optimizer=True), make_batch(60, CONTEXT)
    model.fit_epistemic_limit(batch)
    change(model, batch)
    with pytest.raises(ValueError, match=r"epistemic_limit: got one that isn't fitted; call model\.fit_epistemic"):
        model.epistemic_limit(steps_from(model, batch))


def test_what_cannot_be_fitted_is_refused_and_changes_nothing(unchecked):
    model, batch = make(), make_batch(60, CONTEXT)
    model.fit_epistemic_limit(batch)
    before = model.epistemic_limit.std
    lonely = make()
    lonely.set_elites(torch.tensor([1]))
    for refused, message in (
        (lambda: model.fit_epistemic_limit(batch, share=0.0), r"share: got 0\.0, expected a number in \(0, 1\]"),
        (lambda: model.fit_epistemic_limit(batch, share=1.5), r"share: got 1\.5"),
        (lambda: model.fit_epistemic_limit(batch[:0]), "batch: got no transitions"),
        (lambda: model.fit_epistemic_limit(make_batch(5)), "Batch.context: got None"),
        (lambda: make(n_models=1).fit_epistemic_limit(batch), "elites: got 1 of n_models=1, expected at least two"),
        (lambda: lonely.fit_epistemic_limit(batch), "elites: got 1 of n_models=3, expected at least two"),
    ):
        with pytest.raises(ValueError, match=message):
            refused()
    assert model.epistemic_limit.std is before
    assert bool(model.epistemic_limit.is_fitted)
