"""Functions run by `torch.compile`."""

import warnings
from collections.abc import Callable
from typing import Any

import torch

from layeredrl.nets.native.library import kernels_work


class Compiled:
    """A function that `torch.compile` has made one graph of; as it is, after one warning, where that doesn't work.

    Compiled anew for the second batch size, and then for all others at once. Only a function's arguments may decide
    what it does.

    Args:
        function: of tensors, modules and containers of these.
    """

    def __init__(self, function: Callable[..., Any]):
        self._function = function
        self._compiled: Callable[..., Any] | None = torch.compile(function, fullgraph=True)

    def __call__(self, *args: Any) -> Any:
        if self._compiled is None:
            return self._function(*args)
        try:
            return self._compiled(*args)
        except Exception as error:  # compilers fail in many ways
            result = self._function(*args)  # raises what isn't the compiler's fault
            self._compiled = None
            if kernels_work():  # otherwise, this has warned of the compiler
                reason = str(error).strip().splitlines()[0]
                warnings.warn(f"compile=True: goes on uncompiled, as torch.compile failed: {reason}", stacklevel=2)
            return result
