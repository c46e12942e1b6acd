"""C++ is compiled once, and what can't be compiled is said once."""

import os
import stat
import subprocess

import pytest
import torch

from layeredrl.nets.native import library
from layeredrl.nets.native.library import load_library
from tests.compiler import needs_compiler

pytestmark = needs_compiler


@pytest.fixture
def source(tmp_path, monkeypatch):
    """A file of C++ in a folder with another, and a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "sources"
    folder.mkdir()
    (folder / "questions.cpp").write_text('extern "C" int question() { return 6 * 9; }')
    path = folder / "answers.cpp"
    path.write_text('extern "C" int answer() { return 42; }')
    yield path
    load_library.cache_clear()


def test_a_library_has_the_functions_of_all_files(source):
    library = load_library(source.parent)
    assert (library.question(), library.answer()) == (54, 42)


def test_a_library_is_compiled_once_for_each_version_of_the_source_and_the_compiler(source, monkeypatch):
    n_compilations, run = 0, subprocess.run

    def counting(*args, **kwargs):
        nonlocal n_compilations
        n_compilations += 1
        return run(*args, **kwargs)

    monkeypatch.setattr(subprocess, "run", counting)
    for _ in range(2):
        load_library.cache_clear()  # as another process would
        assert load_library(source.parent).answer() == 42
    assert n_compilations == 1
    source.write_text('extern "C" int answer() { return 43; }')
    load_library.cache_clear()
    assert load_library(source.parent).answer() == 43
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "another processor")
    load_library.cache_clear()
    assert load_library(source.parent).answer() == 43
    assert n_compilations == 3


def assert_reported_once(source, match):
    with pytest.warns(UserWarning, match=f"compile=True: goes on without its own kernels for CPUs, as {match}"):
        assert load_library(source.parent) is None
    assert load_library(source.parent) is None  # no second warning: it would be an error


def test_that_there_is_no_compiler_is_reported_once(source, monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(library.shutil, "which", lambda name: None)
    assert_reported_once(source, r"there is no C\+\+ compiler: install one .* or name it in CXX$")


def test_a_compiler_that_fails_is_reported_once(source):
    source.write_text("this is no C++")
    assert_reported_once(source, ".* failed: .*answers.cpp")


def test_a_compiler_that_does_not_exist_is_reported_once(source, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert_reported_once(source, "no-such-compiler failed: .*No such file")


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_a_cache_that_can_not_be_written_is_reported(source, tmp_path, monkeypatch):
    file = tmp_path / "a file"
    file.touch(mode=stat.S_IRUSR)
    monkeypatch.setenv("XDG_CACHE_HOME", str(file))
    assert_reported_once(source, ".* failed: .*Not a directory")
