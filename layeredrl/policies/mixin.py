"""What all mixins share: settings per role, the call of `compute`, and the checks of what it returns."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import torch
from gymnasium.spaces import Box, Space
from torch import Tensor
from torch.distributions import Distribution

from layeredrl.policies.nested_spaces import AnySpace
from layeredrl.spaces import bounds, leaves

Inputs = Mapping[str, Any]
Outputs = dict[str, Any]
Reduction = Callable[[Tensor], Tensor]
Clip = Callable[[Tensor], Tensor]
Settings = TypeVar("Settings")


def unchanged(value: Tensor) -> Tensor:
    return value


# How the log-probabilities of an action's components become one; "none" keeps them apart.
REDUCTIONS: dict[str, Reduction] = {
    "mean": partial(torch.mean, dim=-1, keepdim=True),
    "sum": partial(torch.sum, dim=-1, keepdim=True),
    "prod": partial(torch.prod, dim=-1, keepdim=True),
    "none": unchanged,
}


class Bounds(NamedTuple):
    """Lowest and highest action, flat."""

    low: Tensor
    high: Tensor


class Acted(NamedTuple):
    """What `act` leaves behind for a role."""

    distribution: Distribution
    entropy: Callable[[], Tensor]


class Mixin:
    """Turns `compute` into `act`. Mixins stand before `Model` among the bases of a class.

    A role is served by the mixin that was initialised for it, else by the first that was initialised without one.
    """

    if TYPE_CHECKING:  # what Model provides
        action_space: AnySpace
        num_actions: int
        device: torch.device
        _role_settings: dict[tuple[type, str], Any]
        _acted: dict[str, Acted]

        def compute(self, inputs: Inputs, role: str = "") -> tuple[Tensor, Outputs]: ...
        def act(self, inputs: Inputs, *, role: str = "") -> tuple[Tensor, Outputs]: ...

    def _set_role(self, role: str, settings: object) -> None:
        self._role_settings[type(settings), role] = settings

    def _get_role(self, kind: type[Settings], role: str) -> Settings | None:
        """The settings of this kind that serve the role; None where another mixin has to."""
        exact = self._role_settings.get((kind, role))
        if exact is None and not any(name == role for _, name in self._role_settings):
            return self._role_settings.get((kind, ""))
        return exact

    def _computed(self, inputs: Inputs, role: str) -> tuple[Tensor, Outputs]:
        """What `compute` returns, checked; the outputs are a new dict."""
        answer = self.compute(inputs, role=role)
        if (
            not isinstance(answer, tuple)
            or len(answer) != 2
            or not isinstance(answer[0], Tensor)
            or not isinstance(answer[1], Mapping)
        ):
            raise TypeError(
                f"{type(self).__name__}.compute: got a return value {_outline(answer)}, expected (Tensor, dict)"
            )
        net_output, outputs = answer
        return net_output, dict(outputs)

    def _check_width(self, name: str, value: Tensor, width: int) -> None:
        if value.ndim == 0 or value.shape[-1] != width:
            raise ValueError(
                f"{type(self).__name__}: got {name} of shape {tuple(value.shape)}, "
                f"expected (…, {width}) for the action space {self.action_space}"
            )

    def _refuse_nan(self, result: Tensor, **sources: Tensor | None) -> None:
        """Raise a ValueError if a NaN reached `result`, and name the source that isn't finite."""
        # A sum is NaN if a part is, and several times as fast to look at.
        if not math.isnan(result.sum().item()):
            return
        for name, value in sources.items():
            if value is not None and not bool(torch.isfinite(value).all()):
                place = tuple((~torch.isfinite(value)).nonzero()[0].tolist())
                raise ValueError(
                    f"{type(self).__name__}: got {value[place].item()} in {name} at index {place}, "
                    "expected finite values"
                )

    def _check_space(self, served: bool, expected: str) -> None:
        """Raise a TypeError at construction where the mixin can't act in the action space."""
        if not served:
            raise TypeError(f"{type(self).__name__}: got action_space {self.action_space!r}, expected {expected}")

    def _bounds(self) -> Bounds | None:
        """The bounds of the action space; None where nothing is bounded."""
        if isinstance(self.action_space, Space) and is_continuous(self.action_space):
            low, high = bounds(self.action_space, self.device)
            if bool((low.isfinite() | high.isfinite()).any()):
                return Bounds(low, high)
        return None

    def _clip(self, argument: str, *, wanted: bool) -> Clip:
        """What clips actions to the bounds of the action space, if that is wanted; else leaves them.

        Raises:
            ValueError: the space has no bounds.
        """
        if not wanted:
            return unchanged
        limits = self._bounds()
        if limits is None:
            raise ValueError(
                f"{type(self).__name__}: got {argument}=True for the action space {self.action_space!r}, "
                "expected a Box with bounds"
            )
        # Several times as fast with numbers as with tensors, where all actions have the same bounds.
        if all(bool((limit == limit[0]).all()) for limit in limits):
            return partial(torch.clamp, min=limits.low[0].item(), max=limits.high[0].item())
        return partial(torch.clamp, min=limits.low, max=limits.high)

    def _reduction(self, name: str) -> Reduction:
        if name not in REDUCTIONS:
            raise ValueError(f"{type(self).__name__}: got reduction {name!r}, expected one of {list(REDUCTIONS)}")
        return REDUCTIONS[name]


class StochasticMixin(Mixin):
    """A mixin whose `act` draws from a distribution, which can be asked for afterwards.

    Inputs that every such mixin reads: `taken_actions` (their log-probability is evaluated in place of the drawn
    ones'), `deterministic=True` (act by the mode) and `generator` (where the noise comes from).
    """

    def distribution(self, *, role: str = "") -> Distribution:
        """The distribution that the last `act` in this role drew from.

        Raises:
            ValueError: there was no `act` in this role.
        """
        return self._last_act(role).distribution

    def get_entropy(self, *, role: str = "") -> Tensor:
        """Entropy `(…, 1)` of that distribution.

        Raises:
            ValueError: there was no `act` in this role.
        """
        return self._last_act(role).entropy()

    def _last_act(self, role: str) -> Acted:
        if role == "" and len(self._acted) == 1:
            return next(iter(self._acted.values()))
        if role not in self._acted:
            raise ValueError(
                f"{type(self).__name__}: got role {role!r}, expected one that has acted: {list(self._acted)}"
            )
        return self._acted[role]


def is_continuous(space: AnySpace) -> bool:
    """Whether every action is a row of numbers: a Box, a nesting of such, or a plain size."""
    if isinstance(space, Space):
        return all(isinstance(leaf, Box) for leaf in leaves(space))
    return space is not None


def _outline(answer: object) -> str:
    if isinstance(answer, tuple):
        return f"({', '.join(type(part).__name__ for part in answer)})"
    return f"of type {type(answer).__name__}"
