"""Recurrent trunks: GRU, LSTM and plain RNN policies, stepped through an episode and trained on sequences.

The conventions are skrl's. In evaluation mode a call is one step of each environment; in training mode the rows are
sequences of fixed length, laid end to end, whose recurrent states are given for every row and read at the first.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from einops import rearrange
from gymnasium.spaces import Space
from jaxtyping import Bool, Float
from torch import Tensor, nn

from layeredrl.policies.mixin import Outputs
from layeredrl.policies.nested_spaces import n_features
from layeredrl.policies.trunks import Trunk, TrunkSettings, read_observations
from layeredrl.spaces import features

States = list[Tensor]


@dataclass(frozen=True)
class Recurrent(TrunkSettings):
    """A recurrent trunk. Use one of the subclasses, which say of which kind.

    `inputs["rnn"]` holds the recurrent states `(layers, rows, hidden_size)`: one tensor for GRU and RNN, two for
    LSTM (hidden and cell); without it, all begin afresh. `outputs["rnn"]` holds them after the call. In training
    mode `inputs["terminated"]` and `inputs["truncated"]` `(rows, 1)`, if given, mark the rows after which the
    states start afresh.

    Attributes:
        hidden_size: of the recurrent states.
        n_layers: stacked on each other.
        sequence_length: of the sequences in training mode.
        n_envs: environments stepped at once, for `get_specification`.
    """

    hidden_size: int = 64
    n_layers: int = 1
    sequence_length: int = 16
    n_envs: int = 1

    # What kind it is: set by each subclass.
    cell: ClassVar[Callable[..., nn.Module]]
    n_states: ClassVar[int]

    def build(self, observation_space: Space[Any]) -> Trunk:
        return RecurrentTrunk(observation_space, self)


class RNN(Recurrent):
    """The plain recurrent network, with tanh."""

    cell = nn.RNN
    n_states = 1


class GRU(Recurrent):
    """Gated recurrent units."""

    cell = nn.GRU
    n_states = 1


class LSTM(Recurrent):
    """Long short-term memory."""

    cell = nn.LSTM
    n_states = 2


class RecurrentTrunk(Trunk):
    def __init__(self, space: Space[Any], settings: Recurrent):
        super().__init__()
        self.space, self.settings = space, settings
        n_inputs = n_features(space, "observation_space")
        self.net = settings.cell(n_inputs, settings.hidden_size, settings.n_layers, batch_first=True)
        self.n_outputs = settings.hidden_size

    def specification(self) -> dict[str, Any]:
        own = self.settings
        sizes = [(own.n_layers, own.n_envs, own.hidden_size)] * own.n_states
        return {"rnn": {"sequence_length": own.sequence_length, "sizes": sizes}}

    def forward(self, inputs: Mapping[str, Any]) -> tuple[Tensor, Outputs]:
        encoded = features(self.space, read_observations(inputs, self.space))
        leading = encoded.shape[:-1]
        rows = encoded.reshape(-1, encoded.shape[-1])
        states = self._states(inputs, rows)
        length = self.settings.sequence_length if self.training else 1
        if len(rows) % length:
            raise ValueError(
                f"observations: got {len(rows)} rows in training mode, expected a multiple of the sequence length "
                f"{length}; switch with enable_training_mode(False) to act step by step"
            )
        sequences = rearrange(rows, "(n l) f -> n l f", l=length)
        first = [rearrange(state, "d (n l) h -> d n l h", l=length)[:, :, 0].contiguous() for state in states]
        ended = self._ended(inputs, len(rows), length)
        outputs, last = run_sequences(self._step, sequences, first, ended)
        return outputs.reshape(*leading, self.n_outputs), {"rnn": last}

    def _step(self, sequences: Float[Tensor, "N L F"], states: States) -> tuple[Tensor, States]:
        """The states go in and out as a list, also where the network takes one tensor or a tuple."""
        if self.settings.n_states == 1:
            outputs, last = self.net(sequences, states[0])
            return outputs, [last]
        outputs, last = self.net(sequences, tuple(states))
        return outputs, list(last)

    def _states(self, inputs: Mapping[str, Any], rows: Float[Tensor, "R F"]) -> States:
        own = self.settings
        expected = (own.n_layers, len(rows), own.hidden_size)
        states = inputs.get("rnn") or [rows.new_zeros(expected)] * own.n_states
        if len(states) != own.n_states or any(tuple(state.shape) != expected for state in states):
            raise ValueError(
                f"rnn: got states of shapes {[tuple(state.shape) for state in states]}, "
                f"expected {[expected] * own.n_states}"
            )
        return list(states)

    def _ended(self, inputs: Mapping[str, Any], n_rows: int, length: int) -> Bool[Tensor, "N L"] | None:
        flags = [inputs[name] for name in ("terminated", "truncated") if inputs.get(name) is not None]
        if not flags or not self.training:
            return None
        return torch.stack([flag.reshape(n_rows).bool() for flag in flags]).any(dim=0).reshape(-1, length)


def run_sequences(
    step: Callable[[Tensor, States], tuple[Tensor, States]],
    sequences: Float[Tensor, "N L F"],
    states: Sequence[Tensor],
    ended: Bool[Tensor, "N L"] | None,
) -> tuple[Float[Tensor, "N L H"], States]:
    """Run a recurrent network along sequences, with states that start afresh after every row that ended an episode.

    The network runs in one piece between the times at which any sequence has an end.
    """
    if ended is None or not bool(ended.any()):
        return step(sequences, list(states))
    n_steps = sequences.shape[1]
    cuts = (ended[:, :-1].any(dim=0).nonzero().squeeze(-1) + 1).tolist()
    outputs, states = [], list(states)
    for start, end in zip([0, *cuts], [*cuts, n_steps], strict=True):
        piece, states = step(sequences[:, start:end], states)
        goes_on = rearrange(~ended[:, end - 1], "n -> 1 n 1")
        states = [state * goes_on for state in states]
        outputs.append(piece)
    return torch.cat(outputs, dim=1), states
