"""The improved cross-entropy method."""

from typing import Any, Unpack, get_args

import torch
from einops import rearrange
from gymnasium.spaces import Space
from jaxtyping import Float, Num
from torch import Tensor

from layeredrl.planners.candidates import Objective, best, evaluate
from layeredrl.planners.checks import check_at_least, check_choice, check_share
from layeredrl.planners.elite_refit import EliteRefit
from layeredrl.planners.noise import coloured_noise
from layeredrl.planners.planner import Plan, Planner, PlannerSettings, PlannerState
from layeredrl.planners.search_space import Sampling


class ICEM(Planner):
    """CEM that needs fewer candidates (Pinneri et al. 2020, algorithm 1).

    What it adds to CEM: noise that is correlated over time; fewer candidates in later iterations; elites that
    compete again, in the next iteration and, shifted, in the next environment step. As there, the mean competes in
    the last iteration, whose best candidate is returned.

    Args:
        action_space, horizon, n_iterations, settings: see `Planner`.
        n_candidates: plans that are drawn in the first iteration.
        noise_beta: exponent of the noise's colour, 0 for white. The paper: 0.25 for running, 2 to 3.5 for
            manipulation.
        population_decay: factor by which the candidates become fewer per iteration, until they are twice as many
            as the elites.
        elite_ratio: share of the first candidates that the distribution is fitted to.
        keep_elite_ratio: share of the elites that compete again.
        momentum, min_std, sampling: as for `CEM`.
    """

    def __init__(
        self,
        action_space: Space[Any],
        horizon: int,
        *,
        n_candidates: int = 100,
        n_iterations: int = 3,
        noise_beta: float = 1.0,
        population_decay: float = 1.25,
        elite_ratio: float = 0.1,
        keep_elite_ratio: float = 0.3,
        momentum: float = 0.1,
        min_std: float = 0.0,
        sampling: Sampling = "clipped",
        **settings: Unpack[PlannerSettings],
    ):
        super().__init__(action_space, horizon, n_candidates=n_candidates, n_iterations=n_iterations, **settings)
        check_at_least("noise_beta", noise_beta, 0)
        check_at_least("population_decay", population_decay, 1)
        check_share("keep_elite_ratio", keep_elite_ratio)
        check_choice("sampling", sampling, get_args(Sampling))
        self.refit = EliteRefit(n_candidates, elite_ratio, momentum, min_std)
        self.n_kept = round(keep_elite_ratio * self.refit.n_elites)
        self.noise_beta, self.population_decay, self.sampling = noise_beta, population_decay, sampling

    def draw_noise(self, n_envs: int, generator: torch.Generator | None = None) -> Float[Tensor, "I V N D A"]:
        """All randomness of a search, coloured along time."""
        shape = (self.n_iterations, n_envs, self.n_candidates + self.n_kept, self.n_decisions, self.space.row_size)
        return coloured_noise(shape, self.noise_beta, generator=generator, device=self.device)

    def population(self, iteration: int) -> int:
        """How many candidates are drawn, besides elites that are kept."""
        decayed = round(self.n_candidates * self.population_decay**-iteration)
        return min(self.n_candidates, max(decayed, 2 * self.refit.n_elites))

    def search(
        self,
        objective: Objective,
        state: PlannerState,
        noise: Float[Tensor, "I V N D A"],
        proposals: Num[Tensor, "V K D A"],
    ) -> Plan:
        mean, std = self.start(state)
        diagnostics: dict[str, Tensor] = {}
        for i, iteration_noise in enumerate(noise):
            n = self.population(i)
            if i == 0:
                kept = self._completed(state, self.space.decode(mean, std, iteration_noise[:, n:], self.sampling))
            parts = [kept, self.space.decode(mean, std, iteration_noise[:, :n], self.sampling), proposals]
            if i == len(noise) - 1:
                parts.append(self.space.mode(mean))
            candidates = torch.cat(parts, dim=1)
            values = evaluate(objective, candidates)
            elites, mean, std = self.refit(self.space, candidates, values, mean, std)
            diagnostics |= self.refit.figures(i, values)
            kept = elites[:, : self.n_kept]
        actions, value = best(candidates, values)
        diagnostics["search_std"] = std.mean(dim=(1, 2))
        return Plan(actions, value, state.advanced(mean, kept), diagnostics)

    def _completed(self, state: PlannerState, drawn: Num[Tensor, "V K D A"]) -> Num[Tensor, "V K D A"]:
        """The elites of the last step, with drawn decisions where they are open: all, in a new environment."""
        first_open = self.n_decisions - state.n_open
        is_open = torch.arange(self.n_decisions, device=self.device) >= first_open[:, None]
        return torch.where(rearrange(is_open, "v d -> v 1 d 1"), drawn, state.elites)
