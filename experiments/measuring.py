"""How the benchmarks measure: calls take turns, and medians are compared within one run."""

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch

# Something to measure.
Call = Callable[[], object]

# Sides of the matrices of a large product, by device: large enough to keep all of it busy.
MATRIX_SIZES = {"cpu": 2048, "cuda": 8192}


@dataclass(frozen=True)
class Timing:
    """Seconds: the median of several runs, and the ends of their middle half."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Self:
        low, median, high = torch.tensor(seconds, dtype=torch.float64).quantile(_QUARTILES).tolist()
        return cls(median, low, high)

    @classmethod
    def exactly(cls, seconds: float) -> Self:
        """A time that wasn't measured, such as a bar to keep below."""
        return cls(seconds, seconds, seconds)

    def scaled(self, factor: float) -> "Timing":
        return Timing(factor * self.median, factor * self.low, factor * self.high)


_QUARTILES = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)


@dataclass(frozen=True)
class Row:
    """One line of the table: ours against something else."""

    name: str
    ours: Timing
    other_name: str
    other: Timing

    @property
    def ratio(self) -> float:
        """Of the medians; below 1, ours is faster."""
        return self.ours.median / self.other.median


def timings(
    calls: Mapping[str, Call],
    *,
    rounds: int,
    warm_ups: int = 1,
    device: torch.device | str = "cpu",
) -> dict[str, Timing]:
    """The time of each call. They take turns, so that all see the same machine, and take turns in being first.

    Args:
        calls: what to measure.
        rounds: turns of each call that count.
        warm_ups: turns of each call before, which don't.
        device: what to wait for before a clock is read: a GPU works on after a call has returned.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(-warm_ups, rounds):
        for name in list(calls) if turn % 2 == 0 else reversed(list(calls)):
            taken = _time(calls[name], torch.device(device))
            if turn >= 0:
                seconds[name].append(taken)
    return {name: Timing.of(own) for name, own in seconds.items()}


def repeated(call: Call, times: int) -> Call:
    """Many calls in a row as one, for what is quick and follows itself in real use."""

    def calls() -> None:
        for _ in range(times):
            call()

    return calls


def _time(call: Call, device: torch.device) -> float:
    _synchronize(device)
    start = time.perf_counter()
    call()
    _synchronize(device)
    return time.perf_counter() - start


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def forward_flops(n_inputs: int, hidden_sizes: Sequence[int], n_outputs: int) -> int:
    """Floating-point operations of one row through a net: a multiplication and an addition per weight."""
    return sum(2 * n_in * n_out for n_in, n_out in itertools.pairwise((n_inputs, *hidden_sizes, n_outputs)))


class LargeProduct:
    """One large matrix product (sgemm) in single precision, the yardstick for what is made of small ones."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.size = MATRIX_SIZES[torch.device(device).type]
        self._a, self._b = torch.randn(2, self.size, self.size, device=device)

    def __call__(self) -> None:
        torch.mm(self._a, self._b)

    def time_for(self, flops: float, own: Timing) -> Timing:
        """What so many operations take at the speed of this product, which took `own`."""
        return own.scaled(flops / (2 * self.size**3))
