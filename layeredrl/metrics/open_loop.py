"""How good a model is over a horizon, when it is told the actions and nothing else."""

import math

import torch
from einops import rearrange, repeat
from jaxtyping import Int
from torch import Tensor

from layeredrl.metrics.judging import JudgedRows, judge, summarise
from layeredrl.metrics.marginals import LARGEST, from_rollout
from layeredrl.metrics.quality import ModelQuality, join_times
from layeredrl.metrics.segments import Segments
from layeredrl.models.model import Model
from layeredrl.spaces import check_rows
from layeredrl.types import ModelStep, Rollout


@torch.no_grad()
def evaluate_open_loop(
    model: Model,
    segments: Segments,
    *,
    n_particles: int = 16,
    members: Int[Tensor, " members"] | None = None,
    max_rows: int = 4096,
    generator: torch.Generator | None = None,
) -> ModelQuality:
    """Roll the model from the start of each window and compare with what really happened, after every step.

    Particles stay with their members (TS∞), so that each member is judged by itself. All windows take a step
    together, and are judged and forgotten before the next: memory grows with the number of windows, not with the
    horizon. Each step counts as Gaussian, whatever the shape of its noise. A forecast beyond ±10¹⁵, which has
    diverged, counts as if it were there: figures are huge, but finite.

    Args:
        model: answers as it would answer anyone, so within a symmetry-breaking start it is that which is judged.
        segments: windows that the model hasn't learned from, from `cut_segments`.
        n_particles: behind each forecast of a member, at least; a multiple of the model's own P is taken. They
            stand for how noise of earlier steps spreads, so forecasts of few look overconfident: where that noise
            is all there is, the predicted variance is (n − 1) / (n + 1) of that of the errors. The time for the
            CRPS grows with the square.
        members: indices of the members that make up the ensemble, such as `model.elites`; None means all.
        max_rows: particles of each member that are moved, or judged, at a time; fewer take less memory.
        generator: source of the noise.

    Returns:
        The figures after 1 … H steps, on a first axis of length H.

    Raises:
        TypeError, ValueError: no windows, or rows that don't fit the model's spaces or aren't finite; or the model
            is sure of a next state, with a standard deviation of 0.
    """
    if n_particles < 2:
        raise ValueError(f"n_particles: got {n_particles}, expected at least 2, to show how noise spreads")
    if max_rows < 1:
        raise ValueError(f"max_rows: got {max_rows}, expected at least 1")
    _check(model, segments)
    n_repeats = math.ceil(n_particles / model.n_particles_per_model)
    steps = model.unroll(
        repeat(segments.state[:, 0], "w s -> (w r) s", r=n_repeats),
        None if segments.context is None else repeat(segments.context, "w c -> (w r) c", r=n_repeats),
        repeat(segments.action, "w h a -> (w r) h a", r=n_repeats),
        propagation="ts_inf",
        members=members,
        max_rows=max_rows,
        generator=generator,
    )
    n_windows = max(1, max_rows // (n_repeats * model.n_particles_per_model))
    chunks = [slice(first, first + n_windows) for first in range(0, len(segments), n_windows)]
    return join_times(
        [
            summarise([_judge(step, t, segments, windows, n_repeats) for windows in chunks])
            for t, step in enumerate(steps, start=1)
        ]
    )


def _check(model: Model, segments: Segments) -> None:
    if len(segments) == 0:
        raise ValueError("segments: got no windows, expected at least one")
    for name, space, leading, contained in (
        ("state", model.state_space, None, False),
        ("context", model.context_space, (len(segments),), False),
        ("action", model.action_space, None, True),
    ):
        value = getattr(segments, name)
        check_rows(f"segments.{name}", value, space, leading=leading, device=model.device, contained=contained)


def _judge(step: ModelStep, t: int, segments: Segments, windows: slice, n_repeats: int) -> JudgedRows:
    """Judge the forecasts of the `t`-th step of some windows, with a time axis of length 1."""
    rollout = _as_rollout(step, windows, n_repeats)
    return judge(
        from_rollout(rollout),
        epistemic_var=rollout.state_epistemic_var[:, 1:],
        aleatoric_var=rollout.state_aleatoric_var[:, 1:],
        start=segments.state[windows, :1],
        target=segments.state[windows, t : t + 1],
    )


def _as_rollout(step: ModelStep, windows: slice, n_repeats: int) -> Rollout:
    """One step of some windows, whose repeats become further particles."""
    rows = slice(windows.start * n_repeats, windows.stop * n_repeats)

    def take(value: Tensor) -> Tensor:
        return rearrange(value[:, :, rows], "e p (w r) ... -> w e (p r) 1 ...", r=n_repeats)

    return Rollout(
        state=torch.cat([take(step.state), take(step.next_state)], dim=3),
        term_prob=take(step.term_prob),
        get_moments=lambda: (_saturate(take(step.mean), LARGEST), _saturate(take(step.var), LARGEST**2)),
    )


def _saturate(value: Tensor, limit: float) -> Tensor:
    return value.nan_to_num(nan=limit).clamp(-limit, limit)
