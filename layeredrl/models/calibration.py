"""Recalibration: the noise that members foretell, corrected by how far held-out transitions really lay.

A member's law of a dimension is y = μ + σ g(z) instead of y = μ + σ z, with z standard normal and g strictly
increasing (Kuleshov et al. 2018; for control, Malik et al. 2019). g is the same for all members and modes, and
fitted such that the mixture of all of them is calibrated, which their disagreement widens. Besides, members may be
drawn together, see `layeredrl.models.pooling`.
"""

from collections.abc import Callable
from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from layeredrl.models.held_out import HeldOut
from layeredrl.models.noise_shape import KNOTS, NoiseShape, normal_log_prob, piecewise_linear, standardized
from layeredrl.models.pooling import Consensus, draw_together, fit_pool
from layeredrl.models.propagation import MemberPrediction, StepFunction

CalibrationMethod = Literal["temperature", "isotonic", "pooled"]
# Rows that each method needs at least.
MIN_ROWS: dict[CalibrationMethod, int] = {"temperature": 1, "isotonic": len(KNOTS), "pooled": 1}
METHODS: tuple[CalibrationMethod, ...] = tuple(MIN_ROWS)

EM_STEPS = 20
MATCHING_ROUNDS = 3
# A temperature is fitted as if one more row had been as far off as foretold: so it is never 0.
PRIOR_ROWS_OF_TEMPERATURE = 1
# A shape is fitted as if so many more rows had been normal, but for the temperature: so it increases everywhere.
PRIOR_ROWS_OF_SHAPE = 50


class Calibration(nn.Module):
    """g(z) = shift + scale · h(z) of each dimension, h standardised; until it is fitted, g(z) = z.

    Members keep the share `spread` of their distance from the mean of all; all of it unless they are pooled.

    Args:
        n_dims: state size S.
    """

    shift: Tensor
    scale: Tensor
    shape: Tensor
    spread: Tensor
    fitted_by: Tensor

    def __init__(self, n_dims: int):
        super().__init__()
        self.register_buffer("shift", torch.zeros(n_dims))
        self.register_buffer("scale", torch.ones(n_dims))
        self.register_buffer("shape", KNOTS.to(torch.get_default_dtype()).repeat(n_dims, 1))
        self.register_buffer("spread", torch.ones(n_dims))
        # One of `METHODS` by its place, so that it is kept among the tensors; −1: none.
        self.register_buffer("fitted_by", torch.tensor(-1))

    def reset(self) -> None:
        """Let g(z) be z: what was fitted counts no longer."""
        self.fitted_by = torch.full_like(self.fitted_by, -1)

    @property
    def kind(self) -> CalibrationMethod | None:
        """What was fitted, if anything."""
        place = int(self.fitted_by)
        return None if place < 0 else METHODS[place]

    def fit(self, held_out: HeldOut, method: CalibrationMethod) -> None:
        """Replace g by what makes the mixture of the components calibrated in each dimension by itself.

        `temperature` is the most probable g(z) = T z; `pooled` the same together with the spread. `isotonic`
        matches quantiles: what was exceeded by a share of the rows is then foretold to be exceeded by that share.
        """
        spread, temperature = fit_pool(held_out) if method == "pooled" else (None, fit_temperature(held_out))
        if method == "isotonic":
            shift, scale, shape = standardized(fit_quantiles(held_out, temperature))
        else:
            shape = NoiseShape(KNOTS.repeat(len(temperature), 1))
            shift, scale = torch.zeros_like(temperature), temperature
        # New tensors, so that steps under way keep what they began with.
        self.shift, self.scale = shift.to(self.shift), scale.to(self.scale)
        self.shape = shape.values.to(self.shape)
        self.spread = torch.ones_like(self.spread) if spread is None else spread.to(self.spread)
        self.fitted_by = torch.full_like(self.fitted_by, METHODS.index(method))

    @property
    def noise_shape(self) -> NoiseShape | None:
        """h; None means normal."""
        return NoiseShape(self.shape) if self.kind == "isotonic" else None

    def correct(self, step: StepFunction, make_consensus: Callable[[], Consensus]) -> StepFunction:
        """The step function whose noise is calibrated; the same one until `fit`.

        Args:
            step: of members as they are.
            make_consensus: finds what all elites expect in the mean, which is needed where members are pooled.
        """
        kind = self.kind
        if kind is None:
            return step
        shift, scale, spread, shape = self.shift, self.scale, self.spread, self.noise_shape
        consensus = make_consensus() if kind == "pooled" else None

        def corrected(state: Tensor, action: Tensor) -> MemberPrediction:
            raw = step(state, action)
            if consensus is not None:
                raw = draw_together(raw, consensus(state, action), spread)
            return raw._replace(mean=torch.addcmul(raw.mean, raw.std, shift), std=raw.std * scale, shape=shape)

        return corrected


