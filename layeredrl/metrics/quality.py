"""How good a model's forecasts were: the figures."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from layeredrl.metrics.calibration import COVERAGE_LEVELS


@dataclass(frozen=True)
class ForecastQuality:
    """How good forecasts were, over all rows. Every number is finite, and float64.

    Attributes:
        nll: mean −log density of the whole state, in nats.
        marginal_nll: the same of each dimension by itself.
        rmse: of the mean.
        explained_variance: share of the variance of the change of state that the mean explains, see
            `layeredrl.metrics.accuracy`.
        crps: mean continuous ranked probability score, in the unit of the state.
        calibration_error: expected calibration error, see `layeredrl.metrics.calibration`.
        coverage: share inside the central intervals of the levels `COVERAGE_LEVELS`.
        pit_histogram: share of the PIT values in each of ten even bins.
        sharpness: root mean predicted variance.
        std_correlation: rank correlation of the predicted standard deviation with the absolute error; 0 where
            either is the same in all rows.
    """

    nll: Float[Tensor, "*lead"]
    marginal_nll: Float[Tensor, "*lead S"]
    rmse: Float[Tensor, "*lead S"]
    explained_variance: Float[Tensor, "*lead S"]
    crps: Float[Tensor, "*lead S"]
    calibration_error: Float[Tensor, "*lead S"]
    coverage: Float[Tensor, "*lead S levels"]
    pit_histogram: Float[Tensor, "*lead S bins"]
    sharpness: Float[Tensor, "*lead S"]
    std_correlation: Float[Tensor, "*lead S"]


@dataclass(frozen=True)
class ModelQuality:
    """How far a model can be trusted. `time` is no axis at all for one step, and `(H,)` over a horizon.

    Attributes:
        n_rows: transitions or windows that forecasts were judged on.
        ensemble: quality of the uniform mixture of the members, `(*time, …)`.
        members: quality of each by itself, `(*time, E, …)`.
        epistemic_std, aleatoric_std: root mean variance between the members' means, and within members. With a
            single member, the former is exactly 0.
        epistemic_correlation: rank correlation of the epistemic standard deviation with the absolute error of the
            ensemble; 0 where either is the same in all rows, as with a single member.
    """

    n_rows: int
    ensemble: ForecastQuality
    members: ForecastQuality
    epistemic_std: Float[Tensor, "*time S"]
    aleatoric_std: Float[Tensor, "*time S"]
    epistemic_correlation: Float[Tensor, "*time S"]

    def to_json(self) -> dict[str, Any]:
        """All of it as nested dicts of numbers and lists of numbers, beside the levels of the coverage."""
        report = asdict(self, dict_factory=lambda items: {name: _plain(value) for name, value in items})
        return {**report, "coverage_levels": list(COVERAGE_LEVELS)}


Figures = TypeVar("Figures", ForecastQuality, ModelQuality)


def join_times(parts: Sequence[Figures]) -> Figures:
    """Figures at consecutive times, each with a time axis first, as one. They are of the same rows."""
    joined: dict[str, Any] = {}
    for field in fields(parts[0]):
        values = [getattr(part, field.name) for part in parts]
        if isinstance(values[0], Tensor):
            joined[field.name] = torch.cat(values)
        elif isinstance(values[0], ForecastQuality):
            joined[field.name] = join_times(values)
    return replace(parts[0], **joined)


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, Tensor) else value
