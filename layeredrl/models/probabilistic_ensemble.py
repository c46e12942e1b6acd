"""The vectorised ensemble of probabilistic dynamics networks."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from gymnasium.spaces import Space
from jaxtyping import Float, Int, Num
from torch import Tensor

from layeredrl.models.calibration import MIN_ROWS, Calibration, CalibrationMethod
from layeredrl.models.ensemble import Ensemble, check_transition_spaces
from layeredrl.models.epistemic_limit import EpistemicLimit
from layeredrl.models.examples import Examples
from layeredrl.models.held_out import compare
from layeredrl.models.losses import MemberScores, member_losses, member_scores
from layeredrl.models.member_mixture import MemberMixture
from layeredrl.models.members import Members, PartialNet
from layeredrl.models.noise_shape import NoiseShape
from layeredrl.models.pooling import Consensus, make_consensus
from layeredrl.models.propagation import (
    ActionRows,
    MemberPrediction,
    StateRows,
    StepFunction,
    variance_of_means,
)
from layeredrl.models.symmetry_breaking import RandomDynamics, blend
from layeredrl.nets.captured import state_of
from layeredrl.nets.precision import MatmulPrecision
from layeredrl.spaces import feature_size, features
from layeredrl.types import Batch


class ProbabilisticEnsemble(Ensemble, MemberMixture):
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
        compile: make queries and training faster. On a CPU, fully connected networks with SiLU or ReLU become one
            operation, and so do the likelihood that they learn by (of `ProbFCDynamics` with `n_modes=1`) and a step
            of `EnsembleTrainer`'s optimizer, by kernels that the machine's C++ compiler makes at the first use, in
            half a minute, and whose gradients can't be differentiated again. Of other networks, of those that
            multiply in `bfloat16`, and on GPUs, `torch.compile` makes one graph of what they do in a step, which
            takes seconds at the first query, and again at the first one of another number of rows; many rows on a
            CPU go without. Where no compiler works, one warning says so.
            On a GPU, what a `ModelObjective` asks of it is captured as one CUDA graph as well; see there what that
            demands of rewards.
        matmul_precision: in which networks multiply where no gradient is asked for, and rows are many if on a CPU.
            `bfloat16` takes half the time where the processor has units for it, and costs three digits: means are
            off by about 0.4 % of what varies. `tf32` is for GPUs, whose products then keep 10 bits of each factor
            instead of 7: an eighth of that error; a CPU goes on in single precision. Training and densities under
            gradients always do.
        beta_nll: β of β-NLL (Seitzer et al. 2022), in 0 … 1: in the training loss, each dimension's NLL counts σ^2β
            times, σ being the predicted standard deviation in units of the target. Plain NLL (0) neglects what it
            foretells badly, since a large σ makes the gradient of the mean small; with 1 it is the gradient of the
            squared error; 0.5 is their advice. Needs `n_modes=1`. Held-out scores are plain NLL.
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
        matmul_precision: MatmulPrecision = "float32",
        beta_nll: float = 0.0,
    ):
        super().__init__(n_models, n_particles_per_model, device)
        check_transition_spaces(state_space, context_space, action_space)
        _check_settings(n_modes, target_bn_momentum, sb_start_duration, beta_nll)
        self.state_space, self.context_space, self.action_space = state_space, context_space, action_space
        self.n_modes = n_modes
        self.compiled = compile
        self.weighted_loss = weighted_loss
        self.partition_batch = partition_batch
        self.beta_nll = beta_nll
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
            matmul_precision=matmul_precision,
        )
        self.random_dynamics: RandomDynamics | None = None
        if symmetry_breaking_start:
            sizes = feature_size(state_space), feature_size(action_space)
            self.random_dynamics = RandomDynamics(*sizes, factor=sb_start_factor, duration=sb_start_duration)
        self.calibration = Calibration(feature_size(state_space))
        self.epistemic_limit = EpistemicLimit(feature_size(state_space))
        self.register_buffer("is_elite", torch.ones(n_models, dtype=torch.bool))
        self.to(device)
        if create_optimizer:
            self.optimizer = torch.optim.Adam(self.get_parameters(), lr=learning_rate)
        self.eval()

    def get_parameters(self) -> Iterator[Tensor]:
        return (parameter for parameter in self.members.parameters() if parameter.requires_grad)

    def get_member_tensors(self) -> dict[str, Tensor]:
        return dict(self.members.nets.state_dict())

    def capture_state(self) -> tuple[object, ...] | None:
        """As in `Model`; None without `compile=True`."""
        return (*state_of(self), self.calibration.kind, self._random_share()) if self.compiled else None

    # Training -----------------------------------------------------------------------------------------------

    def loss(self, batch: Batch) -> Float[Tensor, ""]:
        """Sum over members of `get_member_losses`, so that each member learns as if it were alone."""
        self.check_batch(batch)
        return self.get_member_losses(batch).sum()

    def make_examples(self, batch: Batch) -> Examples:
        return self.members.make_examples(batch)

    def get_example_losses(self, examples: Examples) -> Float[Tensor, " E"]:
        """Mean over transitions of −log-likelihood + binary cross-entropy of termination, for each member.

        The likelihood is that of the targets in their own units, so that every dimension counts alike. Weights
        multiply (with `weighted_loss`); examples masked out count neither above nor below the fraction bar. With
        `beta_nll`, the likelihood is that of β-NLL.
        """
        return member_losses(self.members, examples, weighted=self.weighted_loss, beta_nll=self.beta_nll)

    @torch.no_grad()
    def get_example_scores(self, examples: Examples) -> MemberScores:
        return member_scores(self.members, examples)

    def update_statistics(self, batch: Batch) -> None:
        """Move the running statistics of inputs and targets by a batch of training data.

        Ends a recalibration and what was fitted of the `epistemic_limit`.
        """
        self.members.update_statistics(batch)
        self.reset_calibration()

    def set_statistics(self, batch: Batch) -> None:
        """Take the statistics from these transitions alone; otherwise as `update_statistics`."""
        self.members.reset_statistics()
        self.update_statistics(batch)

    # Calibration --------------------------------------------------------------------------------------------

    @torch.no_grad()
    def recalibrate(self, batch: Batch, method: CalibrationMethod = "temperature") -> None:
        """Correct the noise that the members foretell by how far held-out transitions really lay.

        Every query speaks of the corrected noise from then on, except where it is given a `std`. It is corrected
        for each dimension by itself, such that the mixture of the elites is calibrated, whose disagreement is part
        of its spread: they stay as far apart as they are, unless `pooled`. Losses and scores speak of the networks
        as they are.

        Training ends it, as whatever moves the statistics does: a correction of other weights would mislead. While
        the symmetry-breaking start fades, the learned part counts with its corrected mean and spread, as a
        Gaussian.

        Args:
            batch: transitions `(B,)` that the members haven't learned from, such as the trainer's held-out ones.
                All that aren't masked out count alike.
            method: `temperature` multiplies the standard deviations, by one factor a dimension. `isotonic` changes
                the shape too, so that tails may be heavy or skewed, and the mean with it, by a multiple of the
                standard deviation. It wants some 500 transitions or more. `pooled` multiplies the standard
                deviations and draws the elites together: what they have learned alone is the most of their noise
                and of their disagreement where transitions are almost deterministic, so that their mixture is too
                wide. Every query then asks all elites about each particle, which takes 1 + elites times as long.

        Raises:
            TypeError, ValueError: an unknown method, too few transitions for it, or some that don't fit the spaces
                or aren't finite; or the members' predictions of them aren't. Nothing has changed then.
        """
        if method not in MIN_ROWS:
            raise ValueError(f"method: got {method!r}, expected one of {', '.join(MIN_ROWS)}")
        rows = self._unmasked(batch)
        if len(rows) < MIN_ROWS[method]:
            raise ValueError(
                f"batch: got {len(rows)} transitions to fit to, expected at least {MIN_ROWS[method]} for "
                f"method={method!r}"
            )
        prediction = _ask_everyone(self.members.step_function(rows.context, self.elites), rows, len(self.elites))
        held_out = compare(prediction, rows.next_state)
        if not bool(held_out.score.isfinite().all()):
            raise ValueError("batch: got transitions of which the members' predictions aren't finite")
        self.calibration.fit(held_out, method)
        self.epistemic_limit.reset()

    @property
    def noise_shape(self) -> NoiseShape | None:
        fades = self.random_dynamics is not None and self.random_dynamics.share(int(self.n_total_env_steps)) > 0
        return None if fades else self.calibration.noise_shape

    def reset_calibration(self) -> None:
        """Let queries speak of the noise that the networks foretell."""
        self.calibration.reset()
        self.epistemic_limit.reset()

    # Limits -------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def fit_epistemic_limit(self, batch: Batch, share: float = 0.99) -> None:
        """Learn how far the elites disagree on held-out transitions, so that plans and rollouts can stop beyond.

        `epistemic_limit` is what then tells them: as `Halt(model.epistemic_limit, penalty)` among the terms of a
        `ModelObjective`, and as `trust=model.epistemic_limit` of `rollout_policy`. It is kept in the `state_dict`.

        Training ends it, and so does recalibrating: a limit of other weights would mislead.

        Args:
            batch: transitions `(B,)` that the members haven't learned from, of the states where they are to be
                trusted. Only states, contexts and actions count, of what isn't masked out.
            share: of these transitions that is trusted, in (0, 1]. At 1, the largest disagreement is still trusted;
                less is safer against single transitions that nobody could know.

        Raises:
            TypeError, ValueError: fewer than two elites, no transitions, or some that don't fit the spaces or
                aren't finite; or the members' predictions of them aren't. Nothing has changed then.
        """
        if not 0 < share <= 1:
            raise ValueError(f"share: got {share}, expected a number in (0, 1]")
        if len(self.elites) < 2:
            raise ValueError(
                f"elites: got {len(self.elites)} of n_models={self.n_models}, expected at least two: a single "
                "member has nobody to disagree with, so that its ignorance isn't known"
            )
        rows = self._unmasked(batch)
        if len(rows) == 0:
            raise ValueError("batch: got no transitions to fit to, expected at least one")
        step = self._step_function(rows.context, self.elites, loss_mode=False)
        var = variance_of_means(_ask_everyone(step, rows, len(self.elites)))
        if not bool(var.isfinite().all()):
            raise ValueError("batch: got transitions of which the members' predictions aren't finite")
        self.epistemic_limit.fit(var.sqrt(), share, unit=self.members.targets.scale)

    # Inside ------------------------------------------------------------------------------------------------

    def _unmasked(self, batch: Batch) -> Batch:
        """The transitions `(B,)` that count, once all are checked."""
        if len(batch.shape) != 1:
            raise ValueError(f"batch: got leading dims {tuple(batch.shape)}, expected (B,)")
        self.check_batch(batch)
        return batch if batch.mask is None else batch[batch.mask]

    def _step_function(
        self,
        context: Num[Tensor, "B C"] | None,
        members: Int[Tensor, " members"] | None,
        loss_mode: bool,
        max_rows: int | None = None,
    ) -> StepFunction:
        """What makes a step of each member: learned, or faded into the symmetry-breaking start."""
        step = self.members.step_function(context, members, max_rows)
        learned = self.calibration.correct(step, lambda: self._consensus(context, max_rows))
        random_dynamics, share = self.random_dynamics, self._random_share()
        if random_dynamics is None or share == 0.0 or loss_mode:
            return learned

        def blended(state: StateRows, action: ActionRows) -> MemberPrediction:
            movement = random_dynamics.movement(features(self.action_space, action))
            return blend(share, state + movement, learned(state, action))

        return blended

    def _random_share(self) -> float:
        """How far the symmetry-breaking start still answers."""
        return 0.0 if self.random_dynamics is None else self.random_dynamics.share(int(self.n_total_env_steps))

    def _consensus(self, context: Num[Tensor, "B C"] | None, max_rows: int | None) -> Consensus:
        """What the elites expect in the mean where each of some members stands."""
        elites = self.elites
        return make_consensus(self.members.step_function(context, elites, max_rows), len(elites))


def _ask_everyone(step: StepFunction, rows: Batch, n_members: int) -> MemberPrediction:
    """What each of the members expects of the same rows."""
    return step(rows.state.expand(n_members, -1, -1), rows.action.unsqueeze(0))


def _check_settings(n_modes: object, target_bn_momentum: float, sb_start_duration: int, beta_nll: float) -> None:
    if not isinstance(n_modes, int) or n_modes < 1:
        raise ValueError(f"n_modes: got {n_modes!r}, expected an integer of at least 1")
    if not 0 < target_bn_momentum <= 1:
        raise ValueError(f"target_bn_momentum: got {target_bn_momentum}, expected a number in (0, 1]")
    if sb_start_duration <= 0:
        raise ValueError(f"sb_start_duration: got {sb_start_duration}, expected a positive number of steps")
    if not 0 <= beta_nll <= 1:
        raise ValueError(f"beta_nll: got {beta_nll}, expected a number in [0, 1]")
    if beta_nll > 0 and n_modes > 1:
        raise ValueError(f"beta_nll: got {beta_nll} with n_modes={n_modes}, expected 0, or n_modes=1")
