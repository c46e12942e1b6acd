"""Many rows without gradients on a CPU: members take turns, so that what lies between layers stays in the cache."""

import copy
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from layeredrl.nets.precision import MatmulPrecision, has_onednn, layer_dtype
from layeredrl.nets.stacked_linear import IN_PLACE, StackedLinear, is_fully_connected, split_bounds

# From this many rows per member on, one member after the other beats all at once.
ROWS_FOR_TURNS = 512
# Rows that go through all layers before the next ones do: their activations fill about half of a large cache.
BLOCK_ROWS = 2048


def turns_pay(x: Float[Tensor, "E *batch n_in"]) -> bool:
    """Whether it is faster to let each member do all its layers before the next one begins."""
    n_rows = x.shape[1:-1].numel()
    return n_rows >= ROWS_FOR_TURNS and x.device.type == "cpu" and not torch.is_grad_enabled()


def take_turns(exchanged: nn.Module, chosen: Sequence[int], precision: MatmulPrecision, n_rows: int) -> nn.Module:
    """A copy of a module with stacked layers, in which the chosen members take turns, as their tensors are now.

    Args:
        exchanged: whose linear layers are all stacked.
        chosen: members, in the order of the inputs' leading axis.
        precision: in which layers multiply, and hand on what they have computed.
        n_rows: of each member that it will be asked about, roughly.
    """
    # What the memo of a deep copy holds is taken instead of a copy.
    memo = {id(part): LayersInTurn(part, chosen, precision, n_rows) for part in _parts_that_take_turns(exchanged)}
    return copy.deepcopy(exchanged, memo)


def _parts_that_take_turns(module: nn.Module) -> Iterator[nn.Module]:
    """The outermost sequences of linear layers and activations, and the linear layers that are in none."""
    layers = list(module) if isinstance(module, nn.Sequential) else [module]
    if is_fully_connected(layers):
        yield module
        return
    for child in module.children():
        yield from _parts_that_take_turns(child)


class LayersInTurn(nn.Module):
    """Layers of several members, `(E, …, in)` to `(E, …, out)`: all those of one member, then the next one's.

    Args:
        layers: a stacked linear layer, or a sequence of these and of elementwise activations, bounded or not.
        chosen, precision, n_rows: as for `take_turns`.
    """

    def __init__(self, layers: nn.Module, chosen: Sequence[int], precision: MatmulPrecision, n_rows: int):
        super().__init__()
        sequence, self.bounds = split_bounds(list(layers) if isinstance(layers, nn.Sequential) else [layers])
        self.block_rows = min(n_rows, BLOCK_ROWS)
        linear_layers = [layer for layer in sequence if isinstance(layer, StackedLinear)]
        self.n_outputs = linear_layers[-1].weight.shape[1]
        widest = max(layer.weight.shape[1] for layer in linear_layers)
        self.dtype = layer_dtype(linear_layers[0].weight.dtype, precision)
        by_onednn = self.dtype == torch.bfloat16 or (self.dtype == torch.float32 and onednn_is_faster())
        # Linear layers write to these in turn. Fresh memory from the system would cost more than an activation.
        buffers = None if by_onednn else linear_layers[0].weight.new_empty(2, self.block_rows * widest)
        self.members = [_member_layers(sequence, e, self.dtype, buffers, self.block_rows) for e in chosen]

    def forward(self, x: Float[Tensor, "E *batch n_in"]) -> Float[Tensor, "E *batch n_out"]:
        rows = x.flatten(1, -2)
        out = rows.new_empty(*rows.shape[:2], self.n_outputs)
        for (*inner, last), own_rows, own_out in zip(self.members, rows, out, strict=True):
            for block, block_out in zip(*(y.split(self.block_rows) for y in (own_rows, own_out)), strict=True):
                block = block.to(self.dtype)
                for layer in inner:
                    block = layer(block, None)
                block = last(block, block_out)
                if block is not block_out:
                    block_out.copy_(block)
        if self.bounds is not None:
            self.bounds.apply_in_place(out)
        return out.view(*x.shape[:-1], self.n_outputs)


# (rows, where the outcome should go if the layer can choose) -> the outcome
_Layer = Callable[[Float[Tensor, "R n_in"], Float[Tensor, "R n_out"] | None], Float[Tensor, "R n_out"]]


def _member_layers(
    sequence: Sequence[nn.Module],
    e: int,
    dtype: torch.dtype,
    buffers: Float[Tensor, "2 numbers"] | None,
    n_rows: int,
) -> list[_Layer]:
    """The layers of one member as its tensors are now: with buffers, done by MKL, without, by oneDNN."""
    turns = None if buffers is None else itertools.cycle(buffers)
    layers: list[_Layer] = []
    for i, layer in enumerate(sequence):
        if isinstance(layer, StackedLinear):
            weight = layer.weight[e].detach().to(dtype)
            bias = None if layer.bias is None else layer.bias[e].detach().to(dtype)
            if turns is None:
                layers.append(_by_onednn(weight, bias, n_rows))
            else:
                layers.append(_by_mkl(weight, bias, next(turns)[: n_rows * len(weight)].view(n_rows, -1)))
            continue
        activation = copy.copy(layer)
        # Nothing else can read what a linear layer returns.
        if i > 0 and isinstance(sequence[i - 1], StackedLinear) and isinstance(activation, IN_PLACE):
            activation.inplace = True
        layers.append(_wherever(activation.forward))
    return layers


def _wherever(function: Callable[[Tensor], Tensor]) -> _Layer:
    """A layer that can't choose where its outcome goes."""
    return lambda rows, _: function(rows)


def onednn_is_faster() -> bool:
    """MKL, which does torch's products, leaves unused half of what some processors can do that are not Intel's."""
    return has_onednn() and "Intel" not in _processor()


def _processor() -> str:
    """What torch knows of the processor's name; older versions know nothing."""
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return str(capabilities.get("cpu_name", ""))


def _by_mkl(
    weight: Float[Tensor, "n_out n_in"],
    bias: Float[Tensor, " n_out"] | None,
    buffer: Float[Tensor, "n_rows n_out"],
) -> _Layer:
    columns = weight.t().contiguous()

    def apply(rows: Tensor, out: Tensor | None) -> Tensor:
        if out is None:
            out = buffer if len(rows) == len(buffer) else buffer[: len(rows)]
        torch.mm(rows, columns, out=out)
        # `addmm` would copy the bias to all rows first, and take a third longer.
        return out if bias is None else out.add_(bias)

    return apply


def _by_onednn(weight: Float[Tensor, "n_out n_in"], bias: Float[Tensor, " n_out"] | None, n_rows: int) -> _Layer:
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, n_rows)
    return _wherever(lambda rows: torch.ops.mkldnn._linear_pointwise(rows, packed, bias, "none", [], ""))
