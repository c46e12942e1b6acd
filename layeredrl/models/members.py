"""The networks of an ensemble together with their units: states in, absolute next states out."""

import copy
import math
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import torch
from einops import repeat
from gymnasium.spaces import Space
from jaxtyping import Float, Int, Num
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from layeredrl.models.examples import Examples
from layeredrl.models.normalization import RunningMoments
from layeredrl.models.propagation import ActionRows, MemberPrediction, StateRows, StepFunction
from layeredrl.nets.compiled import Compiled
from layeredrl.nets.precision import MatmulPrecision
from layeredrl.nets.prob_fc_dynamics import NetOutput, ProbFCDynamics
from layeredrl.nets.stacked import AllAtOnce, Selection, Stacked
from layeredrl.nets.stacked_linear import FusedSequence
from layeredrl.spaces import check_indices, feature_size, features
from layeredrl.types import Batch

PartialNet = Callable[[Space[Any], Space[Any] | None, Space[Any], int], nn.Module]


class Units(NamedTuple):
    """Of what networks read, the features of states, contexts and actions side by side, and of their targets."""

    mean: Float[Tensor, " F"]
    scale: Float[Tensor, " F"]
    target_scale: Float[Tensor, " S"]


class Members(nn.Module):
    """E networks run as one. They read standardised features and speak of targets in the targets' own units.

    Args:
        state_space, context_space, action_space, partial_net, n_models, n_modes, predict_delta,
            normalize_targets, normalize_inputs, hidden_states, compile, matmul_precision:
            as for `ProbabilisticEnsemble`.
        momentum: of the running statistics.
    """

    _hidden: Tensor

    def __init__(
        self,
        state_space: Space[Any],
        context_space: Space[Any] | None,
        action_space: Space[Any],
        partial_net: PartialNet,
        n_models: int,
        n_modes: int,
        *,
        predict_delta: bool,
        normalize_targets: bool,
        normalize_inputs: bool,
        hidden_states: Sequence[int],
        momentum: float,
        compile: bool,
        matmul_precision: MatmulPrecision,
    ):
        super().__init__()
        self.predict_delta = predict_delta
        self.normalize_targets, self.normalize_inputs = normalize_targets, normalize_inputs
        self.context_space, self.action_space = context_space, action_space
        spaces = (state_space, context_space, action_space)
        self.sizes = [feature_size(space) for space in spaces]
        check_indices("hidden_states", hidden_states, self.sizes[0])
        # Set by the constructor: not part of what was learned.
        self.register_buffer("_hidden", torch.tensor(list(hidden_states), dtype=torch.long), persistent=False)
        nets = [partial_net(*spaces, n_modes) for _ in range(n_models)]
        n_rows = n_models + 2  # unlike E, so that a mixed-up axis shows
        example = _example_inputs(self.sizes, n_rows)
        _check_output(copy.deepcopy(nets[0]).eval(), example, mean_shape=(n_rows, n_modes, self.sizes[0]))
        self.nets = Stacked(nets, example, matmul_precision=matmul_precision, fuse=compile)
        self.compiled_ask = Compiled(_ask) if compile else None
        # Where nothing is to be normalised, these keep their initial mean 0 and scale 1.
        self.inputs = RunningMoments(sum(self.sizes), momentum)
        self.targets = RunningMoments(self.sizes[0], momentum)

    def step_function(
        self,
        context: Num[Tensor, "B C"] | None,
        members: Int[Tensor, " members"] | None,
        max_rows: int | None = None,
    ) -> StepFunction:
        """What makes a step of each member from P · B rows of states and actions.

        The first step prepares, for all of them, what doesn't change: inside a CUDA graph where steps are captured.

        Args:
            context: of the first B rows, and again of every B rows that follow.
            members: to use; None means all.
            max_rows: that each network reads at a time; None means all.
        """
        return _Steps(self, self.nets.select(members), context, max_rows)

    def make_examples(self, batch: Batch) -> Examples:
        """Transitions in the units as they are now."""
        inputs = _standardize(self._read(batch), self.get_units())
        target = self._target(batch) / self.targets.scale
        return Examples(inputs, target, batch.terminated.bool(), batch.weight, batch.mask)

    def say(self, inputs: Float[Tensor, "E B F"]) -> NetOutput:
        """What each member expects of its examples, in the units of the targets."""
        state, context, action = inputs.split_with_sizes(self.sizes, dim=-1)
        said: NetOutput = self.nets(state, context if self.sizes[1] else None, action)
        return said

    @property
    def fused_gaussians(self) -> FusedSequence | None:
        """What makes `ProbFCDynamics.sizes` numbers of inputs as one operation, if these are all that members say.

        They are of a single Gaussian, without a prior.
        """
        net = self.nets.members
        if type(net) is not ProbFCDynamics or net.mode_shape[0] > 1 or net.prior is not None:
            return None
        return net.net if isinstance(net.net, FusedSequence) else None

    def update_statistics(self, batch: Batch) -> None:
        """Move the running statistics by a batch of training data."""
        batch = batch.flatten()
        if self.normalize_inputs:
            self.inputs.update(torch.cat(self._read(batch), dim=-1), batch.mask)
        if self.normalize_targets:
            self.targets.update(self._target(batch), batch.mask)

    def reset_statistics(self) -> None:
        """Let the next batch count alone."""
        self.inputs.reset()
        self.targets.reset()

    def context_features(self, context: Tensor | None) -> Tensor | None:
        return None if self.context_space is None or context is None else features(self.context_space, context)

    def get_units(self) -> Units:
        """As they are now. What is hidden becomes 0 by them."""
        inputs, hidden = self.inputs, self._hidden
        # In an infinite unit, every number is zero.
        scale = inputs.scale.index_fill(0, hidden, torch.inf) if hidden.numel() > 0 else inputs.scale
        return Units(inputs.mean, scale, self.targets.scale)

    def _read(self, batch: Batch) -> list[Tensor]:
        """What networks read of transitions, in its own units."""
        parts = batch.state, self.context_features(batch.context), features(self.action_space, batch.action)
        return [x for x in parts if x is not None]

    def _target(self, batch: Batch) -> Float[Tensor, "*batch S"]:
        return batch.next_state - batch.state if self.predict_delta else batch.next_state


