"""Model-predictive path integral control."""

from typing import Any, Unpack, get_args

import torch
from einops import einsum, rearrange
from gymnasium.spaces import Space
from jaxtyping import Float, Num
from torch import Tensor

from layeredrl.planners.candidates import Objective, Result, conclude, evaluate, value_figures
from layeredrl.planners.checks import check_at_least, check_choice, check_positive
from layeredrl.planners.noise import smooth_noise
from layeredrl.planners.planner import Plan, Planner, PlannerSettings, PlannerState


class MPPI(Planner):
    """Draw candidates around the mean, and move it to their average, weighted by exp(value / temperature).

    Williams et al. 2018, algorithms 1 and 2; the noise may be correlated over time as in Nagabandi et al. 2019.
    Choices are drawn from probabilities that are averaged in the same way.

    Args:
        action_space, horizon, n_candidates, n_iterations, settings: see `Planner`.
        temperature: λ, in units of the objective. Candidates that are worse than the best by many λ don't count;
            those within a small part of it count alike.
        correlation: of the noise of the numbers of Boxes, whose standard deviations are `initial_std`: together
            they are the paper's covariance Σ. None: uncorrelated.
        smoothing: correlation of the noise from one decision to the next, in [0, 1).
        std_decay: factor by which the noise shrinks per iteration; the paper has 1.
        control_cost: γ, which charges a candidate u + ε with γ uᵀ Σ⁻¹ ε, where u is the mean, as seen from the
            middle of the bounds. The paper has γ = λ (1 − α).
        result: which plan to return: the `mean`, or the `best` candidate of the last iteration, if that is better.
    """

    def __init__(
        self,
        action_space: Space[Any],
        horizon: int,
        *,
        n_candidates: int = 400,
        n_iterations: int = 3,
        temperature: float = 1.0,
        correlation: Float[Tensor, "numbers numbers"] | None = None,
        smoothing: float = 0.0,
        std_decay: float = 1.0,
        control_cost: float = 0.0,
        result: Result = "mean",
        **settings: Unpack[PlannerSettings],
    ):
        super().__init__(action_space, horizon, n_candidates=n_candidates, n_iterations=n_iterations, **settings)
        check_positive("temperature", temperature)
        check_at_least("control_cost", control_cost, 0)
        check_choice("result", result, get_args(Result))
        if not 0 <= smoothing < 1:
            raise ValueError(f"smoothing: got {smoothing}, expected a number in [0, 1)")
        if not 0 < std_decay <= 1:
            raise ValueError(f"std_decay: got {std_decay}, expected a number in (0, 1]")
        n_numbers = len(self.space.numbers)
        self.correlation = torch.eye(n_numbers, device=self.device)
        if correlation is not None:
            _check_correlation(correlation, n_numbers)
            self.correlation = correlation.to(self.correlation)
        self.temperature, self.smoothing, self.std_decay = temperature, smoothing, std_decay
        self.control_cost, self.result = control_cost, result

    def draw_noise(self, n_envs: int, generator: torch.Generator | None = None) -> Float[Tensor, "I V N D A"]:
        """All randomness of a search, smoothed along time and correlated between numbers."""
        noise = smooth_noise(super().draw_noise(n_envs, generator), self.smoothing)
        numbers = noise[..., self.space.numbers] @ torch.linalg.cholesky(self.correlation).T
        return noise.index_copy(-1, self.space.numbers, numbers)

    def search(
        self,
        objective: Objective,
        state: PlannerState,
        noise: Float[Tensor, "I V N D A"],
        proposals: Num[Tensor, "V K D A"],
    ) -> Plan:
        mean, std = state.mean, self.space.initial_std.expand_as(state.mean)
        diagnostics: dict[str, Tensor] = {}
        for i, iteration_noise in enumerate(noise):
            mean = self.space.spread(mean, self.initial_share)
            drawn = self.space.decode(mean, std * self.std_decay**i, iteration_noise)
            candidates = torch.cat([proposals, drawn], dim=1)
            values = evaluate(objective, candidates)
            # Softmax subtracts the largest value, so that none is too large for an exponential.
            weights = torch.softmax((values - self._control_costs(mean, candidates)) / self.temperature, dim=1)
            mean, _ = self.space.fit(candidates, weights.to(mean.dtype))
            diagnostics |= value_figures(i, values, weights)
        actions, value = conclude(objective, self.space.mode(mean), candidates, values, self.result)
        diagnostics["effective_sample_size"] = 1 / weights.square().sum(dim=1)
        return Plan(actions, value, state.advanced(mean), diagnostics)

    def _control_costs(
        self, mean: Float[Tensor, "V D F"], candidates: Num[Tensor, "V N D A"]
    ) -> Float[Tensor, "V N"] | float:
        """γ Σₜ uₜᵀ Σ⁻¹ εₜ of each candidate (Williams et al. 2018, algorithm 2)."""
        if self.control_cost == 0 or not len(self.space.numbers):
            return 0.0
        at = self.space.number_features
        std, middle = self.space.initial_std[at], self.space.initial_mean[at]
        nominal = (mean[..., at] - middle) / std
        added = (candidates[..., self.space.numbers] - rearrange(mean[..., at], "v d a -> v 1 d a")) / std
        pull = nominal @ torch.linalg.inv(self.correlation)
        return self.control_cost * einsum(pull, added, "v d a, v n d a -> v n")


def _check_correlation(correlation: Tensor, n_numbers: int) -> None:
    if correlation.shape != (n_numbers, n_numbers):
        raise ValueError(
            f"correlation: got shape {tuple(correlation.shape)}, expected ({n_numbers}, {n_numbers}), one row "
            "for each number of an action"
        )
    is_one = torch.equal(correlation.diagonal(), torch.ones_like(correlation.diagonal()))
    is_definite = torch.equal(correlation, correlation.T) and bool(torch.linalg.eigvalsh(correlation).min() > 0)
    if not (is_one and is_definite):
        raise ValueError(
            f"correlation: got {correlation.tolist()}, expected a symmetric positive definite matrix with ones on "
            "its diagonal"
        )
