"""Actions from tables."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from layeredrl.policies.mixin import Mixin, Outputs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn


@dataclass(frozen=True)
class TabularSettings:
    """There are none: a record that the role was initialised."""


class TabularMixin(Mixin):
    """Acts by what `compute` looks up in tables, which are the model's parameters.

    Args:
        role: that the mixin serves; without one, every role that no other mixin serves.
    """

    if TYPE_CHECKING:

        def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]: ...

    def __init__(self, *, role: str = ""):
        self._set_role(role, TabularSettings())

    def act(self, inputs: Mapping[str, Any], *, role: str = "") -> tuple[Tensor, Outputs]:
        """Actions and outputs of `compute`.

        Raises:
            ValueError: a table gave NaN.
        """
        if self._get_role(TabularSettings, role) is None:
            return super().act(inputs, role=role)
        actions, outputs = self._computed(inputs, role)
        self._refuse_nan(actions, net_output=actions)
        return actions, outputs

    def tables(self, *, role: str = "") -> dict[str, Tensor]:
        """The tables by name; all roles share them."""
        return dict(self.named_parameters())

    def __repr__(self) -> str:
        lines = [f"  ({name}): shape {tuple(table.shape)}\n" for name, table in self.tables().items()]
        return f"{type(self).__name__}(\n{''.join(lines)})"