def fit_temperature(held_out: HeldOut) -> Float[Tensor, " S"]:
    """The most probable T, by expectation–maximisation: never less likely than 1.

    Alternately, each row is shared out among the components in proportion to how well they explain it, and T is
    the root mean square of the scores.
    """
    score, log_std, weight, _ = held_out
    square = score.square()
    log_height = rearrange(weight.log(), "n k -> n k 1") - log_std
    temperature = torch.ones_like(score[0, 0])
    for _ in range(EM_STEPS):
        share = (log_height - 0.5 * square / temperature.square()).softmax(dim=1)
        total = (share * square).sum(dim=(0, 1)) + PRIOR_ROWS_OF_TEMPERATURE
        temperature = (total / (len(score) + PRIOR_ROWS_OF_TEMPERATURE)).sqrt()
    return temperature


def fit_quantiles(held_out: HeldOut, temperature: Float[Tensor, " S"]) -> Float[Tensor, "S K"]:
    """Values of g at the `KNOTS`: never less likely, in any dimension, than the temperatures alone.

    Where q maps levels to the quantiles of standard normal scores of what happened under g, the scores under g ∘ q
    are standard normal: exactly so for a single component, for mixtures in the limit of many rounds. The limit can
    be a spike where members disagree by more than they err, so the likeliest round counts.
    """
    n_rows = len(held_out.score)
    prior_weight = PRIOR_ROWS_OF_SHAPE / (n_rows + PRIOR_ROWS_OF_SHAPE)
    knots = KNOTS.to(temperature).expand(len(temperature), -1)
    start = rearrange(temperature, "s -> s 1") * knots
    values = best = start
    best_log_prob = _log_prob(held_out, start)
    for _ in range(MATCHING_ROUNDS):
        quantiles = _quantiles_at_knots(_normal_scores(held_out, values))
        matched, _ = piecewise_linear(quantiles, knots, values)
        values = torch.lerp(rearrange(matched, "k s -> s k"), start, prior_weight)
        log_prob = _log_prob(held_out, values)
        best = torch.where(rearrange(log_prob > best_log_prob, "s -> s 1"), values, best)
        best_log_prob = torch.maximum(log_prob, best_log_prob)
    return best


def _normal_scores(held_out: HeldOut, values: Float[Tensor, "S K"]) -> Float[Tensor, "N S"]:
    """Φ⁻¹ of the mixture's CDF at what happened: standard normal, if each dimension is calibrated."""
    normal, _ = piecewise_linear(held_out.score, values, KNOTS.to(values).expand_as(values))
    weight = rearrange(held_out.weight, "n k -> n k 1")
    below, above = ((weight * torch.special.ndtr(x)).sum(dim=1) for x in (normal, -normal))
    # Of the two tails the smaller one is the exact one.
    score = torch.special.ndtri(torch.minimum(below, above).clamp_min(torch.finfo(below.dtype).tiny))
    return torch.where(below < above, score, -score)


def _log_prob(held_out: HeldOut, values: Float[Tensor, "S K"]) -> Float[Tensor, " S"]:
    """Mean log density of each dimension by itself."""
    normal, slope = piecewise_linear(held_out.score, values, KNOTS.to(values).expand_as(values))
    log_density = normal_log_prob(normal) + slope.log() - held_out.log_std
    return torch.logsumexp(rearrange(held_out.weight.log(), "n k -> n k 1") + log_density, dim=1).mean(dim=0)


def _quantiles_at_knots(score: Float[Tensor, "N S"]) -> Float[Tensor, "K S"]:
    """Quantiles, at the levels that the `KNOTS` have in the standard normal law; at the outermost, tails' lines."""
    inner = KNOTS[1:-1].to(score)
    position = (torch.special.ndtr(inner) * len(score) - 0.5).clamp(0, len(score) - 1)
    ordered = score.sort(dim=0).values
    low, high = ordered[position.floor().long()], ordered[position.ceil().long()]
    quantiles = torch.lerp(low, high, rearrange(position.frac(), "k -> k 1"))
    spacing = KNOTS[1] - KNOTS[0]
    first = quantiles[0] - spacing * _tail_slope((quantiles[0] - score).clamp_min(0))
    last = quantiles[-1] + spacing * _tail_slope((score - quantiles[-1]).clamp_min(0))
    return torch.cat([first.unsqueeze(0), quantiles, last.unsqueeze(0)])


def _tail_slope(excess: Float[Tensor, "N S"]) -> Float[Tensor, " S"]:
    """The likeliest slope b of what goes on straight behind the last inner knot z₀.

    An excess x has the density φ(z₀ + x / b) / b, so Σ (b² − z₀ x b − x²) = 0. Excesses of normal rows are added.
    """
    z0 = KNOTS[-2]
    n_prior = PRIOR_ROWS_OF_SHAPE * torch.special.ndtr(-z0)
    hazard = normal_log_prob(z0).exp() / torch.special.ndtr(-z0)
    n = (excess > 0).sum(dim=0) + n_prior
    total = excess.sum(dim=0) + n_prior * (hazard - z0)
    square = excess.square().sum(dim=0) + n_prior * (1 + z0.square() - z0 * hazard)
    return (z0 * total + (z0.square() * total.square() + 4 * n * square).sqrt()) / (2 * n)
