"""The ways to run E copies of a module as one.

How the members are run is decided once, by trying on example inputs, fastest first:

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
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_leaves, tree_map

from layeredrl.nets.stacked_linear import exchange_linear_layers
from layeredrl.nets.turns import take_turns

Inputs = tuple[Tensor | None, ...]
# (module with stacked tensors, the tensors to use, which members they are, inputs) -> outputs with a leading E
Way = Callable[[nn.Module, dict[str, Tensor], Sequence[int], Inputs], Any]


def choose_way(members: Sequence[nn.Module], example: Inputs, fuse: bool) -> tuple[nn.Module, Way]:
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
            if not any(_why_not(way, exchanged, inputs, expected) for way in (run_exchanged, _run_in_turn)):
                return exchanged, run_exchanged
        return stacked, _run_vmapped


def _vary(x: Float[Tensor, "B F"], n_members: int) -> Float[Tensor, "E B F"]:
    return torch.stack([(-1) ** e * x + 0.1 * e for e in range(n_members)])


@torch.no_grad()
def _materialize(member: nn.Module, example: Inputs) -> None:
    """Let lazy layers get their sizes."""
    if any(is_lazy(tensor) for _, tensor in named_tensors(member)):
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
    everyone = range(len(first_of(inputs)))
    answers = []
    for training in (False, True):
        module.train(training)
        random_state = torch.get_rng_state()
        answer = way(module, dict(named_tensors(module)), everyone, inputs)
        is_random = not torch.equal(torch.get_rng_state(), random_state)
        answers.append(tree_map(torch.zeros_like, answer) if is_random else answer)
    return answers


def run_exchanged(module: nn.Module, tensors: dict[str, Tensor], _: Sequence[int], inputs: Inputs) -> Any:
    # Exchanging a module's tensors for a call takes as long as the call, where rows are few.
    return functional_call(module, tensors, inputs) if tensors else module(*inputs)


def _run_in_turn(module: nn.Module, _: dict[str, Tensor], chosen: Sequence[int], inputs: Inputs) -> Any:
    first = first_of(inputs)
    return take_turns(module, chosen, "float32", n_rows=first.shape[1])(*inputs)


def first_of(inputs: Inputs) -> Tensor:
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


def named_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()


def _stack_tensors(members: Sequence[nn.Module]) -> nn.Module:
    """A copy of the first member whose tensors are those of all members, stacked."""
    tensors = [dict(named_tensors(member)) for member in members]
    for e, own in enumerate(tensors):
        for name in sorted(own.keys() | tensors[0].keys()):
            shapes = [tuple(t[name].shape) if name in t else "nothing" for t in (own, tensors[0])]
            if shapes[0] != shapes[1]:
                raise ValueError(f"member {e}: got {name} {shapes[0]}, expected {shapes[1]} as in member 0")
    stacked = copy.deepcopy(members[0])
    together: dict[int, Tensor] = {}  # by identity, as a tensor can have several names
    for name, tensor in named_tensors(stacked):
        value = torch.stack([own[name].detach() for own in tensors])
        is_parameter = isinstance(tensor, nn.Parameter)
        together[id(tensor)] = nn.Parameter(value, requires_grad=tensor.requires_grad) if is_parameter else value
    for module in list(stacked.modules()):
        for name, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            setattr(module, name, together[id(tensor)])
    return stacked


def _only_linear_layers_have_tensors(module: nn.Module) -> bool:
    return all(
        type(module.get_submodule(name.rpartition(".")[0])) is nn.Linear for name, _ in named_tensors(module)
    )
