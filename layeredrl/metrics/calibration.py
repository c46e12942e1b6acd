"""Whether things happen as often as they are foretold to.

All but `sharpness` read PIT values, the forecast's CDF at what happened: uniform in [0, 1] if the forecast is
right. Rows stand first; whatever else there is, is treated each by itself.
"""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

# Levels of the central intervals of a coverage curve.
COVERAGE_LEVELS = tuple(percent / 100 for percent in range(5, 100, 5))
# Levels that the calibration error is the mean over: 0, 1/99, …, 1, as in uncertainty-toolbox.
N_CALIBRATION_LEVELS = 100
PIT_BINS = 10


def coverage(pit: Float[Tensor, "N *rest"], levels: Float[Tensor, " L"]) -> Float[Tensor, "*rest L"]:
    """Share of what happened that lies inside the central interval of each level: the levels, if all is well.

    More says that forecasts are too wide, less that they are too narrow. The central interval of level c reaches
    from the quantile (1 − c) / 2 to the quantile (1 + c) / 2, so it holds what has |PIT − ½| ≤ c / 2.
    """
    return _share_up_to((2 * pit - 1).abs(), levels, inclusive=True)


def calibration_error(pit: Float[Tensor, "N *rest"]) -> Float[Tensor, "*rest"]:
    """Expected calibration error: mean |coverage − level| of central intervals over 100 even levels in [0, 1].

    This is `mean_absolute_calibration_error` of uncertainty-toolbox (Chung et al. 2021) with its defaults. It lies
    in [0, ½]. The variant of Kuleshov et al. 2018 compares one-sided quantiles instead: it sees a bias more and a
    wrong width less.
    """
    levels = torch.linspace(0, 1, N_CALIBRATION_LEVELS, dtype=pit.dtype, device=pit.device)
    return (coverage(pit, levels) - levels).abs().mean(dim=-1)


def pit_histogram(pit: Float[Tensor, "N *rest"], n_bins: int = PIT_BINS) -> Float[Tensor, "*rest bins"]:
    """Share of the values in each of `n_bins` even bins. A flat one is right, ∪ overconfident, ∩ underconfident."""
    edges = torch.linspace(0, 1, n_bins + 1, dtype=pit.dtype, device=pit.device)[1:-1]
    below = _share_up_to(pit, edges, inclusive=False)
    return below.diff(
        dim=-1, prepend=torch.zeros_like(pit[0, ..., None]), append=torch.ones_like(pit[0, ..., None])
    )


def sharpness(variance: Float[Tensor, "N *rest"]) -> Float[Tensor, "*rest"]:
    """Root mean predicted variance, in the unit of the state; of equally calibrated forecasts, less is better."""
    return variance.mean(dim=0).sqrt()


def _share_up_to(
    values: Float[Tensor, "N *rest"], limits: Float[Tensor, " L"], *, inclusive: bool
) -> Float[Tensor, "*rest L"]:
    """Share of the values that are below each limit or, if `inclusive`, equal to it."""
    ordered = rearrange(values, "n ... -> ... n").contiguous().sort(dim=-1).values
    limits = limits.to(values).expand(*values.shape[1:], -1).contiguous()
    return torch.searchsorted(ordered, limits, right=inclusive).to(values) / len(values)
