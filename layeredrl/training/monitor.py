"""TensorBoard: what the model knows, what the planner promises, what the environment gives."""

import importlib.util
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from layeredrl.metrics.accuracy import spread
from layeredrl.metrics.doubts import get_doubts
from layeredrl.metrics.one_step import evaluate_one_step
from layeredrl.metrics.quality import ModelQuality
from layeredrl.metrics.segments import Segments
from layeredrl.models.probabilistic_ensemble import ProbabilisticEnsemble
from layeredrl.models.reward_model import RewardModel
from layeredrl.training.alarms import Alarms
from layeredrl.training.collector import Episode
from layeredrl.training.diagnosis import Diagnosis, diagnose
from layeredrl.training.evaluation import Forecast
from layeredrl.training.hyperparameters import Hyperparameters
from layeredrl.training.plan_outcomes import plan_outcomes
from layeredrl.training.trainer import TrainReport
from layeredrl.training.value_trainer import ValueReport
from layeredrl.types import Batch

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Scalars that the HParams tab shows of each run.
METRICS = (
    "evaluation/return_mean",
    "episode/return",
    "fit/holdout_nll",
    "one_step/calibration_error_mean",
    "members/error_correlation",
    "plan/exploitation_gap",
)
# Figures of an episode that don't come from the planner's search.
NO_SEARCH = frozenset({"value", "plan_age", "terminal_value", "act_seconds"})
HISTOGRAM_BINS = 50
# Held-out transitions that forecasts are judged by, at most.
MAX_JUDGED = 2000


