"""Fill the parameters of a module by an initialiser's name, and what makes lazy ones real."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from gymnasium.spaces import Space
from torch import Tensor, nn

from layeredrl.policies.nested_spaces import AnySpace, n_features
from layeredrl.space_sampling import sample

INITIALIZERS: dict[str, Callable[..., Tensor]] = {
    name: function for name, function in vars(nn.init).items() if name.endswith("_") and not name.startswith("_")
}


def initializer(name: str) -> Callable[..., Tensor]:
    """The function of `torch.nn.init` with this name.

    Raises:
        ValueError: there is none; the message lists those there are.
    """
    if name not in INITIALIZERS:
        raise ValueError(f"method_name: got {name!r}, expected one of {sorted(INITIALIZERS)}")
    return INITIALIZERS[name]


def init_parameters(module: nn.Module, name: str, *args: Any, **kwargs: Any) -> None:
    """Initialise every parameter."""
    initialize = initializer(name)
    for parameter in module.parameters():
        initialize(parameter, *args, **kwargs)


def init_weights(module: nn.Module, name: str, *args: Any, **kwargs: Any) -> None:
    """Initialise the weight of every Linear, however deep in the tree."""
    initialize = initializer(name)
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            initialize(layer.weight, *args, **kwargs)


def init_biases(module: nn.Module, name: str, *args: Any, **kwargs: Any) -> None:
    """Initialise the bias of every Linear that has one."""
    initialize = initializer(name)
    for layer in module.modules():
        if isinstance(layer, nn.Linear) and layer.bias is not None:
            initialize(layer.bias, *args, **kwargs)


def example_inputs(
    spaces: Mapping[str, AnySpace], specification: Mapping[str, Any], device: torch.device
) -> dict[str, Any]:
    """Inputs on which any `compute` runs once: samples of the spaces, as long as a recurrent sequence."""
    rnn = specification.get("rnn", {})
    n_rows = rnn.get("sequence_length", 1)
    # A generator of its own: drawing an example leaves the global random state as it was.
    generator = torch.Generator(device).manual_seed(0)
    inputs: dict[str, Any] = {}
    for name, space in spaces.items():
        if isinstance(space, Space):
            inputs[name] = sample(space, (n_rows,), generator=generator, device=device)
        else:
            inputs[name] = None if space is None else torch.zeros(n_rows, n_features(space), device=device)
    if rnn:
        inputs["rnn"] = [torch.zeros(layers, n_rows, width, device=device) for layers, _, width in rnn["sizes"]]
    return inputs
