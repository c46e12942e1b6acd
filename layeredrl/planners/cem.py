"""The cross-entropy method."""

from typing import Any

import torch
from einops import einsum, rearrange
from gymnasium.spaces import Space
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor

from layeredrl.planners.planner import Objective, Plan, Planner, PlannerState, evaluate
from layeredrl.spaces import features


class CEM(Planner):
    """Draw candidates, keep the best, fit the search distribution to them, repeat (as in Chua et al. 2018).

    Proposals are tried in the first iteration, to guide, and in the last, to compete. The last iteration also tries
    the mean of the distribution. The best plan of that iteration is returned: the
    mean, if none is better.

    Args:
        action_space, horizon, n_candidates, n_iterations, initial_std, device: see `Planner`.
        elite_ratio: share of the candidates that the distribution is fitted to.
        momentum: share of the old mean and standard deviation that is kept.
        min_std: smallest spread of the search, for a Box.
    """

    def __init__(
        self,
        action_space: Space[Any],
        horizon: int,
        *,
        n_candidates: int = 400,
        n_iterations: int = 5,
        elite_ratio: float = 0.1,
        momentum: float = 0.1,
        min_std: float = 0.0,
        initial_std: float | Float[Tensor, " A"] | None = None,
        device: torch.device | str = torch.device("cpu"),
    ):
        super().__init__(
            action_space,
            horizon,
            n_candidates=n_candidates,
            n_iterations=n_iterations,
            initial_std=initial_std,
            device=device,
        )
        for name, value in (("elite_ratio", elite_ratio), ("momentum", momentum)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name}: got {value}, expected a number in [0, 1]")
        if not min_std >= 0:
            raise ValueError(f"min_std: got {min_std}, expected at least 0")
        self.n_elites = max(1, round(elite_ratio * n_candidates))
        self.momentum, self.min_std = momentum, min_std

    def search(
        self,
        objective: Objective,
        state: PlannerState,
        noise: Float[Tensor, "I V N H R"],
        proposals: Num[Tensor, "V K H A"] | None = None,
    ) -> Plan:
        mean, std = state.mean, self.initial_std.expand_as(state.mean)
        for i, iteration_noise in enumerate(noise):
            candidates = self.candidates(mean, std, iteration_noise)
            is_last = i == len(noise) - 1
            if proposals is not None and (i == 0 or is_last):
                candidates = torch.cat([proposals, candidates], dim=1)
            if is_last:
                candidates = torch.cat([candidates, self.mean_plan(mean)], dim=1)
            values = evaluate(objective, candidates)
            elite_values, elites = values.topk(min(self.n_elites, values.shape[1]), dim=1)
            new_mean, new_std = self._fit(_take(candidates, elites), elite_values.isfinite())
            mean = torch.lerp(new_mean, mean, self.momentum)
            std = torch.lerp(new_std, std, self.momentum).clamp_min(self.min_std)
        # Where nothing beats the mean, as on a plateau, it is the steadier choice.
        mean_is_best = values[:, -1:] >= elite_values[:, :1]
        best = torch.where(mean_is_best, values.shape[1] - 1, elites[:, :1])
        return Plan(
            actions=_take(candidates, best).squeeze(1),
            value=elite_values[:, 0],
            state=PlannerState(mean),
            diagnostics={"search_std": std.mean(dim=(1, 2))},
        )

    def _fit(
        self, elites: Num[Tensor, "V K H A"], finite: Bool[Tensor, "V K"]
    ) -> tuple[Float[Tensor, "V H F"], Float[Tensor, "V H F"]]:
        """Mean and std of the elites, in features; those without a finite value don't count."""
        x = features(self.action_space, elites)
        weights = finite / finite.sum(dim=1, keepdim=True)
        mean = einsum(weights, x, "v k, v k h f -> v h f")
        var = einsum(weights, (x - rearrange(mean, "v h f -> v 1 h f")).square(), "v k, v k h f -> v h f")
        return mean, var.sqrt()


def _take(candidates: Num[Tensor, "V N H A"], index: Int[Tensor, "V K"]) -> Num[Tensor, "V K H A"]:
    return candidates.take_along_dim(rearrange(index, "v k -> v k 1 1"), dim=1)