class Monitor:
    """Writes what happens to a folder that TensorBoard reads, and warns of what is wrong.

    The x axis counts environment steps. Each kind of `ModelWarning` is raised once, see `alarms.py`.

    Args:
        log_dir: where to write.
        settings: of the run, for the HParams tab. Mappings inside mappings are welcome.
    """

    def __init__(self, log_dir: Path | str, settings: Mapping[str, Any] | None = None):
        self._writer = SummaryWriter(str(log_dir))
        self._alarms = Alarms()
        self._hyperparameters = None if settings is None else Hyperparameters(self._writer, settings, METRICS)
        self._draws = importlib.util.find_spec("matplotlib") is not None
        if not self._draws:
            warnings.warn("matplotlib is not installed: TensorBoard will show no pictures", stacklevel=2)

    def fit(
        self,
        report: TrainReport,
        model: ProbabilisticEnsemble | RewardModel,
        step: int,
        holdout: Batch | None = None,
    ) -> None:
        """Scores of each member on training and held-out data, elites, scale of the targets, cost of the fit.

        Those of a reward model stand under `reward_…`, beside those of the dynamics.

        Args:
            report: of the fit.
            model: that was fitted.
            step: environment steps so far.
            holdout: transitions that no member has learned from. By these, dynamics get a `Diagnosis`, and the
                forecasts of the elites are judged one step ahead.
        """
        if isinstance(model, RewardModel):
            prefix, name, diagnosis = "reward_", "reward model", None
            self._scalar("reward_scale", float(model.rewards.scale), step)
        else:
            prefix, name = "", "dynamics model"
            diagnosis = None if holdout is None else self._judge(model, holdout, step)
            self._dimensions("target_scale", model.members.targets.scale, step)
        for data, scores in (("train", report.train), ("holdout", report.holdout)):
            self._members(f"{prefix}{data}_nll", scores.nll, step)
            self._members(f"{prefix}{data}_rmse", scores.mse.mean(dim=1).sqrt(), step)
        self._members(f"{prefix}elite", model.is_elite.float(), step)
        self._scalar(f"fit/{prefix}holdout_nll", float(report.holdout.nll[report.elites].mean()), step)
        self._scalar(f"fit/{prefix}epochs", len(report.train_loss), step)
        self._scalar(f"fit/{prefix}transitions", report.n_train, step)
        self._scalar(f"time/{prefix}fit_seconds", report.seconds, step)
        self._alarms.fit(name, report, diagnosis)

    def values(self, report: ValueReport, step: int) -> None:
        """How far the values of states are from being consistent."""
        self._scalar("value/td_error", report.td_error, step)
        self._scalar("time/value_fit_seconds", report.seconds, step)

    def episode(self, episode: Episode, step: int, *, horizon: int, discount: float = 1.0) -> None:
        """Return and length; if the agent planned, what it promised against what it got, and how it searched.

        Args:
            episode: that is over.
            step: environment steps so far.
            horizon: of the plans.
            discount: of their objective; `plan_outcomes` says what is compared.
        """
        self._scalar("episode/return", episode.return_, step)
        self._scalar("episode/length", len(episode), step)
        if "value" not in episode.info:
            return
        self._scalar("time/plan_seconds", float(episode.info["act_seconds"].median()), step)
        for name in sorted(episode.info.keys() - NO_SEARCH):
            self._scalar(f"planner/{name}", float(episode.info[name].mean()), step)
        outcomes = plan_outcomes(episode, horizon=horizon, discount=discount)
        if len(outcomes):
            self._scalar("plan/value", float(outcomes.promised.mean()), step)
            self._scalar("plan/realised_return", float(outcomes.realised.mean()), step)
            self._scalar("plan/exploitation_gap", float(outcomes.gap.mean()), step)
            self._histogram("plan/exploitation_gaps", outcomes.gap, step)
        self._alarms.plans(outcomes)

    def open_loop(self, quality: ModelQuality, segments: Segments, step: int) -> None:
        """How wrong forecasts over a horizon are, and how wrong they say they are.

        Args:
            quality: of `evaluate_open_loop`.
            segments: that it was judged by: ones that the model hasn't learned from, such as the latest episodes.
            step: environment steps so far.
        """
        unit, _ = spread(segments.state[:, 1:] - segments.state[:, :1])
        for name in ("rmse", "sharpness", "calibration_error"):
            over_time = getattr(quality.ensemble, name)
            self._dimensions(f"open_loop/{name}", over_time.mean(dim=0), step)
        if self._draws:
            from layeredrl.training.plots import horizon_chart

            title = f"Open loop on {quality.n_rows} new windows after {step} steps"
            self._figure("open_loop", horizon_chart({"ensemble": quality}, unit, title), step)

    def forecast(self, forecast: Forecast, step: int) -> None:
        """Spread of an open-loop forecast and, as pictures, its fan charts."""
        self._dimensions("epistemic_std", forecast.epistemic_std, step)
        self._dimensions("aleatoric_std", forecast.aleatoric_std, step)
        if self._draws:
            from layeredrl.training.plots import fan_chart

            self._figure("forecast", fan_chart(forecast, f"Open loop after {step} steps"), step)

    def evaluation(self, episodes: Sequence[Episode], step: int) -> None:
        """Mean and smallest return of the episodes of an evaluation."""
        returns = [episode.return_ for episode in episodes]
        self._scalar("evaluation/return_mean", mean(returns), step)
        self._scalar("evaluation/return_min", min(returns), step)

    def close(self) -> None:
        """The run is over."""
        if self._hyperparameters is not None:
            self._hyperparameters.finish()
        self._writer.close()

    def _judge(self, model: ProbabilisticEnsemble, holdout: Batch, step: int) -> Diagnosis:
        diagnosis = diagnose(model, holdout)
        self._diagnosis(diagnosis, step)
        # A member that has broken down foretells nothing that could be judged.
        members = model.elites[diagnosis.answers[model.elites]]
        if len(members) > 0:
            self._one_step(model, holdout, members, step)
        return diagnosis

    def _diagnosis(self, diagnosis: Diagnosis, step: int) -> None:
        """How members differ, the entropy of their mixtures, and their noise against its bounds."""
        n_members = len(diagnosis.error_correlation)
        if not math.isnan(diagnosis.mean_correlation):
            self._scalar("members/error_correlation", diagnosis.mean_correlation, step)
        if n_members > 1:
            self._dimensions("members/disagreement", diagnosis.disagreement, step)
        if diagnosis.weight_entropy is not None:
            self._scalar("members/weight_entropy", diagnosis.weight_entropy, step)
        for dim, log_std in enumerate(diagnosis.log_std.unbind(dim=-1)):
            self._histogram(f"log_std/state_{dim}", log_std, step)
        for name, held in (("lower", diagnosis.at_lower), ("upper", diagnosis.at_upper)):
            if held is not None:
                self._dimensions(f"log_std_at_{name}_bound", held.share, step)
        if self._draws:
            from layeredrl.training.plots import correlation_chart, noise_chart

            if n_members > 1:
                figure = correlation_chart(diagnosis, f"Correlation of errors after {step} steps")
                self._figure("error_correlation", figure, step)
            self._figure("log_std", noise_chart(diagnosis, f"Predicted noise after {step} steps"), step)

    @torch.no_grad()
    def _one_step(
        self, model: ProbabilisticEnsemble, holdout: Batch, members: Int[Tensor, " members"], step: int
    ) -> None:
        """Whether forecasts hold what they promise, and whether they are wrong where members disagree."""
        judged = holdout[:: math.ceil(len(holdout) / MAX_JUDGED)].to(model.device)
        quality = evaluate_one_step(model, judged, members=members)
        unit, varies = spread(judged.next_state - judged.state)
        for name in ("rmse", "crps", "sharpness", "calibration_error"):
            self._dimensions(f"one_step/{name}", getattr(quality.ensemble, name), step)
        if len(members) > 1:
            self._dimensions("one_step/epistemic_correlation", quality.epistemic_correlation, step)
        if not bool(varies.any()):
            return
        mean_error = float(quality.ensemble.calibration_error[varies].mean())
        self._scalar("one_step/calibration_error_mean", mean_error, step)
        if self._draws:
            from layeredrl.training.plots import calibration_chart, doubts_chart

            on = f"{quality.n_rows} held-out transitions after {step} steps"
            chart = calibration_chart({"ensemble": quality.ensemble}, varies, f"One step ahead on {on}")
            self._figure("calibration", chart, step)
            if len(members) > 1:
                prediction = model.predict(judged.state, judged.context, judged.action, members=members)
                doubts = get_doubts(prediction, judged.next_state, unit, varies)
                self._figure("error_against_disagreement", doubts_chart(doubts, on), step)

    def _members(self, name: str, values: Float[Tensor, " E"], step: int) -> None:
        for member, value in enumerate(values.tolist()):
            self._scalar(f"{name}/member_{member}", value, step)

    def _dimensions(self, name: str, values: Float[Tensor, " S"], step: int) -> None:
        for dim, value in enumerate(values.tolist()):
            self._scalar(f"{name}/state_{dim}", value, step)

    def _scalar(self, name: str, value: float | int, step: int) -> None:
        self._writer.add_scalar(name, value, step)

    def _figure(self, name: str, figure: "Figure", step: int) -> None:
        """All under one heading, as TensorBoard opens no more than two."""
        self._writer.add_figure(f"model/{name}", figure, step)

    def _histogram(self, name: str, values: Float[Tensor, "*shape"], step: int) -> None:
        """Of the finite ones: members can break down."""
        finite = values[values.isfinite()]
        if len(finite):
            self._writer.add_histogram(name, finite, step, bins=HISTOGRAM_BINS)
