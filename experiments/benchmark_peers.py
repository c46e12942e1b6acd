"""Other libraries that the benchmark compares with, each of which may be missing."""

from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version

BENCHMARK_EXTRA = ".venv/bin/pip install --constraint scripts/constraints.txt --editable '.[benchmark]'"


@dataclass(frozen=True)
class Peer:
    """Another library.

    Attributes:
        label: what it is called.
        distribution: what pip calls it.
        modules: what is imported of it.
        install: the command that installs it.
    """

    label: str
    distribution: str
    modules: tuple[str, ...]
    install: str = BENCHMARK_EXTRA

    @property
    def name(self) -> str:
        return f"{self.label} {version(self.distribution)}"

    def why_not(self) -> str | None:
        """One line that says why it can't be compared with, and what to do; None where it can."""
        try:
            for module in self.modules:
                import_module(module)
        except ImportError as error:
            reason = str(error).splitlines()[0]
            return f"Not compared with {self.label}: {reason}. To install it: {self.install}"
        return None


MBRL = Peer(
    "mbrl-lib",
    "mbrl",
    ("mbrl.env", "mbrl.models", "mbrl.planning", "mbrl.util.replay_buffer"),
    f"{BENCHMARK_EXTRA} && .venv/bin/pip install --no-deps mbrl==0.2.0",
)
PYTORCH_MPPI = Peer("pytorch-mppi", "pytorch-mppi", ("pytorch_mppi",))
TORCHRL = Peer("torchrl", "torchrl", ("torchrl.envs", "torchrl.modules"))
SKRL = Peer("skrl", "skrl", ("skrl.models.torch",), ".venv/bin/pip install --editable '.[dev]'")
