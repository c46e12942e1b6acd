"""Ours against others that do the same work: refused where they don't, timed in turns where they do."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils._python_dispatch import TorchDispatchMode

from experiments.benchmark_peers import Peer
from experiments.benchmark_sizes import Dynamics, Sizes
from experiments.measuring import Call, LargeProduct, Row, Timing, repeated, timings

OURS, UNFUSED = "ours", "ours with compile=False"
BOUND = "bound: the same FLOPs as sgemm"
LOOP = "plain loop over members"


@dataclass(frozen=True)
class Bench:
    """What every measurement is told.

    Attributes:
        device: where models and data lie.
        repeats: turns of everything that is measured.
        peers: libraries that are there to compare with.
        sizes: of everything.
    """

    device: torch.device
    repeats: int
    peers: frozenset[Peer]
    sizes: Sizes

    def timings(self, calls: Mapping[str, Call]) -> dict[str, Timing]:
        return timings(calls, rounds=self.repeats, device=self.device)


def compare(
    bench: Bench,
    name: str,
    dynamics: Dynamics,
    ours: Call,
    rivals: Mapping[str, Call],
    *,
    flops_per_step: int | None = None,
    tolerance: int = 0,
    times: int = 1,
) -> list[Row]:
    """A row for each rival and, first, one for the bound: the same FLOPs as one large matrix product.

    Args:
        bench, name, ours, rivals: who competes in what.
        dynamics: the size of the networks of both sides.
        flops_per_step: floating-point operations behind each model step; None: no bound.
        tolerance: model steps by which both sides may differ.
        times: calls per turn: many, where they are quick.

    Raises:
        RuntimeError: a rival makes another number of model steps.
    """
    n_steps = count_model_steps(dynamics, ours)
    for rival, call in rivals.items():
        check_equal_work(name, rival, n_steps, count_model_steps(dynamics, call), "model steps", tolerance)
    turns = {side: repeated(call, times) for side, call in {OURS: ours, **rivals}.items()}
    product = LargeProduct(bench.device)
    if flops_per_step is not None:
        turns[BOUND] = product
    taken = bench.timings(turns)
    others = {rival: taken[rival].scaled(1 / times) for rival in rivals}
    if flops_per_step is not None:
        others = {BOUND: product.time_for(n_steps * flops_per_step, taken[BOUND]), **others}
    return [Row(name, taken[OURS].scaled(1 / times), rival, time) for rival, time in others.items()]


def check_equal_work(name: str, rival: str, ours: int, theirs: int, unit: str, tolerance: float) -> None:
    """Refuse to compare unequal work.

    Raises:
        RuntimeError: the numbers of units differ by more than `tolerance`, or nothing was counted.
    """
    if ours == 0 or theirs == 0 or abs(ours - theirs) > tolerance:
        raise RuntimeError(
            f"{name}: unequal work: {ours} {unit} here, {theirs} in {rival}, expected some, and to differ by no "
            f"more than {tolerance:g}"
        )


def count_model_steps(dynamics: Dynamics, call: Call) -> int:
    """Rows that go through a network in a call, over all members, candidates, iterations and time steps.

    Counted by the hidden units that are activated, however a library arranges members and layers.
    """
    with _ActivationCounter() as counter:
        call()
    return counter.n_activations // sum(dynamics.hidden_sizes)


class _ActivationCounter(TorchDispatchMode):
    """Counts the numbers that go through SiLU, alone or as parts of a linear operator or of whole networks."""

    def __init__(self) -> None:
        super().__init__()
        self.n_activations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        # oneDNN's name for SiLU is swish.
        if func.name() in {"aten::silu", "aten::silu_"} or "swish" in [arg for arg in args if isinstance(arg, str)]:
            assert isinstance(output, Tensor)
            self.n_activations += output.numel()
        elif func.name() == "layeredrl::fully_connected":
            rows, weights, *_ = args
            self.n_activations += rows.shape[:-1].numel() * sum(weight.shape[1] for weight in weights[:-1])
        return output


def count_updates(call: Call) -> int:
    """Steps that optimizers take in a call."""
    n_updates = 0

    def count(*_: object) -> None:
        nonlocal n_updates
        n_updates += 1

    handle = register_optimizer_step_post_hook(count)
    try:
        call()
    finally:
        handle.remove()
    return n_updates
