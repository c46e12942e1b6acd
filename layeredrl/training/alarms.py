"""Plain warnings of what is wrong with a model, or with the plans that are made with it."""

import math
import warnings
from collections import deque
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from layeredrl.training.diagnosis import Diagnosis
from layeredrl.training.plan_outcomes import PlanOutcomes
from layeredrl.training.trainer import TrainReport

# Epochs below which a fit is too short to tell a trend.
MIN_EPOCHS = 12
# How far the held-out loss has to rise, in nats per transition and in units of its scatter from epoch to epoch.
MIN_RISE, RISE_IN_SCATTERS = 1.0, 3.0
# How closely members agree that are copies, per the disagreement of independent ones.
COPIES_SHARE = 0.5
# Share of the predictions held by a bound, and share of misses among them, from which on it is worth a word.
HELD_SHARE, MISSED_SHARE = 0.5, 0.25
# Episodes whose gap is compared with that of episodes before them: at least and at most so many.
RECENT, MIN_EARLIER, MAX_EARLIER = 3, 5, 10
# How far the gap has to grow, in standard deviations of the earlier ones, and how large it is per what was earned.
GROWTH_IN_STDS, MIN_GAP_SHARE = 3.0, 0.1


class ModelWarning(UserWarning):
    """What a model has learned, or how a planner uses it, shouldn't be relied on as it is."""


class Alarms:
    """Raises each kind of `ModelWarning` once; to be called by what the user calls."""

    def __init__(self) -> None:
        self._raised: set[str] = set()
        self._planned: deque[PlanOutcomes] = deque(maxlen=RECENT + MAX_EARLIER)

    def fit(self, model_name: str, report: TrainReport, diagnosis: Diagnosis | None) -> None:
        """Look at a fit and, if there is one, at a diagnosis on transitions that weren't learned from."""
        self._raise_once(f"overfitting of the {model_name}", overfitting(report, model_name))
        if diagnosis is not None:
            self._raise_once("collapse", collapse(diagnosis, report.n_train))
            self._raise_once("upper bound", stuck_at_upper_bound(diagnosis))
            self._raise_once("lower bound", overconfidence(diagnosis))

    def plans(self, outcomes: PlanOutcomes) -> None:
        """Look at the plans of an episode."""
        if len(outcomes):
            self._planned.append(outcomes)
            self._raise_once("exploitation", growing_gap(self._planned))

    def _raise_once(self, kind: str, message: str | None) -> None:
        if message is not None and kind not in self._raised:
            self._raised.add(kind)
            warnings.warn(message, ModelWarning, stacklevel=4)


def overfitting(report: TrainReport, model_name: str) -> str | None:
    """Held-out losses rise while training losses fall, within one fit and for every member.

    Every member, because one alone may well have met a held-out transition whose like its bootstrap lacks. Not from
    one fit to the next: data that come in between, such as a first crash, change both losses.

    Trends are those of means over a quarter of the epochs: the last against that with the smallest held-out loss.
    """
    n_epochs = len(report.train_loss)
    if report.n_holdout == 0 or n_epochs < MIN_EPOCHS:
        return None
    n_late = n_epochs // 4
    train, holdout = (loss.unfold(0, n_late, 1).mean(dim=-1) for loss in (report.train_loss, report.holdout_loss))
    lowest, at = holdout.min(dim=0, keepdim=True)
    rise, fall = (holdout[-1] - lowest)[0], (train.gather(0, at) - train[-1])[0]
    # From differences of neighbours, so that the trend itself isn't taken for scatter.
    scatter = report.holdout_loss[-n_late:].diff(dim=0).square().mean(dim=0).div(2).sqrt()
    if not bool(((rise > MIN_RISE) & (rise > RISE_IN_SCATTERS * scatter) & (fall > 0)).all()):
        return None
    return (
        f"the {model_name} overfits: in {n_epochs} epochs, every member's held-out loss rose again, by "
        f"{_range(rise)} nats per transition, while its training loss fell by {_range(fall)}; members keep the "
        f"weights of their best epochs {report.best_epoch.tolist()}, so only more data, a smaller network or more "
        "weight decay would let them learn for longer"
    )