class _Steps:
    """Makes steps of some members; the first one prepares what all share."""

    def __init__(
        self, members: Members, selection: Selection, context: Num[Tensor, "B C"] | None, max_rows: int | None
    ):
        self._members, self._selection, self._context, self._max_rows = members, selection, context, max_rows
        self._context_rows: dict[int, Tensor | None] = {}  # by the number of all rows

    def __call__(self, state: StateRows, action: ActionRows) -> MemberPrediction:
        n_members, n_rows, _ = state.shape
        if n_rows not in self._context_rows:
            self._context_rows[n_rows] = self._repeat_context(n_members, n_rows)
        action_rows = features(self._members.action_space, action).expand(n_members, -1, -1)
        rows = (state, self._context_rows[n_rows], action_rows)
        (mean, std), weights, term_prob = _in_chunks(self._ask, rows, self._max_rows)
        scale = self._units.target_scale
        origin = state if self._members.predict_delta else torch.zeros_like(scale)
        return MemberPrediction(mean, std, weights, term_prob, origin, scale)

    @cached_property
    def _units(self) -> Units:
        mean, scale, target_scale = self._members.get_units()
        # A copy: what is found of a step may be asked for when the model has learned on.
        return Units(mean, scale, target_scale.clone())

    def _repeat_context(self, n_members: int, n_rows: int) -> Float[Tensor, "E R F"] | None:
        rows = self._members.context_features(self._context)
        if rows is None:
            return None
        return repeat(rows, "b c -> (p b) c", p=n_rows // max(1, len(rows))).expand(n_members, -1, -1)

    def _ask(self, state: Tensor, *others: Tensor | None) -> Any:
        compiled_ask, rows = self._members.compiled_ask, (state, *others)
        if compiled_ask is None or not self._selection.gains_by_compiling(state):
            return _ask(self._selection, self._units, rows)
        return compiled_ask(self._selection.all_at_once, self._units, rows)


def _ask(selection: Selection | AllAtOnce, units: Units, rows: Sequence[Tensor | None]) -> Any:
    """What the selected networks say of features of states, contexts and actions."""
    parts = [x for x in rows if x is not None]
    standardized = iter(_standardize(parts, units).split_with_sizes([x.shape[-1] for x in parts], dim=-1))
    return selection.run(*(None if x is None else next(standardized) for x in rows))


def _standardize(parts: list[Tensor], units: Units) -> Float[Tensor, "*batch F"]:
    return torch.cat(parts, dim=-1).sub_(units.mean).div_(units.scale)


def _in_chunks(ask: Callable[..., Any], rows: tuple[Tensor, Tensor | None, Tensor], max_rows: int | None) -> Any:
    """What `ask` says of rows `(E, R, …)`, no more than `max_rows` of each member at a time."""
    if max_rows is None or rows[0].shape[1] <= max_rows:
        return ask(*rows)
    n_chunks = math.ceil(rows[0].shape[1] / max_rows)
    chunks = zip(*([None] * n_chunks if x is None else x.split(max_rows, dim=1) for x in rows), strict=True)
    return tree_map(lambda *parts: torch.cat(parts, dim=1), *(ask(*chunk) for chunk in chunks))


def _example_inputs(sizes: list[int], n_rows: int) -> tuple[Tensor, Tensor | None, Tensor]:
    """Ordinary standardised features, drawn without touching the global random state."""
    generator = torch.Generator().manual_seed(0)
    state, context, action = (torch.randn(n_rows, size, generator=generator) for size in sizes)
    return state, context if sizes[1] else None, action


@torch.no_grad()
def _check_output(net: nn.Module, example: tuple[Tensor | None, ...], mean_shape: tuple[int, int, int]) -> None:
    """Refuse a network that doesn't speak the language of members."""
    with torch.random.fork_rng(devices=[]):
        output = net(*example)
    expected = (mean_shape, mean_shape), mean_shape[:2], mean_shape[:1]
    names = "((mean, std), weights, term_prob)"
    try:
        got = tree_map(lambda tensor: tuple(tensor.shape), output)
    except AttributeError:
        raise TypeError(
            f"partial_net: got a module that returns {output!r:.200}, expected tensors {names}"
        ) from None
    if got != expected:
        raise ValueError(f"partial_net: got {names} of shapes {got}, expected {expected}")
