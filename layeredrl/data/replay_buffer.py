"""A preallocated ring of transitions."""

from typing import Any

import torch
from gymnasium.spaces import Space
from jaxtyping import Bool, Int
from torch import Tensor

from layeredrl.data.membership import bootstrap_counts, holdout_mask
from layeredrl.spaces import check_rows, check_space, row_dtype, row_size
from layeredrl.types import Batch


class ReplayBuffer:
    """Transitions of any number of environments; the oldest give way when it is full.

    Each transition gets a serial number on entry. It decides for ever whether the transition is held out, and how
    often it occurs in each member's bootstrap (see `layeredrl.data.membership`).

    Args:
        state_space, context_space, action_space: as `layeredrl.spaces` has them; `context_space=None` means no
            context.
        capacity: transitions that are kept.
        holdout_ratio: probability of a transition to be held out of training.
        seed: of the membership.
        device: where the transitions lie.
    """

    def __init__(
        self,
        state_space: Space[Any],
        context_space: Space[Any] | None,
        action_space: Space[Any],
        capacity: int,
        *,
        holdout_ratio: float = 0.1,
        seed: int = 0,
        device: torch.device | str = torch.device("cpu"),
    ):
        check_space("state_space", state_space)
        check_space("context_space", context_space, optional=True)
        check_space("action_space", action_space)
        if capacity < 1:
            raise ValueError(f"capacity: got {capacity}, expected at least 1")
        if not 0 <= holdout_ratio < 1:
            raise ValueError(f"holdout_ratio: got {holdout_ratio}, expected a number in [0, 1)")
        if seed < 0:
            raise ValueError(f"seed: got {seed}, expected at least 0")
        self.spaces = {
            "state": state_space,
            "context": context_space,
            "action": action_space,
            "next_state": state_space,
        }
        self.capacity, self.holdout_ratio, self.seed = capacity, holdout_ratio, seed
        self.device = torch.empty(0, device=device).device
        self.n_added = 0
        self._columns = {name: self._vectors(space) for name, space in self.spaces.items() if space is not None}
        self._columns |= {name: self._scalars(torch.bool) for name in ("terminated", "truncated", "is_holdout")}
        self._columns |= {"reward": self._scalars(torch.float32), "serial": self._scalars(torch.long)}

    def __len__(self) -> int:
        return min(self.n_added, self.capacity)

    def add(self, batch: Batch) -> None:
        """Store transitions of leading dim `(V,)`. Missing rewards and truncations count as 0.

        Raises:
            TypeError, ValueError: a field has the wrong type, shape or device, a row of it is not finite, or an
                action lies outside its space. Nothing is stored then.
        """
        self._check(batch)
        serial = torch.arange(self.n_added, self.n_added + len(batch))
        place = (serial % self.capacity).to(self.device)
        zeros = torch.zeros(len(batch), device=self.device)
        values = {
            **{name: getattr(batch, name) for name, space in self.spaces.items() if space is not None},
            "terminated": batch.terminated.bool(),
            "truncated": zeros.bool() if batch.truncated is None else batch.truncated.bool(),
            "reward": zeros if batch.reward is None else batch.reward,
            "serial": serial.to(self.device),
            "is_holdout": holdout_mask(serial, self.holdout_ratio, self.seed).to(self.device),
        }
        for name, value in values.items():
            self._columns[name][place] = value
        self.n_added += len(batch)

    def __getitem__(self, index: slice | Tensor) -> Batch:
        """The stored transitions at `index`, which counts places in the ring."""
        rows = {name: column[: len(self)][index] for name, column in self._columns.items()}
        fields = ("state", "action", "next_state", "terminated", "reward", "truncated")
        return Batch(context=rows.get("context"), **{name: rows[name] for name in fields})

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Batch:
        """Draw `n` transitions with replacement."""
        if len(self) == 0:
            raise ValueError("sample: the buffer is empty")
        return self[torch.randint(len(self), (n,), generator=generator, device=self.device)]

    @property
    def serial(self) -> Int[Tensor, " B"]:
        """Serial number of each stored transition."""
        return self._columns["serial"][: len(self)]

    @property
    def is_holdout(self) -> Bool[Tensor, " B"]:
        """Whether each stored transition is held out."""
        return self._columns["is_holdout"][: len(self)]

    def bootstrap_counts(self, n_models: int) -> Int[Tensor, "B E"]:
        """How often each stored transition occurs in each member's training set; never, if it is held out."""
        counts = bootstrap_counts(self.serial, n_models, self.seed).to(self.device)
        return torch.where(self.is_holdout[:, None], 0, counts)

    def state_dict(self) -> dict[str, Any]:
        """All that is stored, ready for `torch.save` and loading with `weights_only=True`."""
        columns = {name: column[: len(self)].clone() for name, column in self._columns.items()}
        return {"n_added": self.n_added, "capacity": self.capacity, "seed": self.seed, "columns": columns}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what another buffer of the same capacity and spaces has stored."""
        columns: dict[str, Tensor] = state["columns"]
        if state["capacity"] != self.capacity:
            raise ValueError(f"capacity: got {state['capacity']} in the state, expected {self.capacity}")
        if state["seed"] != self.seed:
            raise ValueError(f"seed: got {state['seed']} in the state, expected {self.seed}")
        n_rows = min(int(state["n_added"]), self.capacity)
        for name in sorted(self._columns.keys() | columns.keys()):
            got, expected = _kind(columns.get(name)), _kind(self._columns.get(name))
            if got != expected:
                raise ValueError(f"{name}: got {got} in the state, expected {expected}")
            if len(columns[name]) != n_rows:
                raise ValueError(f"{name}: got {len(columns[name])} rows in the state, expected {n_rows}")
        self.n_added = int(state["n_added"])
        for name, column in self._columns.items():
            column[: len(self)] = columns[name].to(self.device)

    def _check(self, batch: Batch) -> None:
        if len(batch.shape) != 1 or len(batch) > self.capacity:
            raise ValueError(
                f"batch: got leading dims {tuple(batch.shape)}, expected (V,) with V of at most {self.capacity}"
            )
        batch.check_finite()
        for name, space in self.spaces.items():
            value = getattr(batch, name)
            check_rows(f"Batch.{name}", value, space, device=self.device, contained=name == "action")

    def _vectors(self, space: Space[Any]) -> Tensor:
        return torch.zeros(self.capacity, row_size(space), dtype=row_dtype(space), device=self.device)

    def _scalars(self, dtype: torch.dtype) -> Tensor:
        return torch.zeros(self.capacity, dtype=dtype, device=self.device)


def _kind(column: Tensor | None) -> str:
    return "nothing" if column is None else f"rows of shape {tuple(column.shape[1:])} and {column.dtype}"
