"""Stacked: E modules run as one answer as a plain loop over them does."""

import copy
import re
import warnings
from functools import partial

import pytest
import torch
from torch import nn

from layeredrl.nets import turns
from layeredrl.nets.stacked import Stacked
from layeredrl.nets.stacked_linear import StackedLinear
from layeredrl.nets.turns import ROWS_FOR_TURNS
from tests.nets.loops import IN, OUT, E, assert_equals_a_loop, inner, last, rows_of_all_kinds, sequential


class OwnParameters(nn.Module):
    """Parameters that belong to no layer, a frozen one among them, and a buffer."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.randn(IN, OUT))
        self.frozen = nn.Parameter(torch.randn(OUT), requires_grad=False)
        self.register_buffer("offset", torch.randn(()))

    def forward(self, x):
        return (x @ self.gain * self.frozen).sin() + self.offset


class Apply(nn.Module):
    """Any function, without tensors."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def tied():
    """One parameter under two names."""
    net = nn.Sequential(nn.Linear(IN, IN), nn.ReLU(), nn.Linear(IN, IN))
    net[2].weight = net[0].weight
    return net


FAST = {
    "linear": sequential(inner, nn.ReLU, partial(last, bias=False)),
    "bare-linear": partial(nn.Linear, IN, OUT),
    "layer-norm": sequential(inner, partial(nn.LayerNorm, 8), nn.SiLU, last),
    "batch-norm": sequential(inner, partial(nn.BatchNorm1d, 8), last),
    "dropout": sequential(inner, nn.Dropout, last),
    "dropout-and-norm": sequential(inner, nn.Dropout, partial(nn.LayerNorm, 8)),
    "own-parameters": OwnParameters,
    "depends-on-all-rows": sequential(partial(Apply, lambda x: x - x.mean()), inner, last),
    "activations-first": sequential(lambda: nn.Sequential(nn.Tanh(), nn.ReLU()), nn.SiLU, inner, nn.GELU, last),
    "no-tensors": partial(Apply, lambda x: x[1:].cumsum(dim=0)),
}
SLOW = {
    "branches": sequential(partial(Apply, lambda x: x if x.sum() > 0 else 2 * x), inner),
    "attributes": sequential(inner, lambda: Apply(partial(torch.mul, torch.rand(()).item()))),
}
STOCHASTIC = sequential(inner, partial(Apply, lambda x: x + torch.randn_like(x)))
MAKERS = FAST | SLOW
ALL = pytest.mark.parametrize("kind", MAKERS)


def build(kind, n_members=E):
    """Members and their stack; a warning is no error here."""
    members = [MAKERS[kind]() for _ in range(n_members)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return members, Stacked(members, (torch.randn(5, IN),))


@ALL
@pytest.mark.parametrize("n_rows", [1, 6, ROWS_FOR_TURNS])
def test_values_and_gradients_are_those_of_a_loop_in_eval_mode(kind, n_rows):
    members, stacked = build(kind)
    for module in (*members, stacked):
        module.eval()
    assert_equals_a_loop(members, stacked, rows_of_all_kinds(n_rows))


@pytest.mark.parametrize("kind", [kind for kind in MAKERS if "dropout" not in kind])
@pytest.mark.parametrize("n_members", [1, 3])
def test_values_and_gradients_are_those_of_a_loop_in_training(kind, n_members):
    members, stacked = build(kind, n_members)
    assert_equals_a_loop(members, stacked, rows_of_all_kinds(n_members=n_members))


@pytest.mark.parametrize("n_rows", [3, ROWS_FOR_TURNS])
def test_further_leading_dims_are_kept(n_rows):
    members, stacked = build("linear")
    assert_equals_a_loop(members, stacked, torch.randn(E, 2, n_rows, IN))
    assert stacked(torch.randn(E, 0, IN)).shape == (E, 0, OUT)


def test_tied_parameters_stay_tied():
    members = [tied() for _ in range(E)]
    stacked = Stacked(members, (torch.randn(5, IN),))
    assert_equals_a_loop(members, stacked, rows_of_all_kinds())


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
def test_lazy_layers_get_their_sizes_from_the_example():
    members = [nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.LazyLinear(OUT)) for _ in range(E)]
    stacked = Stacked(members, (torch.randn(5, IN),))
    assert_equals_a_loop(members, stacked, rows_of_all_kinds())


def test_statistics_of_batch_norm_are_each_members_own():
    members, stacked = build("batch-norm")
    x = rows_of_all_kinds()
    stacked(x)
    for member, rows in zip(members, x, strict=True):
        member(rows)
    for name, value in stacked.members.named_buffers():
        torch.testing.assert_close(value, torch.stack([dict(m.named_buffers())[name] for m in members]))


