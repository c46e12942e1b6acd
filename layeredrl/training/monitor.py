"""TensorBoard: what the model knows, what the planner promises, what the environment gives."""

import importlib.util
import warnings
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from layeredrl.models.probabilistic_ensemble import ProbabilisticEnsemble
from layeredrl.models.reward_model import RewardModel
from layeredrl.training.collector import Episode
from layeredrl.training.evaluation import Forecast
from layeredrl.training.trainer import TrainReport
from layeredrl.training.value_trainer import ValueReport


class Monitor:
    """Writes what happens to a folder that TensorBoard reads. The x axis counts environment steps.

    Args:
        log_dir: where to write.
    """

    def __init__(self, log_dir: Path | str):
        self._writer = SummaryWriter(str(log_dir))
        self._draws = importlib.util.find_spec("matplotlib") is not None
        if not self._draws:
            warnings.warn("matplotlib is not installed: TensorBoard will show no pictures", stacklevel=2)

    def fit(self, report: TrainReport, model: ProbabilisticEnsemble | RewardModel, step: int) -> None:
        """Scores of each member on training and held-out data, scale of the targets, cost of the fit.

        Those of a reward model stand under `reward_…`, beside those of the dynamics.
        """
        if isinstance(model, RewardModel):
            prefix = "reward_"
            self._scalar("reward_scale", float(model.rewards.scale), step)
        else:
            prefix = ""
            self._dimensions("target_scale", model.members.targets.scale, step)
        for name, scores in (("train", report.train), ("holdout", report.holdout)):
            self._members(f"{prefix}{name}_nll", scores.nll, step)
            self._members(f"{prefix}{name}_rmse", scores.mse.mean(dim=1).sqrt(), step)
        self._scalar(f"fit/{prefix}epochs", len(report.train_loss), step)
        self._scalar(f"fit/{prefix}transitions", report.n_train, step)
        self._scalar(f"time/{prefix}fit_seconds", report.seconds, step)

    def values(self, report: ValueReport, step: int) -> None:
        """How far the values of states are from being consistent."""
        self._scalar("value/td_error", report.td_error, step)
        self._scalar("time/value_fit_seconds", report.seconds, step)

    def episode(self, episode: Episode, step: int, *, horizon: int, discount: float = 1.0) -> None:
        """Return and length; if the agent planned, what it expected of `horizon` steps against what it got."""
        self._scalar("episode/return", episode.return_, step)
        self._scalar("episode/length", len(episode), step)
        if "value" in episode.info:
            # Where a time limit cut the horizon short, there is nothing to compare with.
            n = len(episode) if episode.terminated else max(0, len(episode) - horizon + 1)
            realised = realised_returns(episode.reward, horizon, discount)
            if n:
                self._scalar("plan/value", float(episode.info["value"][:n].mean()), step)
                self._scalar("plan/realised_return", float(realised[:n].mean()), step)
            self._scalar("time/plan_seconds", float(episode.info["act_seconds"].median()), step)

    def forecast(self, forecast: Forecast, step: int) -> None:
        """Spread of an open-loop forecast and, as pictures, its fan charts."""
        self._dimensions("epistemic_std", forecast.epistemic_std, step)
        self._dimensions("aleatoric_std", forecast.aleatoric_std, step)
        if self._draws:
            from layeredrl.training.plots import fan_chart

            self._writer.add_figure("forecast", fan_chart(forecast, f"Open loop after {step} steps"), step)

    def close(self) -> None:
        self._writer.close()

    def _members(self, name: str, values: Float[Tensor, " E"], step: int) -> None:
        for member, value in enumerate(values.tolist()):
            self._scalar(f"{name}/member_{member}", value, step)

    def _dimensions(self, name: str, values: Float[Tensor, " S"], step: int) -> None:
        for dim, value in enumerate(values.tolist()):
            self._scalar(f"{name}/state_{dim}", value, step)

    def _scalar(self, name: str, value: float | int, step: int) -> None:
        self._writer.add_scalar(name, value, step)


def realised_returns(reward: Float[Tensor, " T"], horizon: int, discount: float) -> Float[Tensor, " T"]:
    """Discounted sum of the `horizon` rewards from each step on; fewer at the end of the episode."""
    padded = torch.cat([reward, reward.new_zeros(horizon - 1)])
    discounts = discount ** torch.arange(horizon, device=reward.device)
    return padded.unfold(0, horizon, 1) @ discounts.to(reward)
