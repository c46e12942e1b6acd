"""What can be asked of members that are a uniform mixture together, given what makes one step of each."""

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator

import torch
from einops import rearrange
from jaxtyping import Float, Int, Num
from torch import Tensor

from layeredrl.models.mixture import log_weights, mixture_log_prob, mixture_moments, mixture_sample
from layeredrl.models.model import LogProb, Model
from layeredrl.models.noise_shape import NoiseShape
from layeredrl.models.propagation import (
    ActionFunction,
    StepFunction,
    check_propagation,
    particles_coincide,
    propagate,
    record,
)
from layeredrl.models.query_checks import broadcast_std, check_query, check_rollout
from layeredrl.spaces import check_rows
from layeredrl.types import ModelStep, Prediction, Propagation, Rollout, Trust

Transform = Callable[[Tensor], Tensor]


class MemberMixture(Model):
    """E members, each a mixture of M Gaussians over next states, and the uniform mixture that they are together."""

    @abstractmethod
    def _step_function(
        self,
        context: Num[Tensor, "B C"] | None,
        members: Int[Tensor, " members"] | None,
        loss_mode: bool,
        max_rows: int | None = None,
    ) -> StepFunction:
        """What makes a step of each member from P · B rows of states and actions.

        All that has to be known of what lies on the device is read here, and nothing by the steps.

        Args:
            context: of the first B rows, and again of every B rows that follow.
            members: to use; None means all.
            loss_mode: leave the symmetry-breaking start out.
            max_rows: that each network reads at a time; None means all.
        """

    def predict(
        self,
        state: Float[Tensor, "*batch S"],
        context: Num[Tensor, "*batch C"] | None,
        action: Num[Tensor, "*batch A"],
        std: float | Tensor | None = None,
        *,
        loss_mode: bool = False,
        members: Int[Tensor, " members"] | None = None,
    ) -> Prediction:
        """What each member expects: a mixture of M Gaussians over absolute next states.

        Where noise has another shape than the normal one, these are the means and standard deviations all the same.

        Args:
            state, context, action: rows of the spaces, with the same leading dims.
            std: overrides the predicted standard deviation; a number or what broadcasts to `(…, E, M, S)`.
            loss_mode: leave the symmetry-breaking start out.
            members: indices of the members to ask; None means all.

        Raises:
            TypeError, ValueError: an argument has the wrong type, shape or device, is not finite, or an action
                lies outside its space.
        """
        prediction, _ = self._ask(state, context, action, loss_mode=loss_mode, members=members)
        return prediction if std is None else prediction._replace(std=broadcast_std(std, prediction.mean))

    def sample(
        self,
        state: Float[Tensor, "*batch S"],
        context: Num[Tensor, "*batch C"] | None,
        action: Num[Tensor, "*batch A"],
        *,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "*batch S"]:
        """Draw next states from the mixture of all members: the member, then the mode, then the noise."""
        (mean, weights, std, _), shape = self._ask(state, context, action)
        leading, device = state.shape[:-1], self.device
        member = torch.randint(self.n_models, leading, generator=generator, device=device)
        mode = torch.rand(leading, generator=generator, device=device)
        normal = torch.randn(state.shape, generator=generator, device=device)
        noise = normal if shape is None else shape.bend(normal)
        mean, weights, std = (_take_member(x, member) for x in (mean, weights, std))
        return mixture_sample(mean, std, weights, noise, mode)

    def rollout(
        self,
        initial_state: Float[Tensor, "B S"],
        context: Num[Tensor, "B C"] | None,
        actions: Num[Tensor, "B H A"],
        deterministic: bool = False,
        loss_mode: bool = False,
        *,
        propagation: Propagation = "ts_inf",
        members: Int[Tensor, " members"] | None = None,
        generator: torch.Generator | None = None,
    ) -> Rollout:
        """Follow the actions from the initial states, with P particles per member.

        Args:
            initial_state, context: one row per sequence of actions.
            actions: of each step; integers `(B, H, 1)` for Discrete spaces.
            deterministic: follow the mixture mean instead of drawing.
            loss_mode: leave the symmetry-breaking start out.
            propagation: `ts_inf`, `ts1`, `moment_matching` or `expectation`, see `layeredrl.models.propagation`.
            members: indices of the members to use, such as `elites`; None means all.
            generator: source of the noise.

        Raises:
            TypeError, ValueError: as in `predict`.
        """
        steps = self.unroll(
            initial_state,
            context,
            actions,
            deterministic,
            loss_mode,
            propagation=propagation,
            members=members,
            generator=generator,
        )
        return record(steps, self.n_particles_per_model)

    def unroll(
        self,
        initial_state: Float[Tensor, "B S"],
        context: Num[Tensor, "B C"] | None,
        actions: Num[Tensor, "B H A"],
        deterministic: bool = False,
        loss_mode: bool = False,
        *,
        propagation: Propagation = "ts_inf",
        members: Int[Tensor, " members"] | None = None,
        max_rows: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Iterator[ModelStep]:
        """The steps of `rollout`, one at a time, for those who needn't keep them all.

        Args:
            initial_state, context, actions, deterministic, loss_mode, propagation, members, generator: as for
                `rollout`.
            max_rows: rows that the networks of each member read at a time; fewer take less memory.
        """
        check_propagation(propagation)
        check_rollout(self, initial_state, context, actions)
        if max_rows is not None and max_rows < 1:
            raise ValueError(f"max_rows: got {max_rows}, expected at least 1")
        n_particles = 1 if particles_coincide(propagation, deterministic) else self.n_particles_per_model
        return self._roll(
            initial_state,
            context,
            lambda _, t: actions[:, t].repeat(1, n_particles, 1),
            horizon=actions.shape[1],
            n_particles=n_particles,
            deterministic=deterministic,
            loss_mode=loss_mode,
            propagation=propagation,
            members=members,
            max_rows=max_rows,
            trust=None,
            generator=generator,
        )

    def rollout_closed_loop(
        self,
        initial_state: Float[Tensor, "B S"],
        context: Num[Tensor, "B C"] | None,
        action_function: ActionFunction,
        horizon: int,
        *,
        members: Int[Tensor, " members"] | None = None,
        trust: Trust | None = None,
        generator: torch.Generator | None = None,
    ) -> Rollout:
        """Let every particle be acted on where it is. Particles stay with their members (TS∞).

        Args:
            initial_state, context: one row per start.
            action_function: from states `(E, P·B, S)`, particle by particle, and the time step to actions
                `(E, P·B, A)`. They are not checked.
            horizon: number of steps.
            members, generator: as for `rollout`.
            trust: a particle whose step it doesn't trust stays where it is from then on. Moments and ends are still
                those of the steps that it would have made. None: all go on.
        """
        if horizon < 1:
            raise ValueError(f"horizon: got {horizon}, expected at least 1")
        check_rows("initial_state", initial_state, self.state_space, device=self.device)
        check_rows("context", context, self.context_space, leading=(len(initial_state),), device=self.device)
        steps = self._roll(
            initial_state,
            context,
            action_function,
            horizon=horizon,
            n_particles=self.n_particles_per_model,
            deterministic=False,
            loss_mode=False,
            propagation="ts_inf",
            members=members,
            max_rows=None,
            trust=trust,
            generator=generator,
        )
        return record(steps, self.n_particles_per_model)

    def get_log_prob(
        self,
        state: Float[Tensor, "*batch S"],
        context: Num[Tensor, "*batch C"] | None,
        action: Num[Tensor, "*batch A"],
        next_state: Float[Tensor, "*batch S"],
        std: float | Tensor | None = None,
        loss_mode: bool = False,
        transform: Transform | None = None,
        *,
        members: Int[Tensor, " members"] | None = None,
    ) -> LogProb:
        """Log density of `next_state` under the uniform mixture of the members' mixtures.

        Finite however far `next_state` lies from what is expected.

        Args:
            state, context, action, next_state: rows of the spaces, with the same leading dims.
            std: overrides the predicted standard deviation; noise is normal then.
            loss_mode: leave the symmetry-breaking start out.
            transform: maps next states `(…, S)` to what the density is taken of; needs a given `std`.
            members: indices of the members to ask; None means all.

        Returns:
            The log density and the probability of termination, both `(…,)`, and an info dict with the members'
            mean next states, `means (…, E, S)`.
        """
        if transform is not None and std is None:
            raise ValueError(
                "transform: got one without std, but the predicted std is that of untransformed states"
            )
        (mean, weights, member_std, term_prob), shape = self._ask(
            state, context, action, loss_mode=loss_mode, members=members
        )
        check_rows("next_state", next_state, self.state_space, leading=state.shape[:-1], device=self.device)
        means = mixture_moments(mean, member_std, weights)[0]
        if transform is not None:
            mean, next_state = transform(mean), transform(next_state)
        if std is not None:
            member_std, shape = broadcast_std(std, mean), None
        log_probs = mixture_log_prob(
            rearrange(next_state, "... s -> ... 1 s"), mean, member_std, log_weights(weights), shape
        )
        log_prob = torch.logsumexp(log_probs, dim=-1) - math.log(log_probs.shape[-1])
        return log_prob, term_prob, {"means": means}

    def get_member_log_prob(
        self,
        id: int,
        state: Float[Tensor, "*batch S"],
        context: Num[Tensor, "*batch C"] | None,
        action: Num[Tensor, "*batch A"],
        next_state: Float[Tensor, "*batch S"],
        std: float | Tensor | None = None,
        loss_mode: bool = False,
        transform: Transform | None = None,
    ) -> LogProb:
        """The same as `get_log_prob`, for member `id` alone; `info["means"]` is `(…, 1, S)`."""
        if not 0 <= id < self.n_models:
            raise ValueError(f"id: got {id}, expected a member in 0 … {self.n_models - 1}")
        members = torch.tensor([id], device=self.device)
        return self.get_log_prob(state, context, action, next_state, std, loss_mode, transform, members=members)

    # Inside -------------------------------------------------------------------------------------------------

    def _ask(
        self,
        state: Float[Tensor, "*batch S"],
        context: Num[Tensor, "*batch C"] | None,
        action: Num[Tensor, "*batch A"],
        *,
        loss_mode: bool = False,
        members: Int[Tensor, " members"] | None = None,
    ) -> tuple[Prediction, NoiseShape | None]:
        """What each member expects, and the shape of its noise; None means normal."""
        leading = check_query(self, state, context, action)
        n_members = self.n_models if members is None else len(members)
        contexts = None if context is None else context.reshape(-1, context.shape[-1])
        rows = state.reshape(-1, state.shape[-1]).expand(n_members, -1, -1)
        step = self._step_function(contexts, members, loss_mode)
        members_say = step(rows, action.reshape(1, -1, action.shape[-1]))
        of_members = members_say.next_mean, members_say.weights, members_say.next_std
        by_row = [*(x.transpose(0, 1) for x in of_members), members_say.term_prob.mean(dim=0)]
        if len(leading) != 1:
            by_row = [x.reshape((*leading, *x.shape[1:])) for x in by_row]
        return Prediction(*by_row), members_say.shape

    def _roll(
        self,
        initial_state: Float[Tensor, "B S"],
        context: Num[Tensor, "B C"] | None,
        action_function: ActionFunction,
        *,
        horizon: int,
        n_particles: int,
        deterministic: bool,
        loss_mode: bool,
        propagation: Propagation,
        members: Int[Tensor, " members"] | None,
        max_rows: int | None,
        trust: Trust | None,
        generator: torch.Generator | None,
    ) -> Iterator[ModelStep]:
        return propagate(
            self._step_function(context, members, loss_mode, max_rows),
            action_function,
            initial_state,
            horizon=horizon,
            propagation=propagation,
            n_members=self.n_models if members is None else len(members),
            n_particles=n_particles,
            deterministic=deterministic,
            trust=trust,
            generator=generator,
        )


def _take_member(value: Tensor, member: Int[Tensor, "*batch"]) -> Tensor:
    """`(…, E, *rest)` to `(…, *rest)`: the chosen member's values."""
    axis = member.ndim
    index = member.reshape(*member.shape, *[1] * (value.ndim - axis))
    return value.take_along_dim(index, dim=axis).squeeze(axis)
