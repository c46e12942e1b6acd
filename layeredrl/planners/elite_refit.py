"""How CEM and iCEM refine their search: the distribution is fitted to the best candidates."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Num
from torch import Tensor

from layeredrl.planners.candidates import elites, value_figures
from layeredrl.planners.checks import check_at_least, check_share
from layeredrl.planners.search_space import SearchSpace


@dataclass(frozen=True)
class EliteRefit:
    """Fits mean and standard deviation to the elites, and keeps a part of the old ones.

    Attributes:
        n_candidates: that the share of the elites is taken of.
        elite_ratio: that share; there is one elite at least.
        momentum: share of the old mean and standard deviation that is kept.
        min_std: smallest standard deviation.
    """

    n_candidates: int
    elite_ratio: float
    momentum: float
    min_std: float

    def __post_init__(self) -> None:
        check_share("elite_ratio", self.elite_ratio)
        check_share("momentum", self.momentum)
        check_at_least("min_std", self.min_std, 0)

    @property
    def n_elites(self) -> int:
        return max(1, round(self.elite_ratio * self.n_candidates))

    def __call__(
        self,
        space: SearchSpace,
        candidates: Num[Tensor, "V N D A"],
        values: Float[Tensor, "V N"],
        mean: Float[Tensor, "V D F"],
        std: Float[Tensor, "V D F"],
    ) -> tuple[Num[Tensor, "V K D A"], Float[Tensor, "V D F"], Float[Tensor, "V D F"]]:
        """The elites, best first, and the new mean and standard deviation."""
        plans, weights = elites(candidates, values, self.n_elites)
        new_mean, new_std = space.fit(plans, weights)
        mean = torch.lerp(new_mean, mean, self.momentum)
        return plans, mean, torch.lerp(new_std, std, self.momentum).clamp_min(self.min_std)

    def figures(self, iteration: int, values: Float[Tensor, "V N"]) -> dict[str, Float[Tensor, " V"]]:
        """What the elites of an iteration are worth, see `value_figures`."""
        best = values.topk(min(self.n_elites, values.shape[1]), dim=1).values
        finite = best.isfinite()
        return value_figures(iteration, best, finite / finite.sum(dim=1, keepdim=True))
