"""How far members may disagree: as far as they do on transitions like those that they know."""

import torch
from einops import reduce
from jaxtyping import Bool, Float
from torch import Tensor, nn

from layeredrl.types import ModelStep

# Members are asked about other numbers of rows later, which changes what is left of rounding.
ROUNDING = 1e-3
# In units of the targets: what members that always agree may differ by.
SMALLEST_STD = 1e-6


class EpistemicLimit(nn.Module):
    """A `Trust`: called with a step, says where members disagree on it no more than they did on held-out data.

    Until it is fitted, that is a ValueError.

    Args:
        n_dims: state size S.

    Attributes:
        std: the largest trusted standard deviation between the members' means, one step ahead; in the units of the
            state. A step is trusted if no dimension exceeds its own.
    """

    std: Tensor
    is_fitted: Tensor

    def __init__(self, n_dims: int):
        super().__init__()
        self.register_buffer("std", torch.zeros(n_dims))
        self.register_buffer("is_fitted", torch.tensor(False))

    def reset(self) -> None:
        """What was fitted counts no longer."""
        self.is_fitted = torch.zeros_like(self.is_fitted)

    def fit(self, std: Float[Tensor, "N S"], share: float, unit: Float[Tensor, " S"]) -> None:
        """Take the smallest limits, in proportion to root mean squares, that trust a `share` of the transitions.

        So each dimension has its own unit, and all together leave out no more than 1 − share.

        Args:
            std: between the members' means, of each held-out transition.
            share: of them, in (0, 1].
            unit: of each dimension, of which a small part is always trusted.
        """
        typical = reduce(std.square(), "n s -> s", "mean").sqrt().clamp_min(SMALLEST_STD * unit)
        excess = reduce(std / typical, "n s -> n", "max")
        largest = excess.quantile(share, interpolation="higher")
        self.std = ((1 + ROUNDING) * largest * typical).to(self.std)
        self.is_fitted = torch.ones_like(self.is_fitted)

    def forward(self, step: ModelStep) -> Bool[Tensor, "E P B"]:
        """Which particles' steps are trusted. All members are asked about all of them."""
        if not bool(self.is_fitted):
            raise ValueError(
                "epistemic_limit: got one that isn't fitted; call model.fit_epistemic_limit(held_out) after "
                "training, which ends it, and after recalibrate"
            )
        return (step.epistemic_var.sqrt() <= self.std).all(dim=-1)