def test_dropout_drops_for_each_member_apart_and_only_in_training():
    stacked = Stacked([nn.Sequential(nn.Dropout(0.25)) for _ in range(E)], (torch.randn(5, IN),))
    dropped = stacked(torch.ones(E, 2000, IN)) == 0
    assert dropped.float().mean(dim=(1, 2)).tolist() == pytest.approx([0.25] * E, abs=0.03)
    assert not torch.equal(dropped[0], dropped[1])
    assert (stacked.eval()(torch.ones(E, 5, IN)) == 1).all()


@pytest.mark.parametrize("kind", FAST)
def test_ordinary_modules_run_without_a_warning(kind):
    Stacked([FAST[kind]() for _ in range(E)], (torch.randn(5, IN),))


@pytest.mark.parametrize("kind", SLOW)
def test_a_module_that_has_to_be_looped_warns_once(kind):
    with pytest.warns(UserWarning, match=r"^\w+ runs one member after the other, which is slow: ") as caught:
        stacked = Stacked([SLOW[kind]() for _ in range(E)], (torch.randn(5, IN),))
    assert len(caught) == 1
    stacked(rows_of_all_kinds())  # would raise at another one


@ALL
@pytest.mark.parametrize("indices", [[2, 0], [1], [0, 1, 2]])
def test_select_runs_the_chosen_members_in_that_order(kind, indices):
    members, stacked = build(kind)
    for module in (*members, stacked):
        module.eval()
    x = rows_of_all_kinds()[: len(indices)]
    expected = torch.stack([members[e](rows) for e, rows in zip(indices, x, strict=True)])
    torch.testing.assert_close(stacked.select(torch.tensor(indices)).run(x), expected, rtol=1e-4, atol=1e-5)


