"""Run E copies of any module as one.

A stack keeps each tensor of its members under the member's own name, with a leading axis E. How the members are
run is decided once, by trying on example inputs, fastest first:

* *exchanged*: every `nn.Linear` becomes a `StackedLinear`. Serves modules whose tensors all belong to Linear
  layers, that index from the right and treat each row alone. Many rows are run through one member after the
  other where that is faster, see `Stacked.select`;
* *vmapped*: `torch.func.vmap` over the stacked tensors. Serves nearly everything else;
* *looped*: one member after the other, with a warning. Serves modules that branch on their data, or whose members
  differ in more than their tensors.

A way that fails, or that answers otherwise than the members themselves do, is not taken.
"""

import copy
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_leaves, tree_map

from layeredrl.nets.memory import keep_freed_memory
from layeredrl.nets.precision import MatmulPrecision, check_matmul_precision, multiplying_on_gpu
from layeredrl.nets.stacked_linear import FusedSequence, exchange_linear_layers, runs_fused
from layeredrl.nets.turns import take_turns, turns_pay

Inputs = tuple[Tensor | None, ...]
# (module with stacked tensors, the tensors to use, which members they are, inputs) -> outputs with a leading E
Way = Callable[[nn.Module, dict[str, Tensor], Sequence[int], Inputs], Any]


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
        self.members, self._way = _choose_way(members, example, fuse and matmul_precision != "bfloat16")
        self._is_fused = any(isinstance(part, FusedSequence) for part in self.members.modules())

    def forward(self, *inputs: Tensor | None) -> Any:
        """Run member `e` on `inputs[…][e]`; the outputs have the leading axis E as well."""
        if self._way is _run_exchanged:
            return self.members(*inputs)
        return self._way(self.members, dict(_named_tensors(self.members)), range(self.n_members), inputs)

    def select(self, indices: Tensor | None) -> "Selection":
        """What runs the members at `indices` (None: all), in that order, on inputs with as many leading rows.

        Unlike `forward`, it never changes a buffer, not even in training mode. Select anew when tensors have
        changed: what makes many calls fast is prepared once, by the first of them.
        """
        chosen = tuple(range(self.n_members) if indices is None else indices.tolist())
        return Selection(partial(self._all_at_once, indices, chosen), self.matmul_precision, self._is_fused)

    def _all_at_once(self, indices: Tensor | None, chosen: Sequence[int]) -> "AllAtOnce":
        if indices is None and self._way is _run_exchanged:  # which have no buffers
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
        self._gather, self.precision, self._is_fused = cache(gather), precision, is_fused
        self._in_turns = cache(partial(_selected_in_turns, self._gather, precision))

    @property
    def all_at_once(self) -> AllAtOnce:
        """Gathered by the first call, inside the CUDA graph of a captured one, which so never finds old tensors."""
        return self._gather()

    def run(self, *inputs: Tensor | None) -> Any:
        """Run the e-th of the members on `inputs[…][e]`; the outputs have a leading axis E as well."""
        first = _first(inputs)
        if self._takes_turns(first):
            return self._in_turns(first.shape[1:-1].numel())(*inputs)
        if self.precision == "float32" or first.device.type != "cuda" or torch.is_grad_enabled():
            return self.all_at_once.run(*inputs)
        with multiplying_on_gpu(self.precision):
            return tree_map(lambda x: x.to(first.dtype), self.all_at_once.run(*inputs))

    def gains_by_compiling(self, x: Float[Tensor, "E *batch n"]) -> bool:
        """Whether `torch.compile` could make the members faster for such inputs."""
        return not self._takes_turns(x) and not self._runs_fused(x)

    def _takes_turns(self, x: Float[Tensor, "E *batch n"]) -> bool:
        return self.all_at_once.way is _run_exchanged and turns_pay(x) and not self._runs_fused(x)

    def _runs_fused(self, x: Float[Tensor, "E *batch n"]) -> bool:
        return self._is_fused and runs_fused(x)


def _selected_in_turns(gather: Callable[[], AllAtOnce], precision: MatmulPrecision, n_rows: int) -> nn.Module:
    all_at_once = gather()
    return take_turns(all_at_once.module, all_at_once.chosen, precision, n_rows)


def _choose_way(members: Sequence[nn.Module], example: Inputs, fuse: bool) -> tuple[nn.Module, Way]:
    """The fastest way of running that answers as the members do, and the stacked module it runs."""
    for member in members:
        _materialize(member, example)
    with torch.random.fork_rng(devices=[]):
        members = [copy.deepcopy(member) for member in members]
        stacked = _stack_tensors(members)
        looped = partial(_run_looped, members)
        # Every member gets other inputs, so that mixing up members or averaging over them shows.
        inputs = tuple(None if x is None else _vary(x, len(members)) for x in example)
        expected = _answers(looped, stacked, inputs)
        reason = _why_not(_run_vmapped, stacked, inputs, expected)
        if reason:
            name = type(members[0]).__name__
            warnings.warn(f"{name} runs one member after the other, which is slow: {reason}", stacklevel=4)
            return stacked, looped
        if _only_linear_layers_have_tensors(stacked):
            exchanged = exchange_linear_layers(stacked, fuse=fuse)
            if not any(_why_not(way, exchanged, inputs, expected) for way in (_run_exchanged, _run_in_turn)):
                return exchanged, _run_exchanged
        return stacked, _run_vmapped


