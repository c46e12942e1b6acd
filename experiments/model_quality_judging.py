"""A model against transitions that it hasn't learned from: the figures that a report is made of."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from layeredrl.data.episodes import episode_numbers
from layeredrl.metrics.accuracy import spread
from layeredrl.metrics.calibration import COVERAGE_LEVELS
from layeredrl.metrics.doubts import Doubts, get_doubts
from layeredrl.metrics.information import epistemic_information
from layeredrl.metrics.marginals import from_prediction
from layeredrl.metrics.one_step import evaluate_one_step
from layeredrl.metrics.open_loop import evaluate_open_loop
from layeredrl.metrics.quality import ModelQuality
from layeredrl.metrics.ranks import auroc
from layeredrl.metrics.segments import Segments, cut_segments
from layeredrl.models.model import Model
from layeredrl.types import Batch

# Place of the level whose coverage tables show.
LEVEL = COVERAGE_LEVELS.index(0.9)
# Transitions that a model is asked about at a time.
MAX_ROWS = 4096


@dataclass(frozen=True)
class Judgement:
    """How good a model is. Relative errors have what really changes as their unit: foretelling its mean gets 1.

    Attributes:
        one_step, open_loop: quality one step ahead, and after 1 … H steps.
        unit, open_loop_unit: standard deviation of what changes within as many steps; 1 if constant.
        test: doubts about the transitions of the test set.
        test_information, shifted_information: what the model could learn from each of the transitions, in nats.
        seconds: of processor time that learning took.
    """

    one_step: ModelQuality
    open_loop: ModelQuality
    unit: Float[Tensor, " S"]
    open_loop_unit: Float[Tensor, "H S"]
    test: Doubts
    test_information: Float[Tensor, " N"]
    shifted_information: Float[Tensor, " D"] | None
    seconds: float

    @property
    def relative_rmse(self) -> Float[Tensor, " S"]:
        return self.one_step.ensemble.rmse / self.unit

    @property
    def relative_open_loop(self) -> Float[Tensor, "H S"]:
        return self.open_loop.ensemble.rmse / self.open_loop_unit

    @property
    def n_members(self) -> int:
        return len(self.one_step.members.nll)

    @property
    def auroc(self) -> float | None:
        """How well information tells shifted transitions from the test set's. A lone member has none."""
        if self.shifted_information is None or self.n_members == 1:
            return None
        return float(auroc(self.test_information, self.shifted_information))


@dataclass(frozen=True)
class Exam:
    """What models are judged by.

    Attributes:
        test: transitions of episodes that no model has learned from.
        segments: windows of them, for forecasts over a horizon.
        shifted: transitions from elsewhere than the training data, if there are any.
        unit: standard deviation of the change of each coordinate in a step of the training data; 1 if constant.
        varies: which coordinates change in training data and windows. Means over coordinates are over these.
    """

    test: Batch
    segments: Segments
    shifted: Batch | None
    unit: Float[Tensor, " S"]
    varies: Bool[Tensor, " S"]

    @torch.no_grad()
    def judge(self, model: Model, seconds: float, *, n_particles: int, generator: torch.Generator) -> Judgement:
        path = self.segments.state
        return Judgement(
            one_step=evaluate_one_step(model, self.test),
            open_loop=evaluate_open_loop(model, self.segments, n_particles=n_particles, generator=generator),
            unit=spread(self.test.next_state - self.test.state)[0],
            open_loop_unit=torch.stack([spread(path[:, t] - path[:, 0])[0] for t in range(1, path.shape[1])]),
            test=self._doubts(model, self.test),
            test_information=self._information(model, self.test),
            shifted_information=None if self.shifted is None else self._information(model, self.shifted),
            seconds=seconds,
        )

    def _doubts(self, model: Model, batch: Batch) -> Doubts:
        parts = [self._doubts_of_few(model, few) for few in _in_parts(batch)]
        return Doubts(*map(torch.cat, zip(*parts, strict=True)))

    def _doubts_of_few(self, model: Model, batch: Batch) -> Doubts:
        prediction = model.predict(batch.state, None, batch.action)
        return get_doubts(prediction, batch.next_state, self.unit, self.varies)

    def _information(self, model: Model, batch: Batch) -> Float[Tensor, " N"]:
        return torch.cat([self._information_of_few(model, few) for few in _in_parts(batch)])

    def _information_of_few(self, model: Model, batch: Batch) -> Float[Tensor, " N"]:
        mean, var = from_prediction(model.predict(batch.state, None, batch.action)).moments()
        epistemic_var, aleatoric_var = mean.var(dim=-2, correction=0), var.mean(dim=-2)
        return epistemic_information(epistemic_var[:, self.varies], aleatoric_var[:, self.varies])


def _in_parts(batch: Batch) -> list[Batch]:
    return [batch[i : i + MAX_ROWS] for i in range(0, len(batch), MAX_ROWS)]


def make_exam(train: Batch, test: Batch, shifted: Batch | None, horizon: int) -> Exam:
    """Judge by `test`, over the horizon or, if all of its episodes are shorter, over the longest of them."""
    longest = int(episode_numbers(test).bincount().max())
    segments = cut_segments(test, min(horizon, longest))
    unit, varies = spread(train.next_state - train.state)
    for t in range(1, segments.horizon + 1):
        varies = varies & spread(segments.state[:, t] - segments.state[:, 0])[1]
    if not bool(varies.any()):
        raise SystemExit("--data: got states of which no coordinate changes, so there is nothing to foretell")
    return Exam(test, segments, shifted, unit, varies)