@ALL
@pytest.mark.parametrize("n_rows", [ROWS_FOR_TURNS - 1, ROWS_FOR_TURNS])
@pytest.mark.parametrize("indices", [None, [2, 0]])
@torch.no_grad()
def test_many_rows_without_gradients_are_answered_as_by_a_loop(kind, n_rows, indices):
    members, stacked = build(kind)
    for module in (*members, stacked):
        module.eval()
    chosen = range(E) if indices is None else indices
    x = rows_of_all_kinds(n_rows)[: len(chosen)]
    expected = torch.stack([members[e](rows) for e, rows in zip(chosen, x, strict=True)])
    run = stacked.select(None if indices is None else torch.tensor(indices)).run
    for _ in range(2):
        torch.testing.assert_close(run(x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("by_onednn", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@torch.no_grad()
def test_many_rows_may_have_any_layout_and_precision(by_onednn, dtype, monkeypatch):
    monkeypatch.setattr(turns, "onednn_is_faster", lambda: by_onednn)
    monkeypatch.setattr(turns, "BLOCK_ROWS", 300)
    members, stacked = build("linear")
    members, stacked = [member.to(dtype) for member in members], stacked.to(dtype)
    assert any(isinstance(module, StackedLinear) for module in stacked.modules())  # the way that takes turns
    x = torch.randn(E, IN, 2, ROWS_FOR_TURNS, dtype=dtype).movedim(1, -1)  # strided, with a further leading dim
    expected = torch.stack([member(rows) for member, rows in zip(members, x, strict=True)])
    torch.testing.assert_close(stacked.select(None).run(x), expected, rtol=1e-4, atol=1e-5)


def test_products_of_lower_precision_cost_three_digits():
    members = [MAKERS["linear"]() for _ in range(E)]
    stacked = Stacked(members, (torch.randn(5, IN),), matmul_precision="bfloat16")
    x = rows_of_all_kinds(ROWS_FOR_TURNS)
    exact, with_gradients = torch.stack([m(rows) for m, rows in zip(members, x, strict=True)]), stacked.select(None)
    torch.testing.assert_close(with_gradients.run(x), exact)
    with torch.no_grad():
        error = stacked.select(None).run(x) - exact
    assert 1e-5 < error.abs().mean() / exact.std() < 0.01
    assert error.dtype == torch.float32


@pytest.mark.parametrize("precision", ["float16", torch.float64])
def test_other_precisions_of_products_are_refused(precision, unchecked):
    expected = re.escape(f"matmul_precision: got {precision!r}, expected one of float32, tf32, bfloat16")
    with pytest.raises(ValueError, match=expected):
        Stacked([nn.Linear(IN, OUT)], (torch.randn(5, IN),), matmul_precision=precision)


def test_lower_precision_without_onednn_is_refused(monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    with pytest.raises(ValueError, match="this torch lacks oneDNN"):
        Stacked([nn.Linear(IN, OUT)], (torch.randn(5, IN),), matmul_precision="bfloat16")


@torch.no_grad()
def test_what_is_selected_anew_follows_the_parameters():
    members, stacked = build("linear")
    x = rows_of_all_kinds(ROWS_FOR_TURNS)
    stacked.select(None).run(x)
    for member, parameters in zip(members, zip(*stacked.parameters(), strict=True), strict=True):
        for own, parameter in zip(member.parameters(), parameters, strict=True):
            own.add_(0.5)
            parameter.add_(0.5)
    expected = torch.stack([member(rows) for member, rows in zip(members, x, strict=True)])
    torch.testing.assert_close(stacked.select(None).run(x), expected, rtol=1e-4, atol=1e-4)


def test_members_keep_their_own_values_and_are_copied():
    members, stacked = build("linear")
    weight = dict(stacked.members.named_parameters())["0.weight"]
    assert torch.equal(weight, torch.stack([member[0].weight for member in members]))
    assert not torch.equal(weight[0], weight[1])
    before = weight.detach().clone()
    nn.init.zeros_(members[0][0].weight)
    assert torch.equal(weight, before)


def test_inputs_may_be_missing_and_outputs_nested():
    class Nested(nn.Linear):
        def forward(self, x, context, y):
            return (super().forward(x), x + y), y[..., 0]

    members = [Nested(IN, OUT) for _ in range(E)]
    stacked = Stacked(members, (torch.randn(5, IN), None, torch.randn(5, IN)))
    x, y = torch.randn(2, E, 6, IN)
    (first, second), third = stacked(x, None, y)
    torch.testing.assert_close(first[1], nn.Linear.forward(members[1], x[1]))
    assert torch.equal(second, x + y)
    assert torch.equal(third, y[..., 0])


def test_members_of_different_shapes_are_refused():
    members = [nn.Sequential(nn.Linear(n_in, 8)) for n_in in (IN, IN, 5)]
    with pytest.raises(ValueError, match=r"member 2: got 0\.weight \(8, 5\), expected \(8, 4\) as in member 0"):
        Stacked(members, (torch.randn(5, IN),))
    members[2] = nn.Sequential(nn.Linear(IN, 8, bias=False))
    with pytest.raises(ValueError, match=r"member 2: got 0\.bias nothing, expected \(8,\)"):
        Stacked(members, (torch.randn(5, IN),))


@pytest.mark.parametrize("kind", [kind for kind in MAKERS if kind != "attributes"])
def test_state_dict_carries_the_members(kind):
    (_, first), (_, second) = build(kind), build(kind)
    second.load_state_dict(first.state_dict())
    x = rows_of_all_kinds()
    torch.testing.assert_close(first.eval()(x), second.eval()(x))


@ALL
def test_a_deep_copy_answers_alike_and_is_independent(kind):
    _, stacked = build(kind)
    x, twin = rows_of_all_kinds(), copy.deepcopy(stacked.eval())
    expected = stacked(x)
    for parameter in stacked.parameters():
        parameter.data.zero_()
    torch.testing.assert_close(twin(x), expected)


@pytest.mark.parametrize("make", [*MAKERS.values(), STOCHASTIC], ids=[*MAKERS, "stochastic"])
def test_construction_leaves_the_global_random_state_alone(make):
    members, example = [make() for _ in range(E)], torch.randn(5, IN)
    before = torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        Stacked(members, (example,))
    assert torch.equal(torch.get_rng_state(), before)


def test_construction_leaves_the_members_as_they_were():
    members = [MAKERS["batch-norm"]().eval() for _ in range(E)]
    before = [copy.deepcopy(member.state_dict()) for member in members]
    Stacked(members, (torch.randn(5, IN),))
    for member, own in zip(members, before, strict=True):
        assert all(torch.equal(value, own[name]) for name, value in member.state_dict().items())
        assert not any(module.training for module in member.modules())


class SharedActivation(nn.Module):
    """Its activation also serves where what it reads is needed again."""

    def __init__(self):
        super().__init__()
        self.activation = nn.SiLU()
        self.first = nn.Sequential(nn.Linear(IN, IN), self.activation)

    def forward(self, x):
        hidden = self.first(x)
        return hidden - 3 * self.activation(hidden)


@torch.no_grad()
def test_work_in_place_changes_neither_answers_nor_inputs():
    members = [SharedActivation().eval() for _ in range(E)]
    stacked = Stacked(members, (torch.randn(5, IN),)).eval()
    x = torch.randn(E, ROWS_FOR_TURNS, IN)
    before = x.clone()
    expected = torch.stack([member(rows) for member, rows in zip(members, x, strict=True)])
    torch.testing.assert_close(stacked.select(None).run(x), expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(x, before)
    assert not any(module.inplace for module in stacked.modules() if isinstance(module, nn.SiLU))
