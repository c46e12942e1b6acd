"""Metrics that depend on the order of numbers alone. Rows stand first; the rest is treated each by itself."""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor


def average_ranks(values: Float[Tensor, "N *rest"]) -> Float[Tensor, "N *rest"]:
    """Ranks from 1 on; equal values share the mean of theirs. In float64, which holds them exactly."""
    columns = rearrange(values, "n ... -> ... n").contiguous()
    ordered = columns.sort(dim=-1).values
    n_below, n_up_to = (torch.searchsorted(ordered, columns, right=right) for right in (False, True))
    return rearrange((n_below + n_up_to + 1).double() / 2, "... n -> n ...")


def spearman(a: Float[Tensor, "N *rest"], b: Float[Tensor, "N *rest"]) -> Float[Tensor, "*rest"]:
    """Rank correlation in [−1, 1]: Pearson's of the average ranks. 0 where `a` or `b` is constant."""
    ranks = [average_ranks(values) for values in (a, b)]
    a, b = (rank - rank.mean(dim=0) for rank in ranks)
    scale = (a.square().sum(dim=0) * b.square().sum(dim=0)).sqrt()
    return (a * b).sum(dim=0) / torch.where(scale > 0, scale, 1.0)


def auroc(inside: Float[Tensor, "N *rest"], outside: Float[Tensor, "D *rest"]) -> Float[Tensor, "*rest"]:
    """Area under the receiver operating characteristic of a score that should be larger outside.

    It is the probability that the score of a row outside exceeds that of one inside, ties counting half: 1 tells
    them apart without fail, ½ not at all. With epistemic variances as scores, it says whether a model knows the
    states that it wasn't trained on.

    Args:
        inside: scores of rows within the distribution of the training data.
        outside: scores of rows out of it.
    """
    for name, scores in (("inside", inside), ("outside", outside)):
        if len(scores) == 0:
            raise ValueError(f"{name}: got no scores, expected at least one")
        if not bool(torch.isfinite(scores).all()):
            raise ValueError(f"{name}: got {scores[~torch.isfinite(scores)][0].item()}, expected finite scores")
    n_inside, n_outside = len(inside), len(outside)
    # The statistic of Mann & Whitney, from the sum of ranks.
    rank_sum = average_ranks(torch.cat([inside, outside]))[n_inside:].sum(dim=0)
    return (rank_sum - n_outside * (n_outside + 1) / 2) / (n_inside * n_outside)
