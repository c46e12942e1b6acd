"""How particles move through members, and the one time loop.

The schemes are those of Chua et al. 2018, section 5:

* `ts_inf` (TS∞): a particle stays with its member, so that what members disagree on adds up over time.
* `ts1` (TS1): a particle meets a member anew at every step, drawn without replacement among the E particles that
  share their noise, so that each member moves equally many.
* `moment_matching` (MM): all particles are drawn anew from a Gaussian with the mixture's mean and variance.
* `expectation` (E): there is one path, that of the mean over all members.

Members share the noise of their p-th particles (common random numbers; MM apart, which mixes them anyway). Every
particle alone follows the same law as with noise of its own, but differences between members are due to their
opinions, not to luck.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import cache, partial
from typing import NamedTuple

import torch
from einops import rearrange, reduce, repeat
from jaxtyping import Float, Int, Num
from torch import Tensor

from layeredrl.models.mixture import mixture_moments, mixture_sample
from layeredrl.models.noise_shape import NoiseShape
from layeredrl.types import ModelStep, Propagation, Rollout, Trust


class MemberPrediction(NamedTuple):
    """One step of each member from its own R rows: a mixture over its targets, and where these lead.

    Targets are what the networks speak of. The next state is `origin + scale · target`: what holds for all modes is
    applied to what is drawn from them, not to each. Noise around the modes has the given shape; None means normal.
    """

    mean: Float[Tensor, "E R M S"]
    std: Float[Tensor, "E R M S"]
    weights: Float[Tensor, "E R M"]
    term_prob: Float[Tensor, "E R"]
    origin: Float[Tensor, "*#rows S"]
    scale: Float[Tensor, "*#rows S"]
    shape: NoiseShape | None = None

    @property
    def next_mean(self) -> Float[Tensor, "E R M S"]:
        """Of each mode, as a next state."""
        return torch.addcmul(self.origin.unsqueeze(-2), self.mean, self.scale)

    @property
    def next_std(self) -> Float[Tensor, "E R M S"]:
        return self.std * self.scale


class Noise(NamedTuple):
    """All randomness of one step. `order` says which particle each member moves (TS1)."""

    normal: Float[Tensor, "#E P B S"]
    mode: Float[Tensor, "#E P B"]
    order: Int[Tensor, "E P B"] | None


# Of each member; actions may be the same for all. Named, as closures would make the annotations anew each time.
StateRows = Float[Tensor, "E R S"]
ActionRows = Num[Tensor, "#E R A"]
StepFunction = Callable[[StateRows, ActionRows], MemberPrediction]
# (rows of states, time step) -> rows of actions
ActionFunction = Callable[[StateRows, int], ActionRows]
# Mean and variance of the step of each particle.
Moments = tuple[Float[Tensor, "E P B S"], Float[Tensor, "E P B S"]]


def _match_moments(moments: Moments, normal: Float[Tensor, "#E P B S"]) -> Float[Tensor, "E P B S"]:
    """Particles drawn from the Gaussian that has the moments of all of them.

    The spread of the means within members is estimated from P particles, and 1 / P of it shows between members too.
    """
    step_mean, step_var = moments
    n_members, n_particles = step_mean.shape[:2]
    mean = reduce(step_mean, "e p b s -> b s", "mean")
    between = reduce(step_mean, "e p b s -> e b s", "mean").var(dim=0, correction=0)
    var = reduce(step_var, "e p b s -> b s", "mean") + between
    if n_particles > 1:
        within = step_mean.var(dim=1, correction=1).mean(dim=0)
        var = var + within * (1 - (1 - 1 / n_members) / n_particles)
    return (mean + var.sqrt() * normal).expand_as(step_mean)


def _average(moments: Moments, normal: Float[Tensor, "#E P B S"]) -> Float[Tensor, "E P B S"]:
    return reduce(moments[0], "e p b s -> 1 p b s", "mean").expand_as(moments[0])


# What makes one law of all particles' laws, and draws from that; none where each particle follows its own.
MERGE: dict[Propagation, Callable[[Moments, Float[Tensor, "#E P B S"]], Float[Tensor, "E P B S"]] | None] = {
    "ts_inf": None,
    "ts1": None,
    "moment_matching": _match_moments,
    "expectation": _average,
}


def check_propagation(propagation: str) -> None:
    if propagation not in MERGE:
        raise ValueError(f"propagation: got {propagation!r}, expected one of {', '.join(MERGE)}")


def particles_coincide(propagation: Propagation, deterministic: bool) -> bool:
    """Whether all particles of a member take the same path, so that one stands for all."""
    return propagation == "expectation" or (deterministic and propagation != "ts1")


def propagate(
    step_function: StepFunction,
    action_function: ActionFunction,
    initial_state: Float[Tensor, "B S"],
    *,
    horizon: int,
    propagation: Propagation,
    n_members: int,
    n_particles: int,
    deterministic: bool,
    trust: Trust | None,
    generator: torch.Generator | None,
) -> Iterator[ModelStep]:
    """Roll particles from the initial states through the members, one step at a time.

    Args:
        step_function: makes one step of each member.
        action_function: what is done where the particles are.
        initial_state: where all particles of a batch row start.
        horizon: number of steps.
        propagation: a key of `MERGE`.
        n_members, n_particles: E and P; P is 1 where particles coincide.
        deterministic: whether each member follows the mean of its mixture.
        trust: a particle whose step it doesn't trust doesn't move, then or later. None: all go on.
        generator: source of the noise.
    """
    merge = MERGE[propagation]
    # Laid out as all later states are: code compiled for the one serves the others.
    rows = repeat(initial_state, "b s -> e (p b) s", e=n_members, p=n_particles).contiguous()
    state = rows.unflatten(1, (n_particles, -1))
    goes_on = torch.ones_like(state[..., 0], dtype=torch.bool)
    for t in range(horizon):
        noise = _draw_noise(propagation, state, deterministic, generator)
        rows = _deal(state, noise.order).flatten(1, 2)
        actions = action_function(rows, t)
        prediction = step_function(rows, actions)
        get_moments = cache(partial(_moments, prediction, n_particles, deterministic))
        if merge is not None:
            next_state = merge(get_moments(), noise.normal)
        elif deterministic:
            next_state = _collect(get_moments()[0], noise.order)
        else:
            next_state = _collect(_draw(prediction, noise), noise.order)
        term_prob = prediction.term_prob.unflatten(1, (n_particles, -1))
        get_epistemic_var = partial(
            _epistemic_var,
            step_function,
            rows,
            actions,
            prediction,
            noise.order,
            n_particles,
            together=propagation == "expectation",
        )
        step = ModelStep(state, next_state, _collect(term_prob, noise.order), get_moments, get_epistemic_var)
        if trust is not None:
            goes_on = goes_on & trust(step)
            stays = rearrange(~goes_on, "e p b -> e p b 1")
            step = replace(step, next_state=torch.where(stays, state, next_state))
        yield step
        state = step.next_state


def record(steps: Iterable[ModelStep], n_particles: int) -> Rollout:
    """All steps as one record, with P = `n_particles` even where particles coincide."""
    states, term_probs, getters = [], [], []
    for step in steps:
        states.append(step.state)
        term_probs.append(step.term_prob)
        getters.append(step.get_moments)
    states.append(step.next_state)

    def get_moments() -> tuple[Tensor, Tensor]:
        means, variances = (list(moments) for moments in zip(*(get() for get in getters), strict=True))
        return rearrange(means, "t e p b s -> b e p t s"), rearrange(variances, "t e p b s -> b e p t s")

    return Rollout(
        state=_expand(rearrange(states, "t e p b s -> b e p t s"), n_particles),
        term_prob=_expand(rearrange(term_probs, "t e p b -> b e p t"), n_particles),
        get_moments=get_moments,
    )


def _draw_noise(
    propagation: Propagation,
    state: Float[Tensor, "E P B S"],
    deterministic: bool,
    generator: torch.Generator | None,
) -> Noise:
    """The noise of one step; zeros that take no memory where none is needed."""
    shape = (state.shape[0] if propagation == "moment_matching" else 1, *state.shape[1:])
    order = None
    if propagation == "ts1":
        order = torch.rand(state.shape[:3], generator=generator, device=state.device).argsort(dim=0)
    if deterministic or propagation == "expectation":
        zeros = state.new_zeros(()).expand(shape)
        return Noise(zeros, zeros[..., 0], order)
    normal = torch.randn(shape, generator=generator, device=state.device, dtype=state.dtype)
    return Noise(normal, torch.rand(shape[:-1], generator=generator, device=state.device), order)


def _draw(prediction: MemberPrediction, noise: Noise) -> Float[Tensor, "E P B S"]:
    """Draw each particle from its member's mixture."""
    normal, uniform = noise.normal.flatten(1, 2), noise.mode.flatten(1, 2)
    shaped = normal if prediction.shape is None else prediction.shape.bend(normal)
    target = mixture_sample(prediction.mean, prediction.std, prediction.weights, shaped, uniform)
    next_state = torch.addcmul(prediction.origin, target, prediction.scale)
    return next_state.unflatten(1, noise.normal.shape[1:3])


