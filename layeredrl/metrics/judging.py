"""From forecasts and what happened to figures: first row by row, so that few need be in memory, then over all."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from layeredrl.metrics.accuracy import explained_variance, rmse
from layeredrl.metrics.calibration import COVERAGE_LEVELS, calibration_error, coverage, pit_histogram, sharpness
from layeredrl.metrics.crps import crps
from layeredrl.metrics.marginals import Marginals
from layeredrl.metrics.quality import ForecastQuality, ModelQuality
from layeredrl.metrics.ranks import spearman


class Verdicts(NamedTuple):
    """What is known of the forecast of each row: `lead` ends with E for members."""

    log_prob: Float[Tensor, "N *lead"]
    marginal_log_prob: Float[Tensor, "N *lead S"]
    error: Float[Tensor, "N *lead S"]
    variance: Float[Tensor, "N *lead S"]
    crps: Float[Tensor, "N *lead S"]
    pit: Float[Tensor, "N *lead S"]


class JudgedRows(NamedTuple):
    """Verdicts on some rows, how uncertain their forecasts were, and how much the states really changed."""

    ensemble: Verdicts
    members: Verdicts
    epistemic_var: Float[Tensor, "N *time S"]
    aleatoric_var: Float[Tensor, "N *time S"]
    change: Float[Tensor, "N *time S"]


def judge(
    members: Marginals,
    epistemic_var: Float[Tensor, "N *time S"],
    aleatoric_var: Float[Tensor, "N *time S"],
    *,
    start: Float[Tensor, "N *time S"],
    target: Float[Tensor, "N *time S"],
) -> JudgedRows:
    """Compare what members foretold with what happened.

    Args:
        members: leading dims `(N, *time, E)`.
        epistemic_var, aleatoric_var: of the ensemble.
        start: where the forecasts were made.
        target: what was foretold.
    """
    return JudgedRows(
        ensemble=_judge(members.pooled(), target),
        members=_judge(members, rearrange(target, "... s -> ... 1 s")),
        epistemic_var=epistemic_var.double(),
        aleatoric_var=aleatoric_var.double(),
        change=target.double() - start.double(),
    )


def summarise(parts: Sequence[JudgedRows]) -> ModelQuality:
    """Figures over all rows of all parts together."""
    ensemble, members = (_cat([getattr(part, name) for part in parts]) for name in ("ensemble", "members"))
    epistemic_var, aleatoric_var, change = (
        torch.cat([getattr(part, name) for part in parts]) for name in ("epistemic_var", "aleatoric_var", "change")
    )
    return ModelQuality(
        n_rows=len(change),
        ensemble=_summarise(ensemble, change),
        members=_summarise(members, rearrange(change, "... s -> ... 1 s")),
        epistemic_std=sharpness(epistemic_var),
        aleatoric_std=sharpness(aleatoric_var),
        epistemic_correlation=spearman(epistemic_var, ensemble.error.abs()),
    )


def _judge(forecast: Marginals, target: Float[Tensor, "N *#lead S"]) -> Verdicts:
    mean, variance = forecast.moments()
    return Verdicts(
        log_prob=forecast.joint_log_prob(target),
        marginal_log_prob=forecast.log_prob(target),
        error=mean - target,
        variance=variance,
        crps=crps(forecast, target),
        pit=forecast.cdf(target),
    )


def _cat(parts: Sequence[Verdicts]) -> Verdicts:
    """All rows of all parts, in the precision that sums over many rows need."""
    return Verdicts(*(torch.cat(columns).double() for columns in zip(*parts, strict=True)))


def _summarise(verdicts: Verdicts, change: Float[Tensor, "N *#lead S"]) -> ForecastQuality:
    levels = torch.tensor(COVERAGE_LEVELS, dtype=verdicts.pit.dtype, device=change.device)
    return ForecastQuality(
        nll=-verdicts.log_prob.mean(dim=0),
        marginal_nll=-verdicts.marginal_log_prob.mean(dim=0),
        rmse=rmse(verdicts.error),
        explained_variance=explained_variance(verdicts.error, change),
        crps=verdicts.crps.mean(dim=0),
        calibration_error=calibration_error(verdicts.pit),
        coverage=coverage(verdicts.pit, levels),
        pit_histogram=pit_histogram(verdicts.pit),
        sharpness=sharpness(verdicts.variance),
        std_correlation=spearman(verdicts.variance, verdicts.error.abs()),
    )
