"""The abstract base of all models on the action side."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping
from os import PathLike
from typing import Any

import torch
from gymnasium.spaces import Space
from torch import Tensor, nn

from layeredrl.policies import distributed, initialization
from layeredrl.policies.checkpoints import check_same_tensors, named_tensors, read_external, read_state_dict
from layeredrl.policies.migration import describe, match
from layeredrl.policies.mixin import Acted, Mixin, Outputs
from layeredrl.policies.nested_spaces import AnySpace, flatten, n_elements, n_features, unflatten
from layeredrl.space_sampling import sample
from layeredrl.spaces import check_space, row_size


class Model(ABC, nn.Module):
    """What maps observations (and states) to actions or values: `compute` by the user, `act` by a mixin.

        class MLP(GaussianMixin, Model):  # mixins first, Model last
            def __init__(self, observation_space, state_space, action_space, device):
                Model.__init__(self, observation_space=observation_space, state_space=state_space,
                               action_space=action_space, device=device)
                GaussianMixin.__init__(self, clip_actions=True)
                ...

            def compute(self, inputs, role=""):
                return self.net(inputs["observations"]), {"log_std": self.log_std_parameter}

    Inputs are a dict of tensors with any leading dims: `observations`, `states`, `taken_actions`, whatever else
    `compute` reads. A *role* tells apart what one instance does for several purposes, such as "policy" and "value".

    Args:
        observation_space, state_space, action_space: a gymnasium space (Box, Discrete, MultiDiscrete, MultiBinary,
            Dict or Tuple of such), a size, a shape, or None.
        device: where the model lives; None means CUDA if there is one, else the CPU.

    Attributes:
        num_observations, num_states, num_actions: sizes of the spaces, with a one-hot code per discrete number.

    Raises:
        TypeError: an argument of another type; or, when the class is created, a mixin behind Model.
        ValueError: a device that doesn't exist.
    """

    def __init__(
        self,
        observation_space: AnySpace = None,
        action_space: AnySpace = None,
        device: str | torch.device | None = None,
        *,
        state_space: AnySpace = None,
    ):
        super().__init__()
        self.observation_space, self.state_space, self.action_space = observation_space, state_space, action_space
        self.num_observations = n_features(observation_space, "observation_space")
        self.num_states = n_features(state_space, "state_space")
        self.num_actions = n_features(action_space, "action_space")
        self.device = _parse_device(device)
        self._role_settings: dict[tuple[type, str], Any] = {}
        self._acted: dict[str, Acted] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        behind = [base for base in cls.__mro__[cls.__mro__.index(Model) :] if issubclass(base, Mixin)]
        if behind:
            bases = [base.__name__ for base in cls.__bases__]
            mixins = [base.__name__ for base in cls.__bases__ if issubclass(base, Mixin)]
            others = [base.__name__ for base in cls.__bases__ if not issubclass(base, Mixin)]
            raise TypeError(
                f"class {cls.__name__}: got the bases ({', '.join(bases)}), expected mixins first and Model last: "
                f"class {cls.__name__}({', '.join(mixins + others)})"
            )

    def __getstate__(self) -> dict[str, Any]:
        # What the last act left behind belongs to a graph of gradients, which can't be copied.
        return {**self.__dict__, "_acted": {}}

    # Acting -------------------------------------------------------------------------------------------------

    @abstractmethod
    def compute(self, inputs: Mapping[str, Any], role: str = "") -> tuple[Tensor, Outputs]:
        """The network: what the mixin needs, and further outputs (such as `log_std`)."""

    @abstractmethod
    def act(self, inputs: Mapping[str, Any], *, role: str = "") -> tuple[Tensor, Outputs]:
        """Actions or values, and outputs about them. Mixins implement it."""
        roles = sorted({name for _, name in self._role_settings})
        raise ValueError(f"{type(self).__name__}: got role {role!r}, expected one that was initialised: {roles}")

    def forward(self, inputs: Mapping[str, Any], *, role: str = "") -> tuple[Tensor, Outputs]:
        """The same as `act`."""
        return self.act(inputs, role=role)

    @torch.no_grad()
    def random_act(self, inputs: Mapping[str, Any], *, role: str = "") -> tuple[Tensor, Outputs]:
        """Uniform actions, as many as there are observations; noise from `inputs["generator"]`, if given.

        Unbounded Boxes have no uniform law: see `layeredrl.space_sampling`.

        Raises:
            TypeError: `action_space` is no gymnasium space.
        """
        rows = inputs["observations"] if inputs.get("observations") is not None else inputs["states"]
        space = _require_space("action_space", self.action_space)
        generator = inputs.get("generator")
        return sample(space, tuple(rows.shape[:-1]), generator=generator, device=self.device), {}

    def get_specification(self) -> dict[str, Any]:
        """What agents need to know; recurrent models say `{"rnn": {"sequence_length": L, "sizes": [(layers, envs,
        features), …]}}`, with a size per recurrent state."""
        return {}

    def enable_training_mode(self, enabled: bool = True) -> None:
        self.train(enabled)

    def set_mode(self, mode: str) -> None:
        """The older form of `enable_training_mode`: "train" or "eval"."""
        if mode not in ("train", "eval"):
            raise ValueError(f"mode: got {mode!r}, expected 'train' or 'eval'")
        self.train(mode == "train")

    # Spaces -------------------------------------------------------------------------------------------------

    def tensor_to_space(self, tensor: Tensor, space: Space[Any], start: int = 0) -> Any:
        """The value of `space` whose row stands in `tensor` from column `start` on; see `unflatten`."""
        check_space("space", space)
        return unflatten(space, tensor[..., start : start + row_size(space)])

    def space_to_tensor(self, value: Any, space: Space[Any]) -> Tensor:
        """The inverse of `tensor_to_space`."""
        check_space("space", space)
        return flatten(space, value)

    def _get_space_size(self, space: AnySpace, number_of_elements: bool = True) -> int:
        """Size of a space; `number_of_elements=False` counts 1 for each discrete number, not its one-hot code."""
        return n_features(space) if number_of_elements else n_elements(space)

    # Parameters ---------------------------------------------------------------------------------------------

    @torch.no_grad()
    def init_state_dict(self, inputs: Mapping[str, Any] | None = None, *, role: str = "") -> None:
        """Make lazy parameters real by one call of `compute`, on random samples of the spaces by default."""
        self.to(self.device)
        spaces = {
            "observations": self.observation_space,
            "states": self.state_space,
            "taken_actions": self.action_space,
        }
        examples = initialization.example_inputs(spaces, self.get_specification(), self.device)
        self.compute(inputs or examples, role=role)

    def init_parameters(self, method_name: str = "normal_", *args: Any, **kwargs: Any) -> None:
        """Initialise every parameter by the function of `torch.nn.init` with this name, given its arguments.

        Raises:
            ValueError: there is no such function.
        """
        initialization.init_parameters(self, method_name, *args, **kwargs)

    def init_weights(self, method_name: str = "orthogonal_", *args: Any, **kwargs: Any) -> None:
        """As `init_parameters`, for the weights of every Linear."""
        initialization.init_weights(self, method_name, *args, **kwargs)

    def init_biases(self, method_name: str = "constant_", *args: Any, **kwargs: Any) -> None:
        """As `init_parameters`, for the biases of every Linear."""
        initialization.init_biases(self, method_name, *args, **kwargs)

    def freeze_parameters(self, freeze: bool = True) -> None:
        """Stop gradients of all parameters, or let them flow again."""
        for parameter in self.parameters():
            parameter.requires_grad_(not freeze)

    @torch.no_grad()
    def update_parameters(self, model: nn.Module, *, polyak: float | int = 1.0) -> None:
        """Move parameters and buffers towards another model's: `(1 − polyak) · own + polyak · other`.

        Buffers of integers (counters) are taken over whole.

        Raises:
            ValueError: the models' tensors differ in name or shape, or `polyak` isn't in [0, 1].
        """
        if not 0 <= polyak <= 1:
            raise ValueError(f"polyak: got {polyak}, expected a number in [0, 1]")
        own, other = named_tensors(self), named_tensors(model)
        check_same_tensors("model", own, other)
        for name, tensor in own.items():
            if polyak == 1 or not tensor.is_floating_point():
                tensor.copy_(other[name])
            else:
                tensor.mul_(1 - polyak).add_(polyak * other[name])

    def broadcast_parameters(self, *, rank: int = 0) -> None:
        """Take over parameters and buffers of process `rank`; every process of the group must call it."""
        distributed.broadcast(self, rank)

    def reduce_parameters(self) -> None:
        """Average gradients over all processes of the group, each of which must call it."""
        distributed.average_gradients(self)

    # Files --------------------------------------------------------------------------------------------------

    def save(self, path: str | PathLike[str], *, state_dict: Mapping[str, Any] | None = None) -> None:
        """Write the model's state (or the one given) to a file."""
        torch.save(self.state_dict() if state_dict is None else state_dict, path)

    def load(self, path: str | PathLike[str]) -> None:
        """Take over the state in a file, onto the model's device, and switch to evaluation mode.

        Raises:
            ValueError: the file holds more than tensors (nothing of it was executed), or other tensors than the
                model has; the model is then unchanged.
        """
        state = read_state_dict(path, self.device)
        check_same_tensors(f"path {str(path)!r}", self.state_dict(), state)
        self.load_state_dict(state)
        self.eval()

    def migrate(
        self,
        state_dict: Mapping[str, Tensor] | None = None,
        path: str | PathLike[str] | None = None,
        name_map: Mapping[str, str] | None = None,
        auto_mapping: bool = True,
        verbose: bool = False,
    ) -> bool:
        """Take over the weights of another library's model, and switch to evaluation mode.

        Tensors are matched by `name_map`, then by name, then by shape and kind where that leaves one possibility.
        Those without a match keep their values, and a warning says which and why.

        Args:
            state_dict: tensors by name; or instead:
            path: an rl_games checkpoint (.pth) or a stable-baselines3 archive (.zip). No code in it is executed.
            name_map: this model's names to the external ones.
            auto_mapping: whether to match by anything but `name_map`.
            verbose: print the tensors of both models and the matches.

        Returns:
            Whether every tensor of this model found its match.

        Raises:
            ValueError: neither or both of `state_dict` and `path`, a file that can't be read, or a `name_map` that
                doesn't fit. The model is then unchanged.
        """
        if (state_dict is None) == (path is None):
            raise ValueError("migrate: got neither or both of state_dict and path, expected exactly one")
        external = read_external(path, self.device) if path is not None else state_dict or {}
        own = self.state_dict()
        migration = match(own, external, name_map or {}, auto_mapping=auto_mapping)
        if verbose:
            print(describe(own, external, migration))
        if migration.problems:
            warnings.warn(f"{type(self).__name__}.migrate: {'; '.join(migration.problems)}", stacklevel=2)
        taken = {name: external[source] for name, source in migration.sources.items()}
        self.load_state_dict(taken, strict=False)
        self.eval()
        return not migration.problems


def _parse_device(device: object) -> torch.device:
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not isinstance(device, str | torch.device):
        raise TypeError(f"device: got {device!r}, expected a torch.device, its name, or None")
    try:
        return torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device: got {device!r}, expected a device of torch: {error}") from None


def _require_space(name: str, space: AnySpace) -> Space[Any]:
    if not isinstance(space, Space):
        raise TypeError(f"{name}: got {space!r}, expected a gymnasium space to draw from")
    return space
