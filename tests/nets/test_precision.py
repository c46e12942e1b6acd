"""What products on GPUs keep of their factors, as far as a machine without one can tell."""

import pytest
import torch
from torch import nn

from layeredrl.nets.precision import layer_dtype, multiplying_on_gpu
from layeredrl.nets.stacked import Stacked

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.mark.parametrize(("precision", "expected"), [("float32", "highest"), ("tf32", "high")])
def test_products_are_as_before_afterwards_even_if_something_went_wrong(precision, expected):
    def go_wrong():
        with multiplying_on_gpu(precision):
            assert torch.get_float32_matmul_precision() == expected
            raise InterruptedError

    with pytest.raises(InterruptedError):
        go_wrong()
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16"])
def test_double_precision_stays(precision):
    assert layer_dtype(torch.float64, precision) == torch.float64


def test_on_a_processor_tf32_is_single_precision():
    assert layer_dtype(torch.float32, "tf32") == torch.float32


@needs_gpu
@torch.no_grad()
@pytest.mark.parametrize(("precision", "error"), [("float32", 1e-5), ("tf32", 2e-3), ("bfloat16", 2e-2)])
def test_what_products_on_a_gpu_lose(precision, error):
    layers = [nn.Linear(64, 8) for _ in range(3)]
    x = torch.randn(3, 100, 64)
    exact = torch.stack([layer.double()(rows.double()) for layer, rows in zip(layers, x, strict=True)])
    layers = [layer.float() for layer in layers]
    stacked = Stacked(layers, (torch.randn(5, 64),), matmul_precision=precision).to("cuda")
    got = stacked.select(None).run(x.to("cuda")).cpu()
    assert got.dtype == torch.float32
    assert (got - exact).abs().mean() < error * exact.std()
