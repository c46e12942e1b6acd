"""The reward of a transition, learned from data."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from einops import rearrange, reduce
from gymnasium.spaces import Space
from jaxtyping import Float, Int, Num
from torch import Tensor, nn

from layeredrl.models.ensemble import Ensemble, check_transition_spaces
from layeredrl.models.examples import Examples, for_everyone
from layeredrl.models.losses import MemberScores, masked_mean
from layeredrl.models.mixture import gaussian_nll
from layeredrl.models.normalization import RunningMoments
from layeredrl.nets.captured import state_of
from layeredrl.nets.gaussian_mlp import GaussianMLP
from layeredrl.nets.stacked import Selection, Stacked
from layeredrl.spaces import check_indices, check_layout, check_rows, feature_size, features
from layeredrl.types import Batch, TransitionFunction


class RewardModel(Ensemble):
    """E networks, run as one, that each expect a Gaussian reward of a transition. It is itself a reward function.

    The networks read the state, the context, the action and the change `next_state - state`, all standardised.
    The change rather than the next state, because rewards for progress are quotients like (x' − x) / Δt: beside the
    spread of positions a step is tiny, so a network would have to find it as the difference of two large inputs.

    Statistics come from training data alone, by `set_statistics`. Made in evaluation mode.

    Args:
        state_space: Box.
        context_space, action_space: of any kind; `context_space=None` means no context.
        n_models: members E.
        hidden_sizes: widths of each member's hidden layers.
        nonlinearity: makes the activation behind each hidden layer.
        hidden_states: indices of coordinates of the state that aren't read, because the reward mustn't depend on
            where in them it is earned, such as a position on an endless track. Their change is read all the same.
        device: where parameters and inputs lie.
        compile: make one operation of the networks, and one of a step of their optimizer, as for a
            `ProbabilisticEnsemble`: on a CPU, where there is a C++ compiler.
    """

    visible: Tensor

    def __init__(
        self,
        state_space: Space[Any],
        context_space: Space[Any] | None,
        action_space: Space[Any],
        n_models: int = 5,
        hidden_sizes: Sequence[int] = (64, 64),
        nonlinearity: Callable[[], nn.Module] = nn.SiLU,
        *,
        hidden_states: Sequence[int] = (),
        device: torch.device | str = torch.device("cpu"),
        compile: bool = False,
    ):
        super().__init__()
        check_transition_spaces(state_space, context_space, action_space)
        if not isinstance(n_models, int) or n_models < 1:
            raise ValueError(f"n_models: got {n_models!r}, expected an integer of at least 1")
        self.state_space, self.context_space, self.action_space = state_space, context_space, action_space
        self.n_models, self.compiled = n_models, compile
        n_states = feature_size(state_space)
        check_indices("hidden_states", hidden_states, n_states)
        visible = torch.tensor([index for index in range(n_states) if index not in hidden_states], dtype=torch.long)
        n_inputs = len(visible) + sum(map(feature_size, (context_space, action_space, state_space)))
        nets = [GaussianMLP(n_inputs, hidden_sizes, nonlinearity) for _ in range(n_models)]
        # Rows unlike E, so that a mixed-up axis shows.
        example = torch.linspace(-1.0, 1.0, (n_models + 2) * n_inputs).view(-1, n_inputs)
        self.nets = Stacked(nets, (example,), fuse=compile)
        # Every fit takes the moments anew from all of its data: no batch fades.
        self.inputs = RunningMoments(n_inputs, momentum=1.0)
        self.rewards = RunningMoments(1, momentum=1.0)
        self.register_buffer("visible", visible)
        self.register_buffer("is_elite", torch.ones(n_models, dtype=torch.bool))
        self.to(device)
        self.eval()

    # Queries ------------------------------------------------------------------------------------------------

    def forward(
        self,
        state: Float[Tensor, "*#batch S"],
        context: Num[Tensor, "*#batch C"] | None,
        action: Num[Tensor, "*#batch A"],
        next_state: Float[Tensor, "*#batch S"],
    ) -> Float[Tensor, "*batch"]:
        """Mean reward over the elites.

        Args:
            state, context, action, next_state: rows of the spaces, whose leading dims broadcast. States may be
                imagined: those that aren't finite give NaN, and nothing else.

        Raises:
            TypeError, ValueError: an argument has the wrong type, shape or device, or a context or an action is not
                finite, or an action lies outside its space.
        """
        self.check_rows(context, action)
        inputs, judges = self._query(state, context, action, next_state), self.elites
        return self._judge(self.nets.select(judges), inputs.expand(len(judges), *inputs.shape)).mean(dim=0)

    def paired(self, members: Int[Tensor, " members"] | None = None) -> TransitionFunction:
        """A reward function whose first leading axis runs over members of the dynamics, each judged by one member.

        So a particle that stays with its member of the dynamics (TS∞) meets a single opinion of the reward
        throughout, and a row costs one small network instead of E. Member `m` of the dynamics is judged by the
        `m`-th of the elites, counted on from the first when there are fewer: by member `m`, as long as all are
        elites and there are as many of them. So a member keeps its judge, whichever others it is rolled with, and
        the dynamics may have more or fewer members than the rewards.

        Args:
            members: what the first axis runs over: indices of members of the dynamics, such as their elites. None:
                as many as this model has.

        Returns:
            A function as `forward`, except that the leading dims broadcast to `(len(members), …)`. It always uses
            the current weights and elites.
        """
        rows = torch.arange(self.n_models, device=self.device) if members is None else members.to(self.device)
        if rows.ndim != 1 or rows.is_floating_point() or len(rows) == 0 or bool((rows < 0).any()):
            raise ValueError(f"members: got {members}, expected some indices of members of the dynamics")

        def paired_reward(
            state: Tensor, context: Tensor | None, action: Tensor, next_state: Tensor
        ) -> Float[Tensor, "members *rest"]:
            self.check_rows(context, action)
            return self.paired_once(rows)(state, context, action, next_state)

        return paired_reward

    def paired_once(self, members: Int[Tensor, " members"]) -> TransitionFunction:
        """As `paired`, but for one rollout: it uses the elites and the weights of its first call.

        It reads nothing back from the device. So nothing can be said of the values of contexts and actions, which
        `check_rows` has to be asked about before.
        """
        elites = self.elites
        judges = self.nets.select(elites[members % len(elites)])

        def paired_reward(
            state: Float[Tensor, "*#batch S"],
            context: Num[Tensor, "*#batch C"] | None,
            action: Num[Tensor, "*#batch A"],
            next_state: Float[Tensor, "*#batch S"],
        ) -> Float[Tensor, "members *rest"]:
            inputs = self._query(state, context, action, next_state)
            if inputs.ndim < 2 or len(inputs) not in (1, len(members)):
                raise ValueError(
                    f"state, context, action, next_state: got leading dims {tuple(inputs.shape[:-1])}, expected a "
                    f"first one of {len(members)}, over members of the dynamics. Name these by `members`"
                )
            return self._judge(judges, inputs.expand(len(members), *inputs.shape[1:]))

        return paired_reward

    def check_rows(self, context: object, action: object) -> None:
        """Check contexts and actions that rewards are to be asked of, as `forward` does."""
        check_rows("context", context, self.context_space, device=self.device)
        check_rows("action", action, self.action_space, device=self.device, contained=True)

    def capture_state(self) -> tuple[object, ...]:
        """As that of a `Model`, for rewards `paired_once`."""
        return (*state_of(self), tuple(self.elites.tolist()))

    # Training -----------------------------------------------------------------------------------------------

    def get_parameters(self) -> Iterator[Tensor]:
        return self.nets.parameters()

    def get_member_tensors(self) -> dict[str, Tensor]:
        return dict(self.nets.state_dict())

    def make_examples(self, batch: Batch) -> Examples:
        inputs = self._features(batch.state, batch.context, batch.action, batch.next_state)
        rewards = rearrange(batch.known_reward(), "... -> ... 1")
        return Examples(self.inputs.standardize(inputs), self.rewards.standardize(rewards), mask=batch.mask)

    def get_example_losses(self, examples: Examples) -> Float[Tensor, " E"]:
        """Mean over transitions of −log-likelihood of the standardised reward, for each member."""
        nll, _ = self._explain(examples)
        return masked_mean(nll, examples.mask)

    @torch.no_grad()
    def get_example_scores(self, examples: Examples) -> MemberScores:
        """As in `Ensemble`; `nll` is in nats and `mse (E, 1)` squared, both in the units of the reward."""
        nll, error = self._explain(for_everyone(examples, self.n_models))
        loss, scale = nll.mean(dim=1), self.rewards.scale
        return MemberScores(
            loss=loss,
            nll=loss + scale.log(),
            mse=reduce((error * scale).square(), "e b -> e 1", "mean"),
        )

    def set_statistics(self, batch: Batch) -> None:
        """Take the statistics of inputs and rewards from these transitions alone."""
        batch = batch.flatten()
        inputs = self._features(batch.state, batch.context, batch.action, batch.next_state)
        rewards = rearrange(batch.known_reward(), "b -> b 1")
        for moments, values in ((self.inputs, inputs), (self.rewards, rewards)):
            moments.reset()
            moments.update(values, batch.mask)

    def check_batch(self, batch: Batch) -> None:
        """Refuse data that can't be learned from, naming the field and what is wrong with it."""
        batch.known_reward()
        super().check_batch(batch)

    # Inside -------------------------------------------------------------------------------------------------

    def _query(
        self, state: Tensor, context: Tensor | None, action: Tensor, next_state: Tensor
    ) -> Float[Tensor, "*batch F"]:
        """Check the layout of a query's arguments; what the networks read of them."""
        check_layout("state", state, self.state_space, device=self.device)
        check_layout("context", context, self.context_space, device=self.device)
        check_layout("action", action, self.action_space, device=self.device)
        check_layout("next_state", next_state, self.state_space, device=self.device)
        return self.inputs.standardize(self._features(state, context, action, next_state))

    def _features(
        self, state: Tensor, context: Tensor | None, action: Tensor, next_state: Tensor
    ) -> Float[Tensor, "*batch F"]:
        """State, context, action and change side by side, their leading dims broadcast."""
        leading = _broadcast(state=state, context=context, action=action, next_state=next_state)
        parts = [state[..., self.visible], features(self.action_space, action), next_state - state]
        if self.context_space is not None and context is not None:
            parts.append(features(self.context_space, context))
        return torch.cat([part.expand(*leading, part.shape[-1]) for part in parts], dim=-1)

    def _judge(self, judges: Selection, inputs: Float[Tensor, "members *rest F"]) -> Float[Tensor, "members *rest"]:
        """What the i-th of some members expects of the rows `inputs[i]`."""
        leading = inputs.shape[:-1]
        rows = inputs.reshape(leading[0], math.prod(leading[1:]), inputs.shape[-1])
        mean, _ = judges.run(rows)
        return (mean * self.rewards.scale + self.rewards.mean).reshape(leading)

    def _explain(self, examples: Examples) -> tuple[Float[Tensor, "E B"], Float[Tensor, "E B"]]:
        """NLL and error of standardised rewards, by each member for examples of its own."""
        mean, std = self.nets(examples.inputs)
        error = mean - examples.target.squeeze(-1)
        return gaussian_nll(error, std), error


def _broadcast(**rows: Tensor | None) -> torch.Size:
    """The leading dims of rows together."""
    shapes = {name: value.shape[:-1] for name, value in rows.items() if value is not None}
    try:
        return torch.broadcast_shapes(*shapes.values())
    except RuntimeError:
        got = ", ".join(f"{name} {tuple(shape)}" for name, shape in shapes.items())
        raise ValueError(f"leading dims: got {got}, expected ones that broadcast") from None
