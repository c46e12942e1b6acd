"""What a plan is worth according to a learned model. The only file that knows both planners and models."""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Literal, get_args

import torch
from einops import rearrange, repeat
from jaxtyping import Float, Int, Num
from torch import Tensor

from layeredrl.models.model import Model
from layeredrl.models.propagation import check_propagation
from layeredrl.models.reward_model import RewardModel
from layeredrl.nets.captured import Captured, can_be_captured, state_of
from layeredrl.planners import risk as risks
from layeredrl.planners.candidates import Objective
from layeredrl.planners.checks import check_choice, check_count
from layeredrl.planners.terms import Particles, Term
from layeredrl.types import ModelStep, Propagation, TransitionFunction, ValueFunction

# State, context, action and next state of all particles.
Transition = tuple[Tensor, Tensor | None, Tensor, Tensor]
# How an episode ends that ends with some probability, see `ModelObjective`.
Ending = Literal["soft", "hard"]


class ModelObjective:
    """Discounted return of a plan in a model's rollout, over all its particles.

    Returns are summed up while the particles move, so that memory doesn't grow with the horizon.

    On a GPU, the valuing of plans without gradients in a model made with `compile=True` is captured as one CUDA
    graph, which is replayed for plans of the same shapes. Functions that are given here are then called for the
    capture alone: what they read besides their arguments has to be tensors on the GPU, which may be changed in
    place. What is an attribute of theirs, or enclosed by them, may be exchanged too, but nothing that they find
    deeper inside or by a global name. With a function that waits for the GPU, as `.item()` does, plans are valued
    without a graph, after a warning.

    Args:
        model: what foretells the states.
        reward: of a transition; known, or a `RewardModel`, of which each member judges the particles of one member
            of the model.
        termination: whether a transition ends the episode, or with which probability. None: with the model's
            probability of termination.
        discount: per step.
        propagation: how particles move through members, see `layeredrl.models.propagation`.
        use_elites: roll only the members that explain held-out data best.
        ending: what a probability p of termination does: `soft`, later rewards count by 1 − p; `hard`, they don't
            count if p exceeds one half.
        risk: from the particles' returns to a plan's value, see `layeredrl.planners.risk`.
        terms: what else counts, such as costs of actions and penalties for uncertainty, see
            `layeredrl.planners.terms`.
        terminal_value: what the last state is worth, where the episode goes on.
        max_rows: rows of each member that networks, rewards, ends and values are asked about at a time; fewer take
            less memory.
    """

    def __init__(
        self,
        model: Model,
        reward: TransitionFunction | RewardModel,
        termination: TransitionFunction | None = None,
        *,
        discount: float = 1.0,
        propagation: Propagation = "ts_inf",
        use_elites: bool = True,
        ending: Ending = "soft",
        risk: risks.Risk = risks.mean,
        terms: Sequence[Term] = (),
        terminal_value: ValueFunction | None = None,
        max_rows: int | None = None,
    ):
        if not 0 < discount <= 1:
            raise ValueError(f"discount: got {discount}, expected a number in (0, 1]")
        check_propagation(propagation)
        check_choice("ending", ending, get_args(Ending))
        if max_rows is not None:
            check_count("max_rows", max_rows)
        self.model = model
        self.reward, self.termination, self.terminal_value = reward, termination, terminal_value
        self.discount, self.propagation, self.use_elites = discount, propagation, use_elites
        self.ending, self.risk, self.terms, self.max_rows = ending, risk, tuple(terms), max_rows
        self._captured = Captured()

    def __call__(
        self,
        state: Float[Tensor, "V S"],
        context: Num[Tensor, "V C"] | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> Objective:
        """The objective of plans that start in the given states."""
        members = self._members()
        prepare = partial(self._prepare, members, generator)

        def objective(plans: Num[Tensor, "V N H A"]) -> Float[Tensor, "V N"]:
            n_plans = plans.shape[1]
            states = repeat(state, "v s -> (v n) s", n=n_plans)
            contexts = None if context is None else repeat(context, "v c -> (v n) c", n=n_plans)
            inputs = (states, contexts, rearrange(plans, "v n h a -> (v n) h a"))
            decided_by = self._capture_state(members)
            if decided_by is None:
                values = prepare(*inputs)()
            else:
                values = self._captured(prepare, inputs, decided_by=decided_by, generator=generator)
            return rearrange(values, "(v n) -> v n", n=n_plans)

        return objective

    def _prepare(
        self,
        members: Int[Tensor, " members"] | None,
        generator: torch.Generator | None,
        state: Float[Tensor, "B S"],
        context: Num[Tensor, "B C"] | None,
        actions: Num[Tensor, "B H A"],
    ) -> Callable[[], Float[Tensor, " B"]]:
        """Check plans; what values them then, and may be captured."""
        steps = self.model.unroll(
            state,
            context,
            actions,
            propagation=self.propagation,
            members=members,
            max_rows=self.max_rows,
            generator=generator,
        )
        reward = self._reward_function(members, context, actions)

        def value() -> Float[Tensor, " B"]:
            returns = self._returns(steps, context, actions, reward)
            # A measure of risk may leave out what is broken; such a plan isn't trusted all the same.
            broken = ~returns.isfinite().all(dim=1).all(dim=0)
            return torch.where(broken, torch.nan, self.risk(returns))

        return value

    def _returns(
        self,
        steps: Iterable[ModelStep],
        context: Num[Tensor, "B C"] | None,
        actions: Num[Tensor, "B H A"],
        reward_function: TransitionFunction,
    ) -> Particles:
        """Discounted sum of each particle's rewards, each weighted by the probability to be alive."""
        total, alive = torch.zeros((), device=actions.device), torch.ones((), device=actions.device)
        discount = 1.0
        for action, step in zip(actions.unbind(dim=1), steps, strict=True):
            transition = (step.state, context, action, step.next_state)
            reward = self._ask("reward", reward_function, transition)
            ended = step.term_prob
            if self.termination is not None:
                ended = self._ask("termination", self.termination, transition)
            if self.ending == "hard":
                ended = ended.round()  # one half goes to zero, and NaN stays
            for term in self.terms:
                reward, ended = term(step, action, reward, ended)
            total = total + _if_alive(alive, discount * reward)
            alive = _if_alive(alive, 1 - ended)
            discount *= self.discount
        if self.terminal_value is not None:
            total = total + _if_alive(alive, discount * self._value(step.next_state, context))
        return total

    def _ask(self, name: str, function: TransitionFunction, transition: Transition) -> Particles:
        """What a user's function says of all particles, `max_rows` of each member at a time."""
        state, context, action, next_state = transition
        n_particles, n_plans = state.shape[1:3]
        size = n_plans if self.max_rows is None else max(1, self.max_rows // n_particles)
        if size >= n_plans:
            # A copy, as parts joined are: terms may write to it.
            return _per_particle(name, function(*transition), state).clone(memory_format=torch.contiguous_format)
        parts = zip(
            state.split(size, dim=2),
            _split(context, size, n_plans),
            action.split(size),
            next_state.split(size, dim=2),
            strict=True,
        )
        return torch.cat([_per_particle(name, function(*part), part[0]) for part in parts], dim=2)

    def _value(self, state: Float[Tensor, "E P B S"], context: Num[Tensor, "B C"] | None) -> Particles:
        """What the last states of all particles are worth, `max_rows` of each member at a time."""
        assert self.terminal_value is not None
        n_members, n_particles = state.shape[:2]
        rows = rearrange(state, "e p b s -> (e p b) s")
        contexts = None if context is None else repeat(context, "b c -> (e p b) c", e=n_members, p=n_particles)
        size = len(rows) if self.max_rows is None else n_members * self.max_rows
        parts = zip(rows.split(size), _split(contexts, size, len(rows)), strict=True)
        values = [_per_state(self.terminal_value(*part), part[0]) for part in parts]
        return torch.cat(values).reshape(state.shape[:-1])

    def _reward_function(
        self,
        members: Int[Tensor, " members"] | None,
        context: Num[Tensor, "B C"] | None,
        actions: Num[Tensor, "B H A"],
    ) -> TransitionFunction:
        if not isinstance(self.reward, RewardModel):
            return self.reward
        self.reward.check_rows(context, actions)
        everyone = torch.arange(self.model.n_models, device=self.model.device)
        return self.reward.paired_once(everyone if members is None else members)

    def _capture_state(self, members: Int[Tensor, " members"] | None) -> tuple[object, ...] | None:
        """What decides the kernels that value plans, besides these; None, if they mustn't be captured."""
        model = self.model.capture_state() if can_be_captured(self.model.device) else None
        if model is None:
            return None
        reward = (
            self.reward.capture_state() if isinstance(self.reward, RewardModel) else tuple(state_of(self.reward))
        )
        others = (self.termination, self.terminal_value, self.risk, *self.terms)
        chosen = None if members is None else tuple(members.tolist())
        return (*vars(self).values(), chosen, *model, *reward, *(x for other in others for x in state_of(other)))

    def _members(self) -> Int[Tensor, " members"] | None:
        elites = self.model.elites
        return elites if self.use_elites and len(elites) < self.model.n_models else None


def _if_alive(alive: Tensor, value: Tensor) -> Tensor:
    """Values times the probability to be alive. After a certain end they don't count, even infinite ones or NaN."""
    return alive * torch.where(alive == 0, 0.0, value)


def _split(rows: Tensor | None, size: int, n_rows: int) -> Sequence[Tensor | None]:
    """Rows in parts of a size; as many times None, where there are none."""
    return [None] * math.ceil(n_rows / size) if rows is None else rows.split(size)


def _per_particle(name: str, value: object, state: Float[Tensor, "E P B S"]) -> Tensor:
    """What a user's function returned, checked to be one value for each particle."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: got a {type(value).__name__}, expected a Tensor of one value per transition")
    shape = state.shape[:-1]
    fits = value.ndim <= len(shape) and all(
        n in (1, m) for n, m in zip(value.shape[::-1], shape[::-1], strict=False)
    )
    if not fits:
        raise ValueError(
            f"{name}: got values of shape {tuple(value.shape)}, expected what broadcasts to {tuple(shape)}: "
            "one value per transition"
        )
    return value.expand(shape).to(state.dtype)


def _per_state(value: object, state: Float[Tensor, "R S"]) -> Tensor:
    """What a value function returned, checked to be one value for each state."""
    if not isinstance(value, Tensor):
        raise TypeError(f"terminal_value: got a {type(value).__name__}, expected a Tensor of one value per state")
    if value.shape != state.shape[:1]:
        raise ValueError(f"terminal_value: got shape {tuple(value.shape)}, expected ({len(state)},), one per state")
    return value
