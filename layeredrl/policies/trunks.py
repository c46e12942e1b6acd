"""What a ready-made policy reads observations with: settings that build a network for an observation space."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box, Space
from torch import Tensor, nn

from layeredrl.nets.mlp import mlp
from layeredrl.policies.mixin import Outputs
from layeredrl.policies.nested_spaces import n_features
from layeredrl.spaces import features, row_size

Activation = Callable[[], nn.Module]
MAX_BYTE = 255.0


class Trunk(ABC, nn.Module):
    """Observations in, features out.

    Attributes:
        n_outputs: length of the features.
    """

    n_outputs: int

    @abstractmethod
    def forward(self, inputs: Mapping[str, Any]) -> tuple[Tensor, Outputs]:
        """Features `(…, n_outputs)` of `inputs["observations"]`, and what `act` is to return beside the actions."""

    def specification(self) -> dict[str, Any]:
        """As for `Model.get_specification`."""
        return {}


class TrunkSettings(ABC):
    """How a trunk is built; frozen, so that several models can share them."""

    @abstractmethod
    def build(self, observation_space: Space[Any]) -> Trunk: ...


@dataclass(frozen=True)
class MLP(TrunkSettings):
    """Fully connected layers; reads any space, discrete parts one-hot.

    Attributes:
        hidden_sizes: widths of the layers.
        activation: makes what follows each layer.
    """

    hidden_sizes: tuple[int, ...] = (64, 64)
    activation: Activation = nn.Tanh

    def build(self, observation_space: Space[Any]) -> Trunk:
        return MLPTrunk(observation_space, self)


@dataclass(frozen=True)
class CNN(TrunkSettings):
    """Convolutions, then one fully connected layer; reads images: a Box of height × width × channels.

    Values of an integer Box are scaled to 0 … 1. The defaults are those of Mnih et al. 2015.

    Attributes:
        filters: channels, kernel size and stride of each convolution.
        n_features: width of the last layer.
        activation: makes what follows each layer.
        channels_first: whether images are channels × height × width.
    """

    filters: tuple[tuple[int, int, int], ...] = ((32, 8, 4), (64, 4, 2), (64, 3, 1))
    n_features: int = 512
    activation: Activation = nn.ReLU
    channels_first: bool = False

    def build(self, observation_space: Space[Any]) -> Trunk:
        return CNNTrunk(observation_space, self)


class MLPTrunk(Trunk):
    def __init__(self, space: Space[Any], settings: MLP):
        super().__init__()
        self.space = space
        n_inputs = n_features(space, "observation_space")
        self.net = mlp(n_inputs, settings.hidden_sizes, settings.activation)
        self.n_outputs = (n_inputs, *settings.hidden_sizes)[-1]

    def forward(self, inputs: Mapping[str, Any]) -> tuple[Tensor, Outputs]:
        return self.net(features(self.space, read_observations(inputs, self.space))), {}


class CNNTrunk(Trunk):
    def __init__(self, space: Space[Any], settings: CNN):
        super().__init__()
        if not isinstance(space, Box) or len(space.shape) != 3:
            raise TypeError(f"observation_space: got {space!r}, expected a Box of images, with three axes")
        self.space = space
        self.channels_first = settings.channels_first
        self.scale = MAX_BYTE if np.issubdtype(space.dtype, np.integer) else 1.0
        self.n_outputs = settings.n_features
        shape = space.shape[1:] + space.shape[:1] if settings.channels_first else space.shape
        height, width, channels = shape
        layers: list[nn.Module] = []
        for n_out, kernel, stride in settings.filters:
            layers += [nn.Conv2d(channels, n_out, kernel, stride), settings.activation()]
            height, width, channels = (height - kernel) // stride + 1, (width - kernel) // stride + 1, n_out
        if min(height, width) < 1:
            raise ValueError(f"filters: got {settings.filters}, expected what fits images of shape {space.shape}")
        head = nn.Linear(math.prod((height, width, channels)), settings.n_features)
        self.net = nn.Sequential(*layers, nn.Flatten(), head, settings.activation())

    def forward(self, inputs: Mapping[str, Any]) -> tuple[Tensor, Outputs]:
        observations = read_observations(inputs, self.space)
        images = observations.reshape(-1, *self.space.shape or ()).to(torch.get_default_dtype()) / self.scale
        if not self.channels_first:
            images = images.permute(0, 3, 1, 2)
        return self.net(images).reshape(*observations.shape[:-1], self.n_outputs), {}


def read_observations(inputs: Mapping[str, Any], space: Space[Any]) -> Tensor:
    """The observations, checked for their width."""
    observations: Tensor = inputs["observations"]
    if observations.shape[-1] != row_size(space):
        raise ValueError(
            f"observations: got shape {tuple(observations.shape)}, expected (…, {row_size(space)}) for {space}"
        )
    return observations
