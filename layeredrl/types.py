"""Frozen records that cross the borders between modules."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Literal, NamedTuple

import torch
from einops import reduce
from jaxtyping import Bool, Float, Num
from torch import Tensor

# How particles move through the members of an ensemble, see `layeredrl.models.propagation`.
Propagation = Literal["ts_inf", "ts1", "moment_matching", "expectation"]

# (state, context, action, next_state), whose leading dims broadcast -> one value per transition: its reward, or
# whether it ends the episode.
TransitionFunction = Callable[[Tensor, Tensor | None, Tensor, Tensor], Tensor]

# (states, their contexts) -> what they are worth; rows
ValueFunction = Callable[[Float[Tensor, "R S"], Num[Tensor, "R C"] | None], Float[Tensor, " R"]]


@dataclass(frozen=True)
class Batch:
    """Transitions. Every field has the same leading dims: `(B,)`, or `(E, B)` for a set per member.

    Attributes:
        state, next_state: flat states, before and after.
        context: flat context, or None where there is none.
        action: flat action; for Discrete spaces the integer action, with A = 1.
        terminated: whether the environment ended in `next_state` by its own rules (never by a time limit).
        reward, truncated: recorded for whoever needs them; dynamics models don't.
        weight: of each transition in a weighted loss.
        mask: False where a transition takes no part in a loss.
    """

    state: Float[Tensor, "*batch S"]
    context: Num[Tensor, "*batch C"] | None
    action: Num[Tensor, "*batch A"]
    next_state: Float[Tensor, "*batch S"]
    terminated: Bool[Tensor, "*batch"] | Float[Tensor, "*batch"]
    reward: Float[Tensor, "*batch"] | None = None
    truncated: Bool[Tensor, "*batch"] | Float[Tensor, "*batch"] | None = None
    weight: Float[Tensor, "*batch"] | None = None
    mask: Bool[Tensor, "*batch"] | None = None

    def __post_init__(self) -> None:
        for name, value in self.items():
            if not isinstance(value, Tensor):
                raise TypeError(f"Batch.{name}: got {type(value).__name__}, expected a Tensor")
            leading = value.shape[:-1] if name in _VECTOR_FIELDS else value.shape
            if leading != self.shape:
                raise ValueError(
                    f"Batch.{name}: got shape {tuple(value.shape)}, expected leading dims {tuple(self.shape)} "
                    f"as in state {tuple(self.state.shape)}"
                )

    @property
    def shape(self) -> torch.Size:
        """The leading dims."""
        return self.state.shape[:-1]

    def items(self) -> Iterator[tuple[str, Tensor]]:
        """Names and values of the fields that are present."""
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None:
                yield field.name, value

    def __len__(self) -> int:
        return self.shape[0]

    def map(self, function: Callable[[Tensor], Tensor]) -> "Batch":
        """Every present field through `function`, which treats all alike and leaves the last dim of vectors."""
        return replace(self, **{name: function(value) for name, value in self.items()})

    def __getitem__(self, index: slice | list[int] | Tensor) -> "Batch":
        """The transitions at `index`, which counts along the first leading dim."""
        return self.map(lambda value: value[index])

    def to(self, device: torch.device | str) -> "Batch":
        return self.map(lambda value: value.to(device))

    def flatten(self) -> "Batch":
        """All leading dims as one."""
        n_dims = len(self.shape)
        return self if n_dims == 1 else self.map(lambda value: value.flatten(0, n_dims - 1))

    def known_reward(self) -> Float[Tensor, "*batch"]:
        """The reward, for whoever can't do without; a ValueError, where there is none."""
        if self.reward is None:
            raise ValueError("Batch.reward: got None, expected the reward of each transition")
        return self.reward

    def check_finite(self) -> None:
        """Raise a ValueError that names the first field and row holding a NaN or an infinity."""
        for name, value in self.items():
            if bool(torch.isfinite(value).all()):
                continue
            row = (~torch.isfinite(value)).nonzero()[0]
            got = value[tuple(row)].item()
            raise ValueError(f"Batch.{name}: row {int(row[len(self.shape) - 1])} is {got}, expected finite values")


_VECTOR_FIELDS = frozenset({"state", "context", "action", "next_state"})


class Prediction(NamedTuple):
    """What each member expects after one step: a mixture of M diagonal Gaussians over absolute next states."""

    mean: Float[Tensor, "*batch E M S"]
    weights: Float[Tensor, "*batch E M"]
    std: Float[Tensor, "*batch E M S"]
    term_prob: Float[Tensor, "*batch"]


