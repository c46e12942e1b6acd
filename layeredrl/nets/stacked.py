"""Run E copies of any module as one.

A stack keeps each tensor of its members under the member's own name, with a leading axis E. How the members are
run is decided once, see `layeredrl/nets/ways.py`.
"""

from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from layeredrl.nets.memory import keep_freed_memory
from layeredrl.nets.native.library import kernels_serve
from layeredrl.nets.precision import MatmulPrecision, check_matmul_precision, multiplying_on_gpu
from layeredrl.nets.stacked_linear import FusedSequence
from layeredrl.nets.turns import take_turns, turns_pay
from layeredrl.nets.ways import Inputs, Way, choose_way, first_of, named_tensors, run_exchanged


class Stacked(nn.Module):
    """E modules of one architecture, run as one.

    Args:
        members: freshly initialised modules with tensors of the same names and shapes. Copied, not kept.
        example: inputs for one member, on which the ways of running are tried: some rows of ordinary values, all
            different, and not E of them.
        matmul_precision: in which selected members multiply where no gradient is asked for: on a CPU, many rows.
        fuse: whether fully connected layers are to be one operation on a CPU.

    Raises:
        ValueError: the members' tensors differ in name or shape.
    """

    def __init__(
        self,
        members: Sequence[nn.Module],
        example: Inputs,
        *,
        matmul_precision: MatmulPrecision = "float32",
        fuse: bool = False,
    ):
        super().__init__()
        keep_freed_memory()
        check_matmul_precision(matmul_precision)
        self.n_members, self.matmul_precision = len(members), matmul_precision
        self.members, self._way = choose_way(members, example, fuse and matmul_precision != "bfloat16")
        self._is_fused = any(isinstance(part, FusedSequence) for part in self.members.modules())

    def forward(self, *inputs: Tensor | None) -> Any:
        """Run member `e` on `inputs[…][e]`; the outputs have the leading axis E as well."""
        if self._way is run_exchanged:
            return self.members(*inputs)
        return self._way(self.members, dict(named_tensors(self.members)), range(self.n_members), inputs)

    def select(self, indices: Tensor | None) -> "Selection":
        """What runs the members at `indices` (None: all), in that order, on inputs with as many leading rows.

        Unlike `forward`, it never changes a buffer, not even in training mode. Select anew when tensors have
        changed: what makes many calls fast is prepared once, by the first of them.
        """
        chosen = tuple(range(self.n_members) if indices is None else indices.tolist())
        return Selection(partial(self._all_at_once, indices, chosen), self.matmul_precision, self._is_fused)

    def _all_at_once(self, indices: Tensor | None, chosen: Sequence[int]) -> "AllAtOnce":
        if indices is None and self._way is run_exchanged:  # which have no buffers
            return AllAtOnce(self._way, self.members, {}, chosen)
        tensors: dict[str, Tensor] = {name: buffer.clone() for name, buffer in self.members.named_buffers()}
        tensors |= self.members.named_parameters()
        if indices is not None:
            tensors = {name: tensor[indices] for name, tensor in tensors.items()}
        return AllAtOnce(self._way, self.members, tensors, chosen)


class AllAtOnce(NamedTuple):
    """Some members of a stack, and the way to run them together."""

    way: Way
    module: nn.Module
    tensors: dict[str, Tensor]  # none: the module's own
    chosen: Sequence[int]

    def run(self, *inputs: Tensor | None) -> Any:
        """Run the e-th of the members on `inputs[…][e]`; the outputs have a leading axis E as well."""
        return self.way(self.module, self.tensors, self.chosen, inputs)


class Selection:
    """Runs some members of a stack all at once, or by turns where that is faster."""

    def __init__(self, gather: Callable[[], AllAtOnce], precision: MatmulPrecision, is_fused: bool):
        self._gather, self.precision, self._is_fused = gather, precision, is_fused
        self._in_turns: dict[int, nn.Module] = {}  # by the number of rows

    @cached_property
    def all_at_once(self) -> AllAtOnce:
        """Gathered by the first call, inside the CUDA graph of a captured one, which so never finds old tensors."""
        return self._gather()

    def run(self, *inputs: Tensor | None) -> Any:
        """Run the e-th of the members on `inputs[…][e]`; the outputs have a leading axis E as well."""
        first = first_of(inputs)
        if self._takes_turns(first):
            return self._get_in_turns(first.shape[1:-1].numel())(*inputs)
        if self.precision == "float32" or first.device.type != "cuda" or torch.is_grad_enabled():
            return self.all_at_once.run(*inputs)
        with multiplying_on_gpu(self.precision):
            return tree_map(lambda x: x.to(first.dtype), self.all_at_once.run(*inputs))

    def gains_by_compiling(self, x: Float[Tensor, "E *batch n"]) -> bool:
        """Whether `torch.compile` could make the members faster for such inputs."""
        return not self._runs_fused(x) and not self._takes_turns(x)

    def _takes_turns(self, x: Float[Tensor, "E *batch n"]) -> bool:
        return not self._runs_fused(x) and self.all_at_once.way is run_exchanged and turns_pay(x)

    def _runs_fused(self, x: Float[Tensor, "E *batch n"]) -> bool:
        return self._is_fused and kernels_serve(x)

    def _get_in_turns(self, n_rows: int) -> nn.Module:
        if n_rows not in self._in_turns:
            module, chosen = self.all_at_once.module, self.all_at_once.chosen
            self._in_turns[n_rows] = take_turns(module, chosen, self.precision, n_rows)
        return self._in_turns[n_rows]