def _vary(x: Float[Tensor, "B F"], n_members: int) -> Float[Tensor, "E B F"]:
    return torch.stack([(-1) ** e * x + 0.1 * e for e in range(n_members)])


@torch.no_grad()
def _materialize(member: nn.Module, example: Inputs) -> None:
    """Let lazy layers get their sizes."""
    if any(is_lazy(tensor) for _, tensor in _named_tensors(member)):
        member(*example)


def _why_not(way: Way, module: nn.Module, inputs: Inputs, expected: list[Any]) -> str:
    """Why a way doesn't serve, or an empty string."""
    try:
        answers = _answers(way, module, inputs)
    except Exception as error:
        return str(error).strip().splitlines()[0]
    pairs = list(zip(tree_leaves(answers), tree_leaves(expected), strict=True))
    same = all(a.shape == b.shape and torch.allclose(a, b, rtol=1e-3, atol=1e-4) for a, b in pairs)
    return "" if same else "members differ in more than their parameters and buffers"


@torch.no_grad()
def _answers(way: Way, module: nn.Module, inputs: Inputs) -> list[Any]:
    """Outputs in evaluation and in training mode, as zeros where they are random. Leaves the module as it was."""
    module = copy.deepcopy(module)
    everyone = range(len(_first(inputs)))
    answers = []
    for training in (False, True):
        module.train(training)
        random_state = torch.get_rng_state()
        answer = way(module, dict(_named_tensors(module)), everyone, inputs)
        is_random = not torch.equal(torch.get_rng_state(), random_state)
        answers.append(tree_map(torch.zeros_like, answer) if is_random else answer)
    return answers


def _run_exchanged(module: nn.Module, tensors: dict[str, Tensor], _: Sequence[int], inputs: Inputs) -> Any:
    # Exchanging a module's tensors for a call takes as long as the call, where rows are few.
    return functional_call(module, tensors, inputs) if tensors else module(*inputs)


def _run_in_turn(module: nn.Module, _: dict[str, Tensor], chosen: Sequence[int], inputs: Inputs) -> Any:
    first = _first(inputs)
    return take_turns(module, chosen, "float32", n_rows=first.shape[1])(*inputs)


def _first(inputs: Inputs) -> Tensor:
    return next(x for x in inputs if x is not None)


def _run_vmapped(module: nn.Module, tensors: dict[str, Tensor], _: Sequence[int], inputs: Inputs) -> Any:
    axes = tuple(None if x is None else 0 for x in inputs)
    return vmap(partial(functional_call, module), in_dims=(0, axes), randomness="different")(tensors, inputs)


def _run_looped(
    copies: list[nn.Module],
    module: nn.Module,
    tensors: dict[str, Tensor],
    chosen: Sequence[int],
    inputs: Inputs,
) -> Any:
    outputs = []
    for place, member in enumerate(chosen):
        own = {name: tensor[place] for name, tensor in tensors.items()}
        args = tuple(None if x is None else x[place] for x in inputs)
        outputs.append(functional_call(copies[member].train(module.training), own, args))
    return _stack_outputs(outputs)


def _stack_outputs(outputs: list[Any]) -> Any:
    return tree_map(lambda *leaves: torch.stack(leaves), *outputs)


def _named_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()


def _stack_tensors(members: Sequence[nn.Module]) -> nn.Module:
    """A copy of the first member whose tensors are those of all members, stacked."""
    tensors = [dict(_named_tensors(member)) for member in members]
    for e, own in enumerate(tensors):
        for name in sorted(own.keys() | tensors[0].keys()):
            shapes = [tuple(t[name].shape) if name in t else "nothing" for t in (own, tensors[0])]
            if shapes[0] != shapes[1]:
                raise ValueError(f"member {e}: got {name} {shapes[0]}, expected {shapes[1]} as in member 0")
    stacked = copy.deepcopy(members[0])
    together: dict[int, Tensor] = {}  # by identity, as a tensor can have several names
    for name, tensor in _named_tensors(stacked):
        value = torch.stack([own[name].detach() for own in tensors])
        is_parameter = isinstance(tensor, nn.Parameter)
        together[id(tensor)] = nn.Parameter(value, requires_grad=tensor.requires_grad) if is_parameter else value
    for module in list(stacked.modules()):
        for name, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            setattr(module, name, together[id(tensor)])
    return stacked


def _only_linear_layers_have_tensors(module: nn.Module) -> bool:
    return all(
        type(module.get_submodule(name.rpartition(".")[0])) is nn.Linear for name, _ in _named_tensors(module)
    )
