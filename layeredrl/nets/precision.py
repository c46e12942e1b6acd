"""How exactly networks multiply where no gradient is asked for."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, get_args

import torch

MatmulPrecision = Literal["float32", "tf32", "bfloat16"]


def check_matmul_precision(precision: object) -> None:
    """A ValueError unless it is one that this torch can do."""
    known = get_args(MatmulPrecision)
    if precision not in known:
        raise ValueError(f"matmul_precision: got {precision!r}, expected one of {', '.join(known)}")
    if precision == "bfloat16" and not has_onednn():
        raise ValueError(f"matmul_precision: got {precision!r}, expected 'float32', as this torch lacks oneDNN")


def has_onednn() -> bool:
    """Whether there are the operators of oneDNN that `torch.compile` takes."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def layer_dtype(weight_dtype: torch.dtype, precision: MatmulPrecision) -> torch.dtype:
    """In which layers multiply on a CPU, and hand on what they have computed: TF32 is for GPUs."""
    # Double precision is asked for where it matters more than speed.
    return torch.bfloat16 if precision == "bfloat16" and weight_dtype == torch.float32 else weight_dtype


@contextmanager
def multiplying_on_gpu(precision: MatmulPrecision) -> Iterator[None]:
    """What is multiplied on a GPU in this context is multiplied in the given precision."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if precision == "tf32" else before)
    try:
        with torch.autocast("cuda", torch.bfloat16, enabled=precision == "bfloat16"):
            yield
    finally:
        torch.set_float32_matmul_precision(before)
