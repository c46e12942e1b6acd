"""C++ of this package, compiled at its first use and kept in the user's cache."""

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

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
SOURCES = Path(__file__).parent

Int, Pointer = ctypes.c_int64, ctypes.c_void_p


class Kernel:
    """A function of the library, bound at its first call.

    Args:
        name: its own.
        taken: types of its arguments.
        returned: that of its result; None: nothing.
    """

    def __init__(self, name: str, taken: Sequence[Any], returned: Any = None):
        self._name, self._taken, self._returned = name, taken, returned

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)

    @cached_property
    def _function(self) -> Any:
        library = load_library(SOURCES)
        assert library is not None, f"{self._name} was called where kernels_work() is false"
        function = library[self._name]
        function.argtypes, function.restype = self._taken, self._returned
        return function


def kernels_work() -> bool:
    """Whether this machine has the kernels; the first call ever compiles them, which takes half a minute.

    Where they can't be compiled, the first call warns of that.
    """
    return load_library(SOURCES) is not None


def kernels_serve(*tensors: Tensor) -> bool:
    """Whether kernels can be called for such numbers, of which `torch.compile` could make nothing."""
    are_plain = all(tensor.is_cpu and tensor.dtype == torch.float32 for tensor in tensors)
    return are_plain and not torch.compiler.is_compiling() and kernels_work()


def refuse_second_derivatives() -> None:
    """To be called by the way back, which kernels only go once."""
    if torch.is_grad_enabled():  # by create_graph=True
        raise RuntimeError("compile=True: gradients can't be differentiated again, expected compile=False for that")


def addresses(tensors: Sequence[Tensor | None]) -> Any:
    """Where they lie; None is null."""
    return (Pointer * len(tensors))(*(None if tensor is None else tensor.data_ptr() for tensor in tensors))


def numbers(values: Sequence[int]) -> Any:
    return (Int * len(values))(*values)


@cache
def load_library(sources: Path) -> ctypes.CDLL | None:
    """The functions of all C++ files in a folder; None, after one warning, where they can't be compiled."""
    compiler = os.environ.get("CXX") or next(filter(shutil.which, COMPILERS), None)
    if compiler is None:
        reason = f"there is no C++ compiler: install one ({', '.join(COMPILERS)}), or name it in CXX"
    else:
        try:
            return ctypes.CDLL(str(_compile(sources, compiler)))
        except (OSError, subprocess.CalledProcessError) as error:
            lines = (error.stderr if isinstance(error, subprocess.CalledProcessError) else str(error)).splitlines()
            said = next((line for line in lines if "error" in line.lower()), lines[0] if lines else repr(error))
            reason = f"{compiler} failed: {said}"
    warnings.warn(f"compile=True: goes on without its own kernels for CPUs, as {reason}", stacklevel=2)
    return None


def _compile(sources: Path, compiler: str) -> Path:
    """Where the compiled file lies, which is compiled once for each kind of processor and each of its versions."""
    architecture = ARCHITECTURES.get(torch.backends.cpu.get_cpu_capability(), ())
    command = [compiler, *FLAGS, *architecture]
    units, headers = sorted(sources.glob("*.cpp")), sorted(sources.glob("*.h"))
    key = hashlib.sha256(repr(command).encode() + b"".join(map(Path.read_bytes, units + headers))).hexdigest()[:16]
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "layeredrl"
    library = folder / f"kernels-{key}.so"
    if not library.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as unfinished:
            compiled = Path(unfinished, library.name)
            command += [*map(str, units), "-o", str(compiled)]
            subprocess.run(command, check=True, capture_output=True, text=True)
            compiled.replace(library)  # at once: other processes may be about to load it
    return library