def _moments(prediction: MemberPrediction, n_particles: int, deterministic: bool) -> Moments:
    """Of the law that each particle is drawn from; no variance where it follows the mean."""
    mean, var = mixture_moments(prediction.mean, prediction.std, prediction.weights)
    mean = torch.addcmul(prediction.origin, mean, prediction.scale)
    var = torch.zeros_like(var) if deterministic else var * prediction.scale.square()
    return mean.unflatten(1, (n_particles, -1)), var.unflatten(1, (n_particles, -1))


@torch.no_grad()
def _epistemic_var(
    step_function: StepFunction,
    rows: Float[Tensor, "E R S"],
    actions: Num[Tensor, "#E R A"],
    prediction: MemberPrediction,
    order: Int[Tensor, "E P B"] | None,
    n_particles: int,
    together: bool,
) -> Float[Tensor, "E P B S"]:
    """Population variance of what all members expect where each particle is.

    They look at the rows of their first neighbour, then of their second, …: at as many rows at a time as in a step
    of their own. If they are `together`, they look at the same rows anyway.
    """
    if together:
        var = variance_of_means(prediction).expand_as(rows)
    else:
        opinions = [_mean_target(prediction)]
        for k in range(1, len(rows)):
            others = step_function(
                rows.roll(-k, dims=0), actions if len(actions) == 1 else actions.roll(-k, dims=0)
            )
            opinions.append(_mean_target(others).roll(k, dims=0))
        var = _variance(torch.stack(opinions), prediction.scale)
    return _collect(var.unflatten(1, (n_particles, -1)), order)


