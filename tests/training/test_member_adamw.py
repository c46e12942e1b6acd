"""Members take the steps of torch's own AdamW, each alone, with a clipped gradient of its own."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.utils import clip_grad_norm_

from layeredrl.training.member_adamw import MemberAdamW
from tests.compiler import needs_compiler

SETTINGS = {"learning_rate": 0.01, "weight_decay": 0.1, "max_norm": 2.0}
WAYS = [False, pytest.param(True, marks=needs_compiler)]
in_all_ways = pytest.mark.parametrize("compile", WAYS)


def draw(shapes, n_members, generator):
    return [torch.randn(n_members, *shape, generator=generator) for shape in shapes]


def steps_alone(parameters, gradients_by_step, member):
    """What becomes of a member in double precision, and the norms of its gradients."""
    own = [parameter[member].detach().double().requires_grad_() for parameter in parameters]
    optimizer = torch.optim.AdamW(own, lr=SETTINGS["learning_rate"], weight_decay=SETTINGS["weight_decay"])
    norms = []
    for gradients in gradients_by_step:
        for parameter, gradient in zip(own, gradients, strict=True):
            parameter.grad = gradient[member].double()
        norms.append(float(clip_grad_norm_(own, SETTINGS["max_norm"])))
        optimizer.step()
    return own, norms


def take_steps(optimizer, parameters, gradients_by_step):
    for gradients in gradients_by_step:
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient.clone()
        optimizer.step()


shapes = st.lists(st.lists(st.integers(1, 7), max_size=2).map(tuple), min_size=1, max_size=4)


@in_all_ways
@given(shapes, st.integers(1, 4), st.integers(0, 2**31))
@settings(max_examples=30, deadline=None)
def test_every_member_steps_as_it_would_alone(compile, shapes, n_members, seed):
    assert_as_alone(compile, shapes, n_members, seed)


@in_all_ways
def test_members_with_many_weights_step_as_they_would_alone(compile):
    norms = assert_as_alone(compile, [(40, 103), (2, 4096), (8193,), ()], n_members=3, seed=0)
    assert min(norms) < SETTINGS["max_norm"] < max(norms)  # some are clipped, some are not


def assert_as_alone(compile, shapes, n_members, seed):
    generator = torch.Generator().manual_seed(seed)
    parameters = [parameter.requires_grad_() for parameter in draw(shapes, n_members, generator)]
    start = copy.deepcopy(parameters)
    sizes = torch.logspace(-2, 2, n_members) / math.sqrt(sum(parameter[0].numel() for parameter in parameters))
    gradients_by_step = [
        [g * sizes.view(-1, *[1] * (g.ndim - 1)) for g in draw(shapes, n_members, generator)] for _ in range(4)
    ]
    take_steps(MemberAdamW(parameters, **SETTINGS, compile=compile), parameters, gradients_by_step)
    all_norms = []
    for member in range(n_members):
        alone, norms = steps_alone(start, gradients_by_step, member)
        for parameter, own in zip(parameters, alone, strict=True):
            torch.testing.assert_close(parameter[member], own.float(), rtol=1e-5, atol=1e-6)
        all_norms += norms
    return all_norms


@in_all_ways
def test_what_has_no_gradient_stays_as_it_is_and_makes_no_step(compile):
    moved, resting = torch.ones(2, 3, requires_grad=True), torch.ones(2, 5, requires_grad=True)
    optimizer = MemberAdamW([moved, resting], **SETTINGS, compile=compile)
    optimizer.step()  # nothing has one
    moved.grad = torch.ones(2, 3)
    optimizer.step()
    assert bool((moved < 1).all())
    assert torch.equal(resting, torch.ones(2, 5))
    assert list(optimizer.state_dict()["state"]) == [0]


@in_all_ways
def test_a_member_that_diverged_leaves_the_others_alone(compile):
    parameters, twins = ([torch.ones(3, 4, requires_grad=True)] for _ in range(2))
    gradient = torch.tensor([[torch.nan, *[1.0] * 3], [3.0] * 4, [0.1] * 4])
    take_steps(MemberAdamW(parameters, **SETTINGS, compile=compile), parameters, [[gradient]])
    take_steps(MemberAdamW(twins, **SETTINGS), twins, [[gradient.nan_to_num(1.0)]])
    assert parameters[0][0].isnan().all()
    torch.testing.assert_close(parameters[0][1:], twins[0][1:])


@in_all_ways
def test_gradients_of_zero_only_let_weights_decay(compile):
    parameters = [torch.ones(2, 3, requires_grad=True)]
    take_steps(MemberAdamW(parameters, **SETTINGS, compile=compile), parameters, [[torch.zeros(2, 3)]])
    torch.testing.assert_close(parameters[0], torch.full((2, 3), 1 - 0.01 * 0.1))


@in_all_ways
def test_gradients_may_lie_in_any_order(compile):
    parameters, twins = ([torch.ones(2, 3, 5, requires_grad=True)] for _ in range(2))
    gradient = torch.randn(2, 5, 3).mT
    parameters[0].grad, twins[0].grad = gradient, gradient.contiguous()
    for own in (parameters, twins):
        MemberAdamW(own, **SETTINGS, compile=compile).step()
    assert torch.equal(parameters[0], twins[0])


def test_parameters_that_lie_in_another_order_are_refused():
    with pytest.raises(ValueError, match="parameters: got some that are not contiguous"):
        MemberAdamW([torch.ones(2, 3, 5).mT.requires_grad_()], **SETTINGS)


@needs_compiler
@pytest.mark.parametrize("before", [False, True])
def test_what_it_keeps_goes_on_in_all_ways_and_in_torch(before):
    (parameter,), gradients = draw([(4, 3)], 2, None), [draw([(4, 3)], 2, None) for _ in range(4)]
    first = [parameter.clone().requires_grad_()]
    optimizer = MemberAdamW(first, **SETTINGS, compile=before)
    take_steps(optimizer, first, gradients[:2])
    ends = []
    for go_on in (
        lambda own: MemberAdamW(own, **SETTINGS, compile=not before),
        lambda own: torch.optim.AdamW(own, lr=SETTINGS["learning_rate"], weight_decay=SETTINGS["weight_decay"]),
    ):
        own = [first[0].detach().clone().requires_grad_()]
        optimizer_after = go_on(own)
        group = optimizer_after.state_dict()["param_groups"]
        optimizer_after.load_state_dict(
            {"state": copy.deepcopy(optimizer.state_dict()["state"]), "param_groups": group}
        )
        small = [[g / 100 for g in step] for step in gradients[2:]]  # that torch's needn't clip
        take_steps(optimizer_after, own, small)
        ends.append(own[0])
    torch.testing.assert_close(*ends)


@in_all_ways
def test_a_step_calls_hooks_and_the_closure_once(compile):
    parameter = torch.ones(2, 3, requires_grad=True)
    optimizer = MemberAdamW([parameter], **SETTINGS, compile=compile)
    called = []
    optimizer.register_step_pre_hook(lambda *_: called.append("before"))
    optimizer.register_step_post_hook(lambda *_: called.append("after"))

    def closure():
        called.append("closure")
        loss = parameter.square().sum()
        loss.backward()
        return loss.item()

    assert optimizer.step(closure) == 6.0
    assert called == ["before", "closure", "after"]
    assert bool((parameter < 1).all())


@needs_compiler
def test_other_numbers_than_single_precision_go_without_the_kernel():
    parameters = [torch.ones(2, 3, dtype=torch.float64, requires_grad=True)]
    optimizer = MemberAdamW(parameters, **SETTINGS, compile=True)
    take_steps(optimizer, parameters, [[torch.ones(2, 3, dtype=torch.float64)]])
    torch.testing.assert_close(parameters[0], torch.full((2, 3), (1 - 0.01 * 0.1) - 0.01, dtype=torch.float64))


def test_a_state_that_was_saved_lies_with_the_parameters_and_counts_in_single_precision():
    parameters = [torch.ones(2, 3, requires_grad=True)]
    optimizer = MemberAdamW(parameters, **SETTINGS)
    take_steps(optimizer, parameters, [[torch.ones(2, 3)]])
    saved = copy.deepcopy(optimizer.state_dict())
    saved["state"][0]["step"] = saved["state"][0]["step"].double()
    optimizer.load_state_dict(saved)
    assert optimizer.state_dict()["state"][0]["step"].dtype == torch.float32
