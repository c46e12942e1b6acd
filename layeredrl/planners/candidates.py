"""Candidate plans: what they are worth, and the best among them."""

from collections.abc import Callable
from typing import Literal

import torch
from einops import rearrange, repeat
from jaxtyping import Float, Int, Num
from torch import Tensor

# Values of candidate plans; larger is better.
Objective = Callable[[Num[Tensor, "V N H A"]], Float[Tensor, "V N"]]
# Which plan a search returns: the best candidate, or the mean of its distribution.
Result = Literal["best", "mean"]


def evaluate(objective: Objective, candidates: Num[Tensor, "V N H A"]) -> Float[Tensor, "V N"]:
    """Values of candidates, −inf where they are not finite, so that these rank last.

    Raises:
        TypeError, ValueError: the objective gave no tensor, or one of the wrong shape, or no finite value for any
            candidate of some environment.
    """
    values = objective(candidates)
    if not isinstance(values, Tensor):
        raise TypeError(f"objective: got a {type(values).__name__}, expected a Tensor of values")
    if values.shape != candidates.shape[:2]:
        raise ValueError(
            f"objective: got values of shape {tuple(values.shape)}, expected {tuple(candidates.shape[:2])}"
        )
    values = torch.where(values.isfinite(), values, -torch.inf)
    hopeless = values.isinf().all(dim=1)
    if bool(hopeless.any()):
        environments = hopeless.nonzero().squeeze(-1).tolist()
        raise ValueError(f"objective: got no finite value for any candidate of environments {environments}")
    return values


def elites(
    candidates: Num[Tensor, "V N H A"], values: Float[Tensor, "V N"], n: int
) -> tuple[Num[Tensor, "V K H A"], Float[Tensor, "V K"]]:
    """The n best candidates, best first, and their weights: equal, but none for those without a finite value."""
    elite_values, index = values.topk(min(n, values.shape[1]), dim=1)
    finite = elite_values.isfinite()
    return _take(candidates, index), finite / finite.sum(dim=1, keepdim=True)


def best(
    candidates: Num[Tensor, "V N H A"], values: Float[Tensor, "V N"]
) -> tuple[Num[Tensor, "V H A"], Float[Tensor, " V"]]:
    """The best candidate and its value; the last one, where none is better.

    With the mean of the search in the last place, it is chosen on plateaus, as the steadier plan.
    """
    value, index = values.max(dim=1, keepdim=True)
    index = torch.where(values[:, -1:] >= value, values.shape[1] - 1, index)
    return _take(candidates, index).squeeze(1), value.squeeze(1)


def conclude(
    objective: Objective,
    mean: Num[Tensor, "V 1 H A"],
    candidates: Num[Tensor, "V N H A"],
    values: Float[Tensor, "V N"],
    result: Result,
) -> tuple[Num[Tensor, "V H A"], Float[Tensor, " V"]]:
    """The mean of a search, or the best candidate: as wanted, or where the mean has no finite value.

    Both are valued anew, so that the candidate doesn't owe its value to the lucky draw that made it the best.
    """
    pair = torch.cat([rearrange(best(candidates, values)[0], "v h a -> v 1 h a"), mean], dim=1)
    candidate_value, mean_value = evaluate(objective, pair).unbind(dim=1)
    if result == "mean":
        candidate_value = torch.where(mean_value.isfinite(), -torch.inf, candidate_value)
    return best(pair, torch.stack([candidate_value, mean_value], dim=1))


def value_figures(
    iteration: int, values: Float[Tensor, "V K"], weights: Float[Tensor, "V K"]
) -> dict[str, Float[Tensor, " V"]]:
    """Diagnostics of an iteration: mean and spread of the values that the search distribution is fitted to.

    Args:
        iteration: counted from 0.
        values: of the elites, or of all candidates where these count by weight.
        weights: with a sum of 1; values that aren't finite have none.
    """
    values = torch.where(weights > 0, values, 0.0)
    mean = (weights * values).sum(dim=1)
    spread = (weights * (values - rearrange(mean, "v -> v 1")).square()).sum(dim=1).sqrt()
    return {f"elite_return/iteration_{iteration}": mean, f"elite_spread/iteration_{iteration}": spread}


def with_repeats(objective: Objective, action_repeat: int) -> Objective:
    """The objective of sequences of decisions, each of which is held for some steps."""
    if action_repeat == 1:
        return objective
    return lambda decisions: objective(repeat(decisions, "v n d a -> v n (d k) a", k=action_repeat))


def _take(candidates: Num[Tensor, "V N H A"], index: Int[Tensor, "V K"]) -> Num[Tensor, "V K H A"]:
    return candidates.take_along_dim(rearrange(index, "v k -> v k 1 1"), dim=1)
