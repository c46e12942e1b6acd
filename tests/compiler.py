"""Tests that need a C++ compiler."""

import warnings

import pytest

from layeredrl.nets.native.library import kernels_work

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # that there is none
    needs_compiler = pytest.mark.skipif(not kernels_work(), reason="no C++ compiler")
