"""How planners draw actions of any space: Gaussians for numbers, categoricals for choices."""

from typing import Any, Literal

import torch
from einops import einsum, rearrange
from gymnasium.spaces import Box, Discrete, MultiDiscrete, Space
from jaxtyping import Float, Num
from torch import Tensor

from layeredrl.spaces import bounds, counts_and_starts, feature_size, features, leaves, row_size

# How draws of numbers stay inside the bounds, see `SearchSpace.decode`.
Sampling = Literal["clipped", "truncated", "uniform"]
# Truncated and uniform draws lie within so many standard deviations of the mean (Chua et al. 2018).
TRUNCATION = 2.0


class SearchSpace:
    """Distributions over actions, independent per element, whose parameters are a mean and a std in features.

    For a number (an element of a Box), these are its mean and standard deviation. For a choice (a Discrete, or an
    entry of a MultiDiscrete), the mean holds the probability of each category, and the std means nothing.

    Args:
        action_space: Box, Discrete, MultiDiscrete, or Tuple or Dict of such.
        initial_std: of the numbers: one for all, or one for each. None: a quarter of the bounds' width.
        device: where everything lies.

    Attributes:
        initial_mean, initial_std: of the distribution that knows nothing: numbers around the middle of their
            bounds, all categories alike.
        low, high: bounds of the numbers.
        numbers, number_features: where the numbers are in rows, and in features.
    """

    def __init__(
        self, action_space: Space[Any], initial_std: float | Float[Tensor, " numbers"] | None, device: torch.device
    ):
        self.action_space, self.device = action_space, device
        self.row_size, self.feature_size = row_size(action_space), feature_size(action_space)
        self._lay_out(list(leaves(action_space)))
        self.initial_mean, self.initial_std = self._initial_moments(initial_std)

    def _lay_out(self, spaces: list[Space[Any]]) -> None:
        """Find the places of numbers and choices in rows and in features."""
        numbers: list[int] = []
        number_features: list[int] = []
        choices: list[tuple[int, int, int, int]] = []  # row, first feature, number of categories, first category
        lows, highs = [torch.empty(0, device=self.device)], [torch.empty(0, device=self.device)]
        row = feature = 0
        for space in spaces:
            if isinstance(space, Box):
                low, high = bounds(space, self.device)
                lows, highs = [*lows, low], [*highs, high]
                numbers += range(row, row + len(low))
                number_features += range(feature, feature + len(low))
                row, feature = row + len(low), feature + len(low)
            elif isinstance(space, Discrete | MultiDiscrete):
                for count, start in zip(*counts_and_starts(space), strict=True):
                    choices.append((row, feature, count, start))
                    row, feature = row + 1, feature + count
            else:
                raise TypeError(
                    f"action_space: got a {type(space).__name__} in {self.action_space}, expected Box, Discrete, "
                    "MultiDiscrete, or Tuple or Dict of such"
                )
        self.low, self.high = torch.cat(lows), torch.cat(highs)
        self.numbers, self.number_features = (
            torch.tensor(x, dtype=torch.long, device=self.device) for x in (numbers, number_features)
        )
        table = torch.tensor(choices, dtype=torch.long, device=self.device).reshape(-1, 4)
        self._choices, first_feature, self._counts, self._starts = table.unbind(dim=1)
        # Categories of all choices, padded to as many as the largest has.
        category = torch.arange(max((count for _, _, count, _ in choices), default=0), device=self.device)
        self._is_category = category < self._counts[:, None]
        self._category_features = torch.where(self._is_category, first_feature[:, None] + category, 0)

    def _initial_moments(
        self, initial_std: float | Tensor | None
    ) -> tuple[Float[Tensor, " F"], Float[Tensor, " F"]]:
        bounded = self.low.isfinite() & self.high.isfinite()
        if initial_std is None:
            if not bool(bounded.all()):
                raise ValueError(
                    f"initial_std: got None, expected a number, because {self.action_space} is unbounded"
                )
            initial_std = self.high / 4 - self.low / 4
        number_std = torch.as_tensor(initial_std, dtype=self.low.dtype, device=self.device)
        if number_std.ndim > 1 or number_std.numel() not in (1, len(self.low)):
            raise ValueError(
                f"initial_std: got shape {tuple(number_std.shape)}, expected a number or one for each of the "
                f"{len(self.low)} numbers of {self.action_space}"
            )
        if not bool((number_std > 0).all()):
            raise ValueError(f"initial_std: got {initial_std}, expected positive numbers")
        middle = torch.where(bounded, self.low / 2 + self.high / 2, torch.zeros_like(self.low))
        mean, std = torch.zeros(2, self.feature_size, device=self.device)
        mean[self.number_features] = middle.clamp(self.low, self.high)
        std[self.number_features] = number_std.expand_as(self.low)
        probabilities = (1 / self._counts)[:, None].expand_as(self._is_category)
        mean[self._category_features[self._is_category]] = probabilities[self._is_category]
        return mean, std

    @property
    def has_choices(self) -> bool:
        return len(self._choices) > 0

    def decode(
        self,
        mean: Float[Tensor, "V H F"],
        std: Float[Tensor, "V H F"],
        noise: Float[Tensor, "V N H R"],
        sampling: Sampling = "clipped",
    ) -> Num[Tensor, "V N H R"]:
        """Rows drawn from the distributions, given standard normal noise.

        Numbers are `clipped` to the bounds, where mass piles up then; or drawn from a Gaussian `truncated` at two
        standard deviations, which are made so small that these don't reach over a bound (Chua et al. 2018); or
        `uniform` within two standard deviations, and clipped. Of a choice, that category is taken in whose share of
        the probability the noise's own cumulative probability falls: noise that is correlated over time gives
        choices that are.
        """
        mean, std = (rearrange(x, "v h f -> v 1 h f") for x in (mean, std))
        if not self.has_choices:
            return self._numbers_of(mean, std, noise, sampling)
        rows = torch.empty_like(noise)
        at = self.number_features
        rows[..., self.numbers] = self._numbers_of(mean[..., at], std[..., at], noise[..., self.numbers], sampling)
        rows[..., self._choices] = self._choices_of(mean, noise[..., self._choices])
        return rows if len(self.numbers) else rows.long()

    def _numbers_of(
        self, mean: Tensor, std: Tensor, noise: Tensor, sampling: Sampling
    ) -> Float[Tensor, "V N H numbers"]:
        if sampling == "truncated":
            tail = torch.special.ndtr(noise.new_tensor(-TRUNCATION))
            noise = torch.special.ndtri(tail + torch.special.ndtr(noise) * (1 - 2 * tail))
            room = torch.minimum(mean - self.low, self.high - mean).clamp_min(0.0)
            std = torch.minimum(std, room / TRUNCATION)
        elif sampling == "uniform":
            noise = TRUNCATION * (2 * torch.special.ndtr(noise) - 1)
        return (mean + std * noise).clamp(self.low, self.high)

    def _choices_of(self, mean: Tensor, noise: Tensor) -> Float[Tensor, "V N H choices"]:
        probabilities = mean[..., self._category_features] * self._is_category
        edges = probabilities.cumsum(dim=-1)
        category = (rearrange(torch.special.ndtr(noise), "... -> ... 1") >= edges).sum(dim=-1)
        # Rounding may leave the last edge a little below one.
        return (torch.minimum(category, self._counts - 1) + self._starts).to(noise.dtype)

    def mode(self, mean: Float[Tensor, "V H F"]) -> Num[Tensor, "V 1 H R"]:
        """The most probable rows: the means of numbers, the most probable categories."""
        mean = rearrange(mean, "v h f -> v 1 h f")
        if not self.has_choices:
            return mean
        rows = mean.new_empty(*mean.shape[:-1], self.row_size)
        rows[..., self.numbers] = mean[..., self.number_features]
        probabilities = mean[..., self._category_features].where(self._is_category, -1.0)
        rows[..., self._choices] = (probabilities.argmax(dim=-1) + self._starts).to(mean.dtype)
        return rows if len(self.numbers) else rows.long()

    def fit(
        self, rows: Num[Tensor, "V K H R"], weights: Float[Tensor, "V K"]
    ) -> tuple[Float[Tensor, "V H F"], Float[Tensor, "V H F"]]:
        """Weighted mean and std of the features of some rows; `weights` sum to one over K."""
        x = features(self.action_space, rows)
        mean = einsum(weights, x, "v k, v k h f -> v h f")
        centred = x - rearrange(mean, "v h f -> v 1 h f")
        return mean, einsum(weights, centred.square(), "v k, v k h f -> v h f").sqrt()

    def spread(self, mean: Float[Tensor, "V H F"], share: float) -> Float[Tensor, "V H F"]:
        """The mean with `share` of the probability of all choices spread evenly; numbers stay where they are."""
        if not self.has_choices:
            return mean
        spread = torch.lerp(mean, self.initial_mean, share)
        spread[..., self.number_features] = mean[..., self.number_features]
        return spread
