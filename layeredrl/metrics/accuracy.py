"""How near the mean of a forecast comes. Rows stand first; whatever else there is, is treated each by itself."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from layeredrl.models.normalization import CONSTANT_RATIO, CONSTANT_STD


def rmse(error: Float[Tensor, "N *rest"]) -> Float[Tensor, "*rest"]:
    """Root mean squared error."""
    return error.square().mean(dim=0).sqrt()


def spread(value: Float[Tensor, "N *rest"]) -> tuple[Float[Tensor, "*rest"], Bool[Tensor, "*rest"]]:
    """Standard deviation, 1 where there is none up to rounding, and where there is: a unit for errors."""
    std = value.std(dim=0, correction=0)
    varies = std > torch.clamp(CONSTANT_RATIO * value.mean(dim=0).abs(), min=CONSTANT_STD)
    return torch.where(varies, std, 1.0), varies


def explained_variance(
    error: Float[Tensor, "N *#rest"], target: Float[Tensor, "N *#rest"]
) -> Float[Tensor, "*rest"]:
    """1 − Var[error] / Var[target]: 1 is perfect but for an offset, 0 no better than a constant.

    A target that is constant up to rounding has no variance to explain. There it is 1 if the error is constant up
    to rounding as well, and else 0.

    Args:
        error: forecast minus target.
        target: what was foretold.
    """
    error_std, target_std = error.std(dim=0, correction=0), target.std(dim=0, correction=0)
    rounding = torch.clamp(CONSTANT_RATIO * target.mean(dim=0).abs(), min=CONSTANT_STD)
    is_constant = target_std <= rounding
    explained = 1 - (error_std / torch.where(is_constant, 1.0, target_std)).square()
    return torch.where(is_constant, (error_std <= rounding).to(explained), explained)
