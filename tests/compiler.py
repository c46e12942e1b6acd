"""Tests that need a C++ compiler."""

import pytest

from layeredrl.nets.native.fully_connected import kernels_work

needs_compiler = pytest.mark.skipif(not kernels_work(), reason="no C++ compiler")
