"""How the benchmarks measure: calls take turns, and medians are compared within one run."""

import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

MATRIX_SIZE = 2048


@dataclass(frozen=True)
class Row:
    """One line of the table: ours against something else, both in seconds."""

    name: str
    ours: float
    other_name: str
    other: float

    @property
    def ratio(self) -> float:
        return self.ours / self.other


def medians(repeats: int, *calls: Callable[[], object]) -> list[float]:
    """Median seconds of each call. They take turns, so that all see the same machine."""
    seconds: list[list[float]] = [[] for _ in calls]
    for repeat in range(repeats + 1):
        for call, own in zip(calls, seconds, strict=True):
            start = time.perf_counter()
            call()
            if repeat:  # the first round warms up
                own.append(time.perf_counter() - start)
    return [statistics.median(own) for own in seconds]


def forward_flops(n_inputs: int, hidden_sizes: Sequence[int], n_outputs: int) -> int:
    """Floating-point operations of one row through a net: a multiplication and an addition per weight."""
    return sum(2 * n_in * n_out for n_in, n_out in itertools.pairwise((n_inputs, *hidden_sizes, n_outputs)))


class LargeProduct:
    """One large matrix product (sgemm) in single precision, the yardstick for what is made of small ones."""

    def __init__(self) -> None:
        self._a, self._b = torch.randn(2, MATRIX_SIZE, MATRIX_SIZE)

    def __call__(self) -> None:
        torch.mm(self._a, self._b)

    @staticmethod
    def seconds_for(flops: int, product_seconds: float) -> float:
        """What so many operations take at the speed of the product."""
        return product_seconds * flops / (2 * MATRIX_SIZE**3)
