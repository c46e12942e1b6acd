"""Who learns from which transition, decided by the transition's serial number alone.

A transition keeps its place for ever: it is held out or not, and it occurs so often in each member's bootstrap,
whatever enters or leaves the buffer later, and after resuming. Sets drawn anew at each refit would leak held-out
transitions into members that are trained further.
"""

import numpy as np
import torch
from jaxtyping import Bool, Int
from numpy.typing import NDArray
from torch import Tensor

# Streams of random numbers: one for the hold-out, one for each member's bootstrap.
_HOLDOUT_STREAM = 0
_FIRST_MEMBER_STREAM = 1


def holdout_mask(serial: Int[Tensor, " B"], ratio: float, seed: int = 0) -> Bool[Tensor, " B"]:
    """Whether each transition is held out, which happens with probability `ratio`."""
    return torch.from_numpy(_uniform(serial, _HOLDOUT_STREAM, seed) < ratio)


def bootstrap_counts(serial: Int[Tensor, " B"], n_models: int, seed: int = 0) -> Int[Tensor, "B E"]:
    """How often each transition occurs in each member's bootstrap.

    Poisson with mean 1: the limit of drawing n of n transitions with replacement, for which no n is needed.
    """
    # Cumulative probabilities of 0 … 7 occurrences; more come once in a million.
    edges = np.exp(-1.0) * np.cumsum(1.0 / np.cumprod([1, 1, 2, 3, 4, 5, 6, 7]))
    streams = range(_FIRST_MEMBER_STREAM, _FIRST_MEMBER_STREAM + n_models)
    uniform = np.stack([_uniform(serial, stream, seed) for stream in streams], axis=1)
    return torch.from_numpy(np.searchsorted(edges, uniform, side="right"))


def _uniform(serial: Int[Tensor, " B"], stream: int, seed: int) -> NDArray[np.float64]:
    """Reproducible numbers in [0, 1): the SplitMix64 generator, with the serial number as its counter."""
    key = _mix(np.array([seed], dtype=np.uint64) ^ _mix(np.array([stream], dtype=np.uint64)))
    bits = _mix(serial.cpu().numpy().astype(np.uint64) + key)
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64 (Steele, Lea & Flood 2014): consecutive integers to independent-looking bits."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