def collapse(diagnosis: Diagnosis, n_train: int) -> str | None:
    """Members agree more closely than their bootstraps alone would let them.

    Even a single number, fitted to n noisy targets, differs by 1/√n of their noise from one bootstrap to the next.
    Members that agree far better than that are no independent fits, but copies. That their errors correlate proves
    nothing: they do as well where all members know what can be known, and what remains is noise.
    """
    n_members, independent = len(diagnosis.error_correlation), 1 / math.sqrt(n_train)
    if n_members == 1 or not bool((diagnosis.disagreement < COPIES_SHARE * independent).all()):
        return None
    return (
        f"the {n_members} members have collapsed onto each other: on held-out data their means lie apart by "
        f"{float(diagnosis.disagreement.max()):.2g} of their errors (which correlate at "
        f"{diagnosis.mean_correlation:.4f}), where bootstraps of {n_train} transitions alone would make it "
        f"{independent:.2g}; their epistemic variance says nothing, so let them start from different weights and "
        "learn from different data"
    )


def stuck_at_upper_bound(diagnosis: Diagnosis) -> str | None:
    """Predicted noise is as large as the network can say, in some dimension.

    Never right where targets are normalised: a constant would explain them better.
    """
    held = diagnosis.at_upper
    if held is None or not bool((held.share > HELD_SHARE).any()):
        return None
    dims = held.share > HELD_SHARE
    return (
        f"the predicted noise of state dimensions {_places(dims)} sits at its upper bound: "
        f"{_range(held.share[dims], '.0%')} of the held-out predictions have a log standard deviation near "
        f"{held.bound:g}, in units of the targets; the model knows nothing of them, or the bound is too low: look "
        "for outliers, keep normalize_targets=True or raise max_log_std"
    )


def overconfidence(diagnosis: Diagnosis) -> str | None:
    """Predicted noise is as small as the network can say, in some dimension, and the errors are larger.

    The bound alone is no reason to worry: dimensions without noise belong there, with errors that are smaller yet.
    """
    held = diagnosis.at_lower
    if held is None:
        return None
    dims = (held.share > HELD_SHARE) & (held.missed > MISSED_SHARE)
    if not bool(dims.any()):
        return None
    return (
        f"the model is too sure of state dimensions {_places(dims)}: {_range(held.share[dims], '.0%')} of the "
        f"held-out predictions have a log standard deviation near the lower bound {held.bound:g}, but "
        f"{_range(held.missed[dims], '.0%')} of these are off by more than two standard deviations, where 5% may "
        "be; judge members by data they haven't learned from, collect more, or raise min_log_std"
    )


def growing_gap(episodes: Sequence[PlanOutcomes]) -> str | None:
    """Plans of the latest episodes have promised more than they got, and more so than in any episode before.

    Some gap is normal: the best of many plans is one with lucky errors. So it has to grow well beyond its scatter
    between episodes, and to matter beside what is earned.
    """
    if len(episodes) < MIN_EARLIER + RECENT:
        return None
    gaps = torch.stack([outcomes.gap.mean() for outcomes in episodes])
    before, now = gaps[:-RECENT], gaps[-RECENT:]
    earned = torch.stack([outcomes.realised.mean() for outcomes in episodes])[-RECENT:].abs().mean()
    has_grown = now.min() > before.max() and now.mean() - before.mean() > GROWTH_IN_STDS * before.std()
    if not has_grown or now.min() <= MIN_GAP_SHARE * earned:
        return None
    return (
        f"the exploitation gap grows: plans of the last {RECENT} episodes promised {_range(now)} more on average "
        f"than was then earned over their horizon, those of {len(before)} episodes before {_range(before)}; the "
        "planner profits from errors of the model, so collect data where it plans to go, shorten the horizon, or "
        "penalise uncertainty (risk, terms)"
    )


def _places(mask: Bool[Tensor, " S"]) -> list[int]:
    return mask.nonzero().squeeze(-1).tolist()


def _range(values: Float[Tensor, " n"], spec: str = ".3g") -> str:
    """The smallest and the largest number, or just one where they read alike."""
    low, high = (format(float(x), spec) for x in values.aminmax())
    return low if low == high else f"{low} to {high}"
