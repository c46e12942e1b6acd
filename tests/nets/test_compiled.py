"""Compiled functions answer as plain ones, and go on as these where compiling fails."""

from contextlib import nullcontext

import pytest
import torch

from layeredrl.nets import compiled
from layeredrl.nets.compiled import Compiled
from tests.compiler import needs_compiler


def scaled_sum(x, scale):
    return (x * scale).sum(dim=-1)


@pytest.fixture
def x():
    return torch.randn(5, 3)


@needs_compiler
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch uses what it deprecates
def test_a_compiled_function_answers_as_it_is(x, unchecked):
    torch.testing.assert_close(Compiled(scaled_sum)(x, 2.0), scaled_sum(x, 2.0))


def failing(function, fullgraph):
    def compiled(*args):
        raise RuntimeError("no compiler here\nand a long trace")

    return compiled


@pytest.mark.parametrize("kernels_fail", [False, True])
def test_where_no_compiler_works_one_warning_says_so(x, kernels_fail, monkeypatch):
    monkeypatch.setattr(torch, "compile", failing)
    monkeypatch.setattr(compiled, "kernels_work", lambda: not kernels_fail)
    function = Compiled(scaled_sum)
    # Where kernels fail, that they do has been said.
    said = r"compile=True: goes on uncompiled, .* failed: no compiler here$"
    with nullcontext() if kernels_fail else pytest.warns(UserWarning, match=said):
        first = function(x, 2.0)
    assert torch.equal(first, scaled_sum(x, 2.0))
    assert torch.equal(function(x, 3.0), scaled_sum(x, 3.0))  # no second warning: it would be an error


def test_mistakes_are_raised_as_without_compiling(x, monkeypatch):
    monkeypatch.setattr(torch, "compile", failing)
    with pytest.raises(IndexError, match="Dimension out of range"):
        Compiled(lambda x: x.sum(dim=7))(x)
