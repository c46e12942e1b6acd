"""Linear layers of E members: all at once for few rows, one member after the other for many."""

import copy
import itertools
from collections.abc import Sequence
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import linear
from torch.utils._pytree import tree_map

Inputs = tuple[Tensor | None, ...]

# From this many rows per member on, one member after the other beats all at once, on CPUs and without gradients:
# what lies between a member's layers stays in the processor's cache.
ROWS_FOR_TURNS = 512


class StackedLinear(nn.Module):
    """E linear layers as one: `(E, …, in)` to `(E, …, out)`."""

    def __init__(self, weight: Float[Tensor, "E n_out n_in"], bias: Float[Tensor, "E n_out"] | None):
        super().__init__()
        self.weight = weight
        self.bias = bias

    def forward(self, x: Float[Tensor, "E *batch n_in"]) -> Float[Tensor, "E *batch n_out"]:
        rows = x.flatten(1, -2)
        weight = rearrange(self.weight, "e n_out n_in -> e n_in n_out")
        if self.bias is None:
            y = torch.bmm(rows, weight)
        else:
            y = torch.baddbmm(rearrange(self.bias, "e n_out -> e 1 n_out"), rows, weight)
        return y.view(*x.shape[:-1], y.shape[-1])

    def member(self, e: int) -> "MemberLinear":
        """The layer of one member."""
        return MemberLinear(self.weight[e].detach(), None if self.bias is None else self.bias[e].detach())


class MemberLinear(nn.Module):
    """The linear layer of one member as its tensors are now, on a CPU and without gradients.

    Done by oneDNN where torch has it, with the operator that `torch.compile` takes too. MKL, which does torch's
    other products, leaves unused half of what some processors can do that are not Intel's.
    """

    def __init__(self, weight: Float[Tensor, "n_out n_in"], bias: Float[Tensor, " n_out"] | None):
        super().__init__()
        has_onednn = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        self.by_onednn = has_onednn and weight.dtype == torch.float32
        self.weight, self.bias = weight.to_mkldnn() if self.by_onednn else weight, bias

    def forward(self, x: Float[Tensor, "*batch n_in"]) -> Float[Tensor, "*batch n_out"]:
        if self.by_onednn:
            return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
        return linear(x, self.weight, self.bias)


def exchange_linear_layers(stacked: nn.Module) -> nn.Module:
    """A copy of a module with stacked tensors, whose linear layers can use them."""
    stacked = copy.deepcopy(stacked)
    for module in list(stacked.modules()):
        for name, layer in list(module.named_children()):
            if type(layer) is nn.Linear:
                setattr(module, name, StackedLinear(layer.weight, layer.bias))
    return stacked


def separate_members(exchanged: nn.Module, chosen: Sequence[int]) -> list[nn.Module]:
    """The chosen members by themselves, as their tensors are now, each for inputs with a leading axis of 1."""
    layers = [module for module in exchanged.modules() if isinstance(module, StackedLinear)]
    # What the memo of a deep copy holds is taken instead of a copy.
    members = [copy.deepcopy(exchanged, {id(layer): layer.member(e) for layer in layers}) for e in chosen]
    for member in members:
        _overwrite_what_linear_layers_made(member)
    return members


def _overwrite_what_linear_layers_made(member: nn.Module) -> None:
    """Let activations work in place where nothing else can read their input: right behind a layer in a sequence.

    Otherwise each takes fresh memory from the system, which costs more than the activation itself.
    """
    for sequence in (module for module in member.modules() if isinstance(module, nn.Sequential)):
        for layer, activation in itertools.pairwise(sequence):
            if isinstance(layer, MemberLinear) and isinstance(activation, nn.SiLU | nn.ReLU):
                activation.inplace = True


def turns_pay(x: Float[Tensor, "E *batch n_in"]) -> bool:
    """Whether it is faster to let each member do all its layers before the next one begins."""
    n_rows = x.shape[1:-1].numel()
    return n_rows >= ROWS_FOR_TURNS and x.device.type == "cpu" and not torch.is_grad_enabled()


def take_turns(members: Sequence[nn.Module], inputs: Inputs) -> Any:
    """Run each of the separate members on its part of the inputs; the outputs have the leading axis E again."""
    outputs = []
    for place, member in enumerate(members):
        outputs.append(member(*(None if x is None else x[place : place + 1] for x in inputs)))
    return tree_map(lambda *leaves: torch.cat(leaves), *outputs)
