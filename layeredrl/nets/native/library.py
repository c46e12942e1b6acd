"""C++ of this package, compiled at its first use and kept in the user's cache."""

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
import warnings
from functools import cache
from pathlib import Path

import torch

FLAGS = (
    "-std=c++17",
    "-O3",  # -O2 leaves some small loops as they are, whose vectors then go through memory
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-fvisibility-inlines-hidden",
    "-fopenmp",
    "-fPIC",
    "-shared",
)
# By what torch says of the processor. Named, not `native`, as machines of several kinds may share a home directory.
ARCHITECTURES = {
    "AVX2": ("-march=x86-64-v3",),
    "AVX512": ("-march=x86-64-v4", "-mamx-tile", "-mamx-bf16"),
}
COMPILERS = ("c++", "g++", "clang++")


@cache
def load_library(source: Path) -> ctypes.CDLL | None:
    """The functions of a C++ file, which may include its neighbours.

    None where there is no compiler, or, after one warning, where it fails.
    """
    compiler = os.environ.get("CXX") or next(filter(shutil.which, COMPILERS), None)
    if compiler is None:
        return None  # torch.compile, which comes next, warns of that
    try:
        return ctypes.CDLL(str(_compile(source, compiler)))
    except (OSError, subprocess.CalledProcessError) as error:
        lines = (error.stderr if isinstance(error, subprocess.CalledProcessError) else str(error)).splitlines()
        reason = next((line for line in lines if "error" in line.lower()), lines[0] if lines else repr(error))
        warnings.warn(
            f"compile=True: goes on without its own kernels, as {compiler} failed: {reason}", stacklevel=2
        )
        return None


def _compile(source: Path, compiler: str) -> Path:
    """Where the compiled file lies, which is compiled once for each kind of processor and each of its versions."""
    architecture = ARCHITECTURES.get(torch.backends.cpu.get_cpu_capability(), ())
    command = [compiler, *FLAGS, *architecture]
    sources = sorted([source, *source.parent.glob("*.h")])
    key = hashlib.sha256(repr(command).encode() + b"".join(map(Path.read_bytes, sources))).hexdigest()[:16]
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "layeredrl"
    library = folder / f"{source.stem}-{key}.so"
    if not library.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as unfinished:
            compiled = Path(unfinished, library.name)
            command += [str(source), "-o", str(compiled)]
            subprocess.run(command, check=True, capture_output=True, text=True)
            compiled.replace(library)  # at once: other processes may be about to load it
    return library
