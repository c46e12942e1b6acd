"""`compile=True` changes how a step is computed, not what it is."""

import copy
from functools import partial

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounter

from layeredrl.nets import compiled
from layeredrl.nets.native.library import kernels_work
from layeredrl.nets.prob_fc_dynamics import ProbFCDynamics
from tests.models.ensembles import ACTION, CONTEXT, NESTED, draw, make_batch, make_ensemble

# On a CPU, the first is fused where it can be, and the second left to torch.compile.
KNOWN, UNKNOWN = (
    partial(ProbFCDynamics, hidden_sizes=(16, 16), nonlinearity=activation) for activation in (nn.SiLU, nn.Tanh)
)
SPACES = {"plain": (None, ACTION), "context": (CONTEXT, ACTION), "nested": (NESTED, NESTED)}

BOTH = pytest.mark.parametrize("net", [KNOWN, UNKNOWN], ids=["fused", "compiled"])


@pytest.fixture
def counter(unchecked, monkeypatch):
    """Counts compilations, and spares the time that they would take."""
    torch._dynamo.reset()
    counter, compile_function = CompileCounter(), torch.compile
    monkeypatch.setattr(
        compiled.torch, "compile", lambda f, fullgraph: compile_function(f, fullgraph=fullgraph, backend=counter)
    )
    return counter


def make(spaces, compile, net=UNKNOWN, **more):
    torch.manual_seed(0)
    settings = {"n_models": 3, "n_modes": 2, "n_particles_per_model": 2, "net": net, **more}
    return make_ensemble(context_space=spaces[0], action_space=spaces[1], compile=compile, **settings)


def roll(model, n_rows, horizon, **more):
    torch.manual_seed(1)
    inputs = draw(model.state_space, n_rows), draw(model.context_space, n_rows)
    actions = draw(model.action_space, n_rows, horizon)
    with torch.no_grad():
        return model.rollout(*inputs, actions, generator=torch.Generator().manual_seed(2), **more)


@pytest.mark.parametrize("spaces", SPACES.values(), ids=SPACES.keys())
@pytest.mark.parametrize("more", [{}, {"propagation": "ts1"}, {"members": torch.tensor([2, 0])}])
@pytest.mark.parametrize(("net", "n_compiled"), [(KNOWN, 0 if kernels_work() else 1), (UNKNOWN, 1)])
def test_a_compiled_rollout_is_the_plain_one(counter, spaces, more, net, n_compiled):
    plain, fast = make(spaces, False, net), make(spaces, True, net)
    fast.load_state_dict(plain.state_dict())
    torch.testing.assert_close(roll(fast, 4, 3, **more).state, roll(plain, 4, 3, **more).state)
    assert counter.frame_count == n_compiled


def test_horizons_and_repeated_batch_sizes_compile_nothing_anew(counter):
    model = make(SPACES["plain"], compile=True)
    for n_rows in (4, 7, 4, 7):  # the second size compiles for all sizes
        roll(model, n_rows, 3)
    for n_rows, horizon in ((4, 9), (9, 3), (7, 1), (30, 5)):
        roll(model, n_rows, horizon)
    assert counter.frame_count == 2


@BOTH
def test_what_was_learned_since_counts(counter, net):
    model, plain = make(SPACES["plain"], True, net), make(SPACES["plain"], False, net)
    roll(model, 4, 3)
    with torch.no_grad():
        for parameter in model.get_parameters():
            parameter.mul_(1.5)
    plain.load_state_dict(model.state_dict())
    torch.testing.assert_close(roll(model, 4, 3).state, roll(plain, 4, 3).state)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # torch looks at all of them
@BOTH
def test_gradients_reach_actions_and_parameters(counter, net):
    model = make(SPACES["plain"], True, net)
    actions = draw(ACTION, 4, 3).requires_grad_()
    model.rollout(draw(model.state_space, 4), None, actions).state.sum().backward()
    assert actions.grad.abs().sum() > 0
    assert all(parameter.grad is not None for parameter in model.members.nets.parameters())


@pytest.mark.parametrize(
    "net", [KNOWN, UNKNOWN, partial(KNOWN, prior_scale=1.0)], ids=["fused", "compiled", "fused with a prior"]
)
@pytest.mark.parametrize("spaces", SPACES.values(), ids=SPACES.keys())
@pytest.mark.parametrize(
    "more",
    [
        {"n_modes": 1},
        {"n_modes": 1, "weighted_loss": True, "partition_batch": True},
        {"n_modes": 1, "beta_nll": 0.5},
        {"n_modes": 2},
    ],
)
def test_losses_their_gradients_and_scores_are_the_plain_ones(counter, spaces, net, more):
    plain, fast = make(spaces, False, net, **more), make(spaces, True, net, **more)
    fast.load_state_dict(plain.state_dict())
    batch = make_batch(50, *spaces, weight=torch.rand(50), mask=torch.rand(50) < 0.7)
    losses = [model.get_member_losses(batch) for model in (fast, plain)]
    torch.testing.assert_close(*losses)
    for loss in losses:
        loss.sum().backward()
    for fused, own in zip(fast.get_parameters(), plain.get_parameters(), strict=True):
        torch.testing.assert_close(fused.grad, own.grad, rtol=1e-4, atol=1e-5)
    for fused, own in zip(*(model.get_member_scores(batch) for model in (fast, plain)), strict=True):
        torch.testing.assert_close(fused, own, rtol=1e-5, atol=1e-5)


@BOTH
def test_a_deep_copy_is_compiled_too_and_independent(counter, net):
    model = make(SPACES["plain"], True, net)
    before = roll(model, 4, 3)
    twin = copy.deepcopy(model)
    for parameter in model.get_parameters():
        parameter.data.zero_()
    torch.testing.assert_close(roll(twin, 4, 3).state, before.state)


def test_what_multiplies_in_bfloat16_is_not_fused(counter):
    models = [
        make(SPACES["plain"], compile, KNOWN, n_modes=1, matmul_precision="bfloat16") for compile in (True, False)
    ]
    first, second = (roll(model, 4, 3).state for model in models)
    torch.testing.assert_close(first, second, rtol=0.05, atol=0.05)
    assert counter.frame_count == 1
