"""Fully connected trunks."""

from collections.abc import Callable, Sequence

from torch import nn


def mlp(n_inputs: int, hidden_sizes: Sequence[int], nonlinearity: Callable[[], nn.Module]) -> nn.Sequential:
    """Linear layers of the given widths, each followed by the nonlinearity."""
    layers: list[nn.Module] = []
    for n_in, n_out in zip((n_inputs, *hidden_sizes), hidden_sizes, strict=False):
        layers += [nn.Linear(n_in, n_out), nonlinearity()]
    return nn.Sequential(*layers)