def variance_of_means(prediction: MemberPrediction) -> Float[Tensor, "R S"]:
    """Population variance of the members' mean next states, where all members look at the same rows."""
    return _variance(_mean_target(prediction), prediction.scale)


def _variance(targets: Float[Tensor, "E *rows S"], scale: Float[Tensor, "*#rows S"]) -> Float[Tensor, "*rows S"]:
    """Over members that stand at the same origin, which would round differences away."""
    return targets.var(dim=0, correction=0) * scale.square()


def _mean_target(prediction: MemberPrediction) -> Float[Tensor, "E R S"]:
    return mixture_moments(prediction.mean, prediction.std, prediction.weights)[0]


def _deal(state: Float[Tensor, "E P B S"], order: Int[Tensor, "E P B"] | None) -> Float[Tensor, "E P B S"]:
    """Particles in the order of the members that move them next."""
    if order is None:
        return state
    return state.gather(0, repeat(order, "e p b -> e p b s", s=state.shape[-1]))


def _collect(value: Float[Tensor, "E P B *S"], order: Int[Tensor, "E P B"] | None) -> Float[Tensor, "E P B *S"]:
    """Values in the order of members, back in the order of particles."""
    if order is None:
        return value
    back = order.argsort(dim=0)
    return value.gather(0, back.reshape(*back.shape, *[1] * (value.ndim - 3)).expand_as(value))


def _expand(value: Float[Tensor, "B E #P *rest"], n_particles: int) -> Float[Tensor, "B E {n_particles} *rest"]:
    return value.expand(-1, -1, n_particles, *[-1] * (value.ndim - 3))
