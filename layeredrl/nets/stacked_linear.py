"""Linear layers of E members, all at once."""

import copy
from collections import OrderedDict
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from layeredrl.nets.bounded_features import BoundedFeatures
from layeredrl.nets.native.fully_connected import ACTIVATIONS, as_bounds, fully_connected
from layeredrl.nets.native.library import kernels_serve, kernels_work

# What treats every number alike, and so doesn't care how many members or rows there are; and what of it can
# overwrite its input.
IN_PLACE = (nn.ELU, nn.LeakyReLU, nn.Mish, nn.ReLU, nn.SiLU)
ELEMENTWISE = (*IN_PLACE, nn.GELU, nn.Identity, nn.Sigmoid, nn.Softplus, nn.Tanh)


class StackedLinear(nn.Module):
    """E linear layers as one: `(E, …, in)` to `(E, …, out)`."""

    def __init__(self, weight: Float[Tensor, "E n_out n_in"], bias: Float[Tensor, "E n_out"] | None):
        super().__init__()
        self.weight = weight
        self.bias = bias

    def forward(self, x: Float[Tensor, "E *batch n_in"]) -> Float[Tensor, "E *batch n_out"]:
        return _as_rows(self.apply_to_columns(_as_columns(x)), x)

    def apply_to_columns(self, columns: Float[Tensor, "E n_in R"]) -> Float[Tensor, "E n_out R"]:
        """The same for rows that stand upright. The product of few takes two thirds of the time that way."""
        y = torch.bmm(self.weight, columns)
        # `baddbmm` would copy the bias to all rows first: a training step took a fifth longer.
        return y if self.bias is None else y.add_(self.bias.unsqueeze(-1))


class StackedSequence(nn.Sequential):
    """Stacked linear layers, elementwise activations and bounds, between which rows stand upright all the way."""

    def forward(self, x: Float[Tensor, "E *batch n_in"]) -> Float[Tensor, "E *batch n_out"]:
        columns = _as_columns(x)
        for layer in self:
            if isinstance(layer, (StackedLinear, BoundedFeatures)):
                columns = layer.apply_to_columns(columns)
            else:
                columns = layer(columns)
        return _as_rows(columns, x)


class FusedSequence(StackedSequence):
    """One that is a single operation, for float32 rows on a CPU."""

    def __init__(self, layers: "OrderedDict[str, nn.Module]"):
        super().__init__(layers)
        unbounded, bounds = split_bounds(list(self))
        # To find these at each call would take as long as small products.
        self._linear = [layer for layer in unbounded if isinstance(layer, StackedLinear)]
        self._activation = ACTIVATIONS.index(type(unbounded[1])) if len(unbounded) > 1 else 0
        self._bounds = None if bounds is None else as_bounds(bounds)

    def forward(self, x: Float[Tensor, "E *batch n_in"]) -> Float[Tensor, "E *batch n_out"]:
        weights, biases = [layer.weight for layer in self._linear], [layer.bias for layer in self._linear]
        if not kernels_serve(x) or weights[0].dtype != torch.float32:
            return super().forward(x)
        return _as_rows(fully_connected(x.flatten(1, -2), weights, biases, self._activation, self._bounds), x)


def exchange_linear_layers(stacked: nn.Module, *, fuse: bool = False) -> nn.Module:
    """A copy of a module with stacked tensors, whose linear layers can use them.

    Args:
        stacked: the module.
        fuse: whether sequences that the kernels of `fully_connected` know are to be run by them.
    """
    stacked = copy.deepcopy(stacked)
    for module in list(stacked.modules()):
        for name, layer in list(module.named_children()):
            if type(layer) is nn.Linear:
                setattr(module, name, StackedLinear(layer.weight, layer.bias))
    for module in list(stacked.modules()):
        for name, part in list(module.named_children()):
            setattr(module, name, _in_sequence(part, fuse))
    return _in_sequence(stacked, fuse)


def _in_sequence(part: nn.Module, fuse: bool) -> nn.Module:
    """The same layers, with rows upright all the way or as one operation, where they are fully connected."""
    if type(part) is not nn.Sequential or not is_fully_connected(list(part)):
        return part
    sequence = FusedSequence if fuse and _can_be_fused(list(part)) else StackedSequence
    return sequence(OrderedDict(part.named_children()))


def is_fully_connected(layers: Sequence[nn.Module]) -> bool:
    """Whether there are only stacked linear layers, one at least, and elementwise activations, bounded or not."""
    kinds = {type(layer) for layer in split_bounds(layers)[0]}
    return StackedLinear in kinds and all(issubclass(kind, (StackedLinear, *ELEMENTWISE)) for kind in kinds)


def split_bounds(layers: Sequence[nn.Module]) -> tuple[Sequence[nn.Module], BoundedFeatures | None]:
    """The layers but for bounds at their end, and these."""
    last = layers[-1] if layers else None
    return (layers[:-1], last) if isinstance(last, BoundedFeatures) else (layers, None)


def _can_be_fused(layers: Sequence[nn.Module]) -> bool:
    """Whether linear layers alternate with one activation that the kernels know, bounded or not, and they work."""
    layers, _ = split_bounds(layers)
    linear, between = layers[::2], {type(layer) for layer in layers[1::2]}
    alternate = len(layers) % 2 == 1 and all(isinstance(layer, StackedLinear) for layer in linear)
    return alternate and len(between) <= 1 and between <= set(ACTIVATIONS) and kernels_work()


def _as_columns(x: Float[Tensor, "E *batch n"]) -> Float[Tensor, "E n R"]:
    return x.mT if x.ndim == 3 else x.flatten(1, -2).mT


def _as_rows(columns: Float[Tensor, "E n R"], x: Float[Tensor, "E *batch n_in"]) -> Float[Tensor, "E *batch n"]:
    """Rows with the leading dims of those of `x`."""
    return columns.mT if x.ndim == 3 else columns.mT.unflatten(1, x.shape[1:-1])
