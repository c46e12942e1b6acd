"""The vectorised ensemble of probabilistic dynamics networks."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from einops import rearrange, repeat
from gymnasium.spaces import Space
from jaxtyping import Float, Int, Num
from torch import Tensor

from layeredrl.models.ensemble import Ensemble, check_transition_spaces
from layeredrl.models.losses import MemberScores, for_everyone, member_losses, member_scores, share_out
from layeredrl.models.members import Members, PartialNet, log_weights
from layeredrl.models.mixture import mixture_log_prob, mixture_moments, mixture_sample
from layeredrl.models.model import LogProb, Model
from layeredrl.models.propagation import (
    ActionFunction,
    MemberPrediction,
    StepFunction,
    check_propagation,
    particles_coincide,
    propagate,
    record,
)
from layeredrl.models.symmetry_breaking import RandomDynamics, blend
from layeredrl.spaces import check_rows, feature_size, features
from layeredrl.types import Batch, ModelStep, Prediction, Propagation, Rollout

Transform = Callable[[Tensor], Tensor]


class ProbabilisticEnsemble(Ensemble, Model):
    """E probabilistic networks, run as one, and the uniform mixture that they are together.

    Args:
        state_space, context_space, action_space: states fill a Box; `context_space=None` means no context.
        partial_net: `partial_net(state_space, context_space, action_space, n_modes)` returns one freshly
            initialised member, a module with `forward(state, context, action) -> ((mean, std), weights,
            term_prob)` of shapes `(…, M, S)`, `(…, M)`, `(…,)`. It reads standardised features: Discrete values
            come one-hot.
        n_models: members E.
        n_modes: Gaussians M in the mixture of each member.
        n_particles_per_model: particles P per member in a rollout.
        learning_rate: of the optimizer that `learn` uses.
        create_optimizer: whether there is one. `EnsembleTrainer` brings its own.
        device: where parameters and inputs lie.
        predict_delta: the networks speak of `next_state - state` rather than of `next_state`.
        normalize_targets: they speak in units of the running standard deviation of that target.
        target_bn_momentum: how fast the running statistics of targets and inputs follow new batches in `learn`.
        weighted_loss: multiply each transition's loss by `batch.weight`, which is ignored otherwise.
        symmetry_breaking_start: answer queries by a fixed random linear map at first, see `RandomDynamics`.
        sb_start_duration: environment steps until the learned model answers alone; it fades in from half of them.
        sb_start_factor: length of the random movements for an action of length 1.
        partition_batch: member `e` trains on every E-th transition of a batch, from the e-th on.
        normalize_inputs: the networks read standardised states, contexts and actions. The statistics come from
            training data alone.
        hidden_states: indices of state coordinates that the networks don't read, such as a position that the
            dynamics don't depend on. They are foretold all the same.
        compile: let `torch.compile` make one graph of what the networks do in a step. Takes seconds at the first
            query, and again at the first one of another number of rows; pays where networks are small or on GPUs.
            Many rows on a CPU are faster without and go without. Where no compiler works, one warning says so.
        matmul_dtype: in which networks multiply where no gradient is asked for and rows are many. `torch.bfloat16`
            takes half the time where the processor has units for it, and costs three digits: means are off by about
            0.4 % of what varies. Training and densities under gradients stay in single precision. For TF32 on GPUs,
            set `torch.set_float32_matmul_precision("high")`.
    """

    def __init__(
        self,
        state_space: Space[Any],
        context_space: Space[Any] | None,
        action_space: Space[Any],
        partial_net: PartialNet,
        n_models: int = 1,
        n_modes: int = 1,
        n_particles_per_model: int = 1,
        learning_rate: float = 1e-3,
        create_optimizer: bool = False,
        device: torch.device | str = torch.device("cpu"),
        predict_delta: bool = True,
        normalize_targets: bool = True,
        target_bn_momentum: float = 0.01,
        weighted_loss: bool = False,
        symmetry_breaking_start: bool = False,
        sb_start_duration: int = 100_000,
        sb_start_factor: float = 1.5,
        partition_batch: bool = False,
        *,
        normalize_inputs: bool = True,
        hidden_states: Sequence[int] = (),
        compile: bool = False,
        matmul_dtype: torch.dtype = torch.float32,
    ):
        super().__init__(n_models, n_particles_per_model, device)
        check_transition_spaces(state_space, context_space, action_space)
        _check_settings(n_modes, target_bn_momentum, sb_start_duration)
        self.state_space, self.context_space, self.action_space = state_space, context_space, action_space
        self.n_modes = n_modes
        self.weighted_loss = weighted_loss
        self.partition_batch = partition_batch
        self.members = Members(
            state_space,
            context_space,
            action_space,
            partial_net,
            n_models,
            n_modes,
            predict_delta=predict_delta,
            normalize_targets=normalize_targets,
            normalize_inputs=normalize_inputs,
            hidden_states=hidden_states,
            momentum=target_bn_momentum,
            compile=compile,
            matmul_dtype=matmul_dtype,
        )
        self.random_dynamics: RandomDynamics | None = None
        if symmetry_breaking_start:
            sizes = feature_size(state_space), feature_size(action_space)
            self.random_dynamics = RandomDynamics(*sizes, factor=sb_start_factor, duration=sb_start_duration)
        self.register_buffer("is_elite", torch.ones(n_models, dtype=torch.bool))
        self.to(device)
        if create_optimizer:
            self.optimizer = torch.optim.Adam(self.get_parameters(), lr=learning_rate)
        self.eval()

    def get_parameters(self) -> Iterator[Tensor]:
        return self.members.parameters()

    def get_member_tensors(self) -> dict[str, Tensor]:
        return dict(self.members.nets.state_dict())

    # Queries ------------------------------------------------------------------------------------------------

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

        Args:
            state, context, action: rows of the spaces, with the same leading dims.
            std: overrides the predicted standard deviation; a number or what broadcasts to `(…, E, M, S)`.
            loss_mode: leave the symmetry-breaking start out.
            members: indices of the members to ask; None means all.

        Raises:
            TypeError, ValueError: an argument has the wrong type, shape or device, is not finite, or an action
                lies outside its space.
        """
        leading = self._check_query(state, context, action)
        n_members = self.n_models if members is None else len(members)
        contexts = None if context is None else context.reshape(-1, context.shape[-1])
        rows = state.reshape(-1, state.shape[-1]).expand(n_members, -1, -1)
        step = self._step_function(contexts, members, loss_mode)
        members_say = step(rows, action.reshape(1, -1, action.shape[-1]))
        mean, member_std, weights = (
            x.transpose(0, 1).unflatten(0, leading)
            for x in (members_say.next_mean, members_say.next_std, members_say.weights)
        )
        if std is not None:
            member_std = _broadcast_std(std, mean)
        return Prediction(mean, weights, member_std, members_say.term_prob.mean(dim=0).unflatten(0, leading))

    def sample(
        self,
        state: Float[Tensor, "*batch S"],
        context: Num[Tensor, "*batch C"] | None,
        action: Num[Tensor, "*batch A"],
        *,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "*batch S"]:
        """Draw next states from the mixture of all members: the member, then the mode, then the Gaussian."""
        mean, weights, std, _ = self.predict(state, context, action)
        leading, device = state.shape[:-1], self.device
        member = torch.randint(self.n_models, leading, generator=generator, device=device)
        mode = torch.rand(leading, generator=generator, device=device)
        normal = torch.randn(state.shape, generator=generator, device=device)
        mean, weights, std = (_take_member(x, member) for x in (mean, weights, std))
        return mixture_sample(mean, std, weights, normal, mode)

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
        self._check_rollout(initial_state, context, actions)
        if max_rows is not None and max_rows < 1:
            raise ValueError(f"max_rows: got {max_rows}, expected at least 1")
        n_particles = 1 if particles_coincide(propagation, deterministic) else self.n_particles_per_model
        return self._roll(
            initial_state,
            context,
            lambda _, t: repeat(actions[:, t], "b a -> 1 (p b) a", p=n_particles),
            horizon=actions.shape[1],
            n_particles=n_particles,
            deterministic=deterministic,
            loss_mode=loss_mode,
            propagation=propagation,
            members=members,
            max_rows=max_rows,
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
        generator: torch.Generator | None = None,
    ) -> Rollout:
        """Let every particle be acted on where it is. Particles stay with their members (TS∞).

        Args:
            initial_state, context: one row per start.
            action_function: from states `(E, P·B, S)`, particle by particle, and the time step to actions
                `(E, P·B, A)`. They are not checked.
            horizon: number of steps.
            members, generator: as for `rollout`.
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
            std: overrides the predicted standard deviation.
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
        mean, weights, member_std, term_prob = self.predict(
            state, context, action, loss_mode=loss_mode, members=members
        )
        check_rows("next_state", next_state, self.state_space, leading=state.shape[:-1], device=self.device)
        means = mixture_moments(mean, member_std, weights)[0]
        if transform is not None:
            mean, next_state = transform(mean), transform(next_state)
        if std is not None:
            member_std = _broadcast_std(std, mean)
        log_probs = mixture_log_prob(
            rearrange(next_state, "... s -> ... 1 s"), mean, member_std, log_weights(weights)
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

    # Training -----------------------------------------------------------------------------------------------

    def loss(self, batch: Batch) -> Float[Tensor, ""]:
        """Sum over members of `get_member_losses`, so that each member learns as if it were alone."""
        self.check_batch(batch)
        return self.get_member_losses(batch).sum()

    def get_member_losses(self, batch: Batch) -> Float[Tensor, " E"]:
        """Mean over transitions of −log-likelihood + binary cross-entropy of termination, for each member.

        The likelihood is that of the targets in their own units, so that every dimension counts alike. Weights
        multiply (with `weighted_loss`); transitions masked out count neither above nor below the fraction bar.

        Args:
            batch: transitions `(B, …)` for all members, split among them with `partition_batch`; or `(E, B, …)`,
                a set for each. Its values are not checked.
        """
        shared_out = share_out(batch, self.n_models, partition=self.partition_batch)
        return member_losses(self.members, shared_out, weighted=self.weighted_loss)

    @torch.no_grad()
    def get_member_scores(self, batch: Batch) -> MemberScores:
        """How well each member explains the transitions `(B, …)`, which all count alike."""
        return member_scores(self.members, for_everyone(batch, self.n_models))

    def update_statistics(self, batch: Batch) -> None:
        """Move the running statistics of inputs and targets by a batch of training data."""
        self.members.update_statistics(batch)

    def set_statistics(self, batch: Batch) -> None:
        """Take the statistics of inputs and targets from these transitions alone."""
        self.members.reset_statistics()
        self.members.update_statistics(batch)

    # Inside -------------------------------------------------------------------------------------------------

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
        generator: torch.Generator | None,
    ) -> Iterator[ModelStep]:
        contexts = None if context is None else repeat(context, "b c -> (p b) c", p=n_particles)
        return propagate(
            self._step_function(contexts, members, loss_mode, max_rows),
            action_function,
            initial_state,
            horizon=horizon,
            propagation=propagation,
            n_members=self.n_models if members is None else len(members),
            n_particles=n_particles,
            deterministic=deterministic,
            generator=generator,
        )

    def _step_function(
        self,
        context: Num[Tensor, "R C"] | None,
        members: Int[Tensor, " members"] | None,
        loss_mode: bool,
        max_rows: int | None = None,
    ) -> StepFunction:
        """What makes a step of each member: learned, or faded into the symmetry-breaking start."""
        learned = self.members.step_function(context, members, max_rows)
        if self.random_dynamics is None or loss_mode:
            return learned
        random_dynamics, share = self.random_dynamics, self.random_dynamics.share(int(self.n_total_env_steps))
        if share == 0.0:
            return learned

        def blended(state: Float[Tensor, "E R S"], action: Num[Tensor, "#E R A"]) -> MemberPrediction:
            movement = random_dynamics.movement(features(self.action_space, action))
            return blend(share, state + movement, learned(state, action))

        return blended

    def _check_query(self, state: Tensor, context: Tensor | None, action: Tensor) -> torch.Size:
        """Check the arguments of a query; their leading dims."""
        check_rows("state", state, self.state_space, device=self.device)
        leading = state.shape[:-1]
        check_rows("context", context, self.context_space, leading=leading, device=self.device)
        check_rows("action", action, self.action_space, leading=leading, device=self.device, contained=True)
        return leading

    def _check_rollout(self, initial_state: Tensor, context: Tensor | None, actions: Tensor) -> None:
        check_rows("actions", actions, self.action_space, device=self.device, contained=True)
        if actions.ndim != 3 or actions.shape[1] == 0:
            raise ValueError(f"actions: got shape {tuple(actions.shape)}, expected (B, H, A) with H of at least 1")
        leading = (len(actions),)
        check_rows("initial_state", initial_state, self.state_space, leading=leading, device=self.device)
        check_rows("context", context, self.context_space, leading=leading, device=self.device)


def _check_settings(n_modes: object, target_bn_momentum: float, sb_start_duration: int) -> None:
    if not isinstance(n_modes, int) or n_modes < 1:
        raise ValueError(f"n_modes: got {n_modes!r}, expected an integer of at least 1")
    if not 0 < target_bn_momentum <= 1:
        raise ValueError(f"target_bn_momentum: got {target_bn_momentum}, expected a number in (0, 1]")
    if sb_start_duration <= 0:
        raise ValueError(f"sb_start_duration: got {sb_start_duration}, expected a positive number of steps")


def _broadcast_std(std: float | Tensor, mean: Float[Tensor, "*batch E M S"]) -> Float[Tensor, "*batch E M S"]:
    std = torch.as_tensor(std, dtype=mean.dtype, device=mean.device)
    if not bool((std > 0).all()):
        raise ValueError(f"std: got {std.min().item()}, expected positive numbers")
    try:
        return std.expand_as(mean)
    except RuntimeError:
        raise ValueError(
            f"std: got shape {tuple(std.shape)}, expected what broadcasts to {tuple(mean.shape)}"
        ) from None


def _take_member(value: Tensor, member: Int[Tensor, "*batch"]) -> Tensor:
    """`(…, E, *rest)` to `(…, *rest)`: the chosen member's values."""
    axis = member.ndim
    index = member.reshape(*member.shape, *[1] * (value.ndim - axis))
    return value.take_along_dim(index, dim=axis).squeeze(axis)
