"""What members learn from: transitions, once they are in the units that networks read and speak."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor


class Examples(NamedTuple):
    """Every field has the same leading dims: `(B,)`, or `(E, B)` for a set per member.

    Attributes:
        inputs: standardised features.
        target: what follows them, standardised.
        terminated: whether the episode ended; None where nobody foretells that.
        weight: of each example in a weighted loss.
        mask: False where an example takes no part in a loss.
    """

    inputs: Float[Tensor, "*batch F"]
    target: Float[Tensor, "*batch S"]
    terminated: Bool[Tensor, "*batch"] | None = None
    weight: Float[Tensor, "*batch"] | None = None
    mask: Bool[Tensor, "*batch"] | None = None

    def map(self, function: Callable[[Tensor], Tensor]) -> "Examples":
        """Every present field through `function`, which treats all alike and leaves the last dim of vectors."""
        return Examples._make(None if value is None else function(value) for value in self)

    def take(self, index: Int[Tensor, "*shape"]) -> "Examples":
        """The examples at `index`, which counts along the first leading dim."""
        places = index.flatten()  # in less than half the time that indexing takes
        return self.map(lambda value: value.index_select(0, places).unflatten(0, index.shape))


def share_out(examples: Examples, n_models: int, *, partition: bool) -> Examples:
    """A set `(E, B, …)` for each member.

    Args:
        examples: such sets already; or examples `(B, …)` for everyone.
        n_models: number of members.
        partition: give member `e` only every E-th of the examples for everyone, from the e-th on.
    """
    n = len(examples.inputs)
    if examples.inputs.ndim == 3:
        if n != n_models:
            raise ValueError(f"batch: got {n} sets of transitions, expected {n_models}, one a member")
        return examples
    if not partition:
        return for_everyone(examples, n_models)
    # Pad to a multiple of E with copies that are masked out.
    index = torch.arange(math.ceil(n / n_models) * n_models, device=examples.inputs.device)
    padded, mask = examples.take(index.clamp_max(n - 1)), index < n
    padded = padded._replace(mask=mask if padded.mask is None else mask & padded.mask)
    return padded.map(lambda value: rearrange(value, "(b e) ... -> e b ...", e=n_models))


def for_everyone(examples: Examples, n_models: int) -> Examples:
    """The same examples for each member, without a copy."""
    return examples.map(lambda value: value.expand(n_models, *value.shape))