@dataclass(frozen=True)
class ModelStep:
    """One step of all particles of a rollout: where they were, where they went, and the laws they were drawn from.

    Attributes:
        state, next_state: the particles. P is 1 where all particles of a member coincide.
        term_prob: probability that the step ended the episode.
        get_moments: mean and variance of the step that member `e` made, given where its particle was. Many never
            ask for them.
        get_epistemic_var: see `epistemic_var`; None for models that can't tell.
    """

    state: Float[Tensor, "E P B S"]
    next_state: Float[Tensor, "E P B S"]
    term_prob: Float[Tensor, "E P B"]
    get_moments: Callable[[], tuple[Float[Tensor, "E P B S"], Float[Tensor, "E P B S"]]]
    get_epistemic_var: Callable[[], Float[Tensor, "E P B S"]] | None = None

    @cached_property
    def _moments(self) -> tuple[Float[Tensor, "E P B S"], Float[Tensor, "E P B S"]]:
        return self.get_moments()

    @property
    def mean(self) -> Float[Tensor, "E P B S"]:
        return self._moments[0]

    @property
    def var(self) -> Float[Tensor, "E P B S"]:
        return self._moments[1]

    @cached_property
    def epistemic_var(self) -> Float[Tensor, "E P B S"]:
        """How far members disagree on this one step: population variance of what all expect where a particle is.

        Unlike the spread of `mean`, it has nothing of how far paths have drifted apart before. Its price is that
        every member is asked about every particle, once it is asked for. It carries no gradient.
        """
        self.check_members()
        if self.get_epistemic_var is None:
            raise ValueError("epistemic_var: got a step of a model that doesn't tell; it needs its own `unroll`")
        return self.get_epistemic_var()

    def check_members(self) -> None:
        """Raise a ValueError where there is but one member, whose trust in itself says nothing."""
        if len(self.state) == 1:
            raise ValueError(
                "members: got a single one, which has nobody to disagree with, so that its ignorance isn't known; "
                "expected at least two (n_models, and n_elites where elites are rolled)"
            )


# A step -> whose of its particles' predictions are relied on. What is NaN never is.
Trust = Callable[[ModelStep], Bool[Tensor, "E P B"]]


@dataclass(frozen=True)
class Rollout:
    """Particles of an ensemble after 0 … H steps (T = H + 1 times), and how uncertain they are.

    The ensemble is the uniform mixture of its members, so the total variance of a state is
    `state_aleatoric_var + state_epistemic_var`. Both are estimated from the means and variances that the members
    gave at each particle (Rao-Blackwell: no noise is added before it is measured), and only when they are asked
    for. Members share their noise, so what differs between them is their opinion alone.

    Attributes:
        state: the particles. With `ts_inf`, all steps of `state[:, e]` are member `e`'s.
        term_prob: probability that the step ended the episode, given where the particle was.
        get_moments: mean and variance of the steps that member `e` made, given where the particles were. The
            particle axis has length 1 where all particles of a member coincide. Many never ask for them.
    """

    state: Float[Tensor, "B E P T S"]
    term_prob: Float[Tensor, "B E P H"]
    get_moments: Callable[[], tuple[Float[Tensor, "B E #P H S"], Float[Tensor, "B E #P H S"]]]

    @cached_property
    def _moments(self) -> tuple[Float[Tensor, "B E #P H S"], Float[Tensor, "B E #P H S"]]:
        return self.get_moments()

    @property
    def step_mean(self) -> Float[Tensor, "B E #P H S"]:
        """Mean of each step."""
        return self._moments[0]

    @property
    def step_var(self) -> Float[Tensor, "B E #P H S"]:
        """Variance of each step."""
        return self._moments[1]

    @cached_property
    def state_mean(self) -> Float[Tensor, "B E T S"]:
        """Mean state of each member."""
        start = self.state[:, :, 0, :1]
        return torch.cat([start, reduce(self.step_mean, "b e p h s -> b e h s", "mean")], dim=2)

    @cached_property
    def state_var(self) -> Float[Tensor, "B E T S"]:
        """Variance of the state within each member.

        Law of total variance: mean of the variances plus unbiased variance of the means. A single particle can't
        show how earlier noise spreads: its one-step variances are summed, as if the noise were carried along
        unchanged. Ask for two particles or more where the dynamics amplify or damp.
        """
        n_particles = self.step_mean.shape[2]
        if n_particles == 1:
            var = self.step_var[:, :, 0].cumsum(dim=2)
        else:
            var = self.step_var.mean(dim=2) + self.step_mean.var(dim=2, correction=1)
        return torch.cat([torch.zeros_like(var[:, :, :1]), var], dim=2)

    @cached_property
    def state_aleatoric_var(self) -> Float[Tensor, "B T S"]:
        """Noise of the environment: mean over members of the variance within."""
        return reduce(self.state_var, "b e t s -> b t s", "mean")

    @cached_property
    def state_epistemic_var(self) -> Float[Tensor, "B T S"]:
        """Ignorance of the model: population variance over the members' means.

        With two particles or more the noise that the means still carry cancels in expectation, because only
        products of different, independent particles enter (a U-statistic), clamped at zero. Identical members
        give zero at any number of particles, since they share their noise.
        """
        centred = self.step_mean - reduce(self.step_mean, "b e p h s -> b 1 p h s", "mean")
        total = reduce(centred, "b e p h s -> b e h s", "sum").square().mean(dim=1)
        n = centred.shape[2]
        if n == 1:
            var = total
        else:
            same = reduce(centred.square(), "b e p h s -> b e h s", "sum").mean(dim=1)
            var = ((total - same) / (n * (n - 1))).clamp_min(0.0)
        return torch.cat([torch.zeros_like(var[:, :1]), var], dim=1)
