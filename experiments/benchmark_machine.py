"""The machine that the benchmark runs on, and who else uses it."""

import os
import platform
import time
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Self

import torch

PROC = Path("/proc")


def describe_machine(device: torch.device) -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "processor": processor_name(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "date": date.today().isoformat(),
    }


def processor_name() -> str:
    """As the system has it; Python itself may know no more than its architecture."""
    cpuinfo = PROC / "cpuinfo"
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


@dataclass(frozen=True)
class ProcessorTime:
    """Seconds that processors have worked so far.

    Threads that wait for each other suffer most from other work beside them: a ratio can be off by several times,
    and repeats don't show it if the other work lasts.

    Attributes:
        everyone: for all processes, and for other machines on the same processors; None where that isn't known.
        own: for this process and those it has started.
        clock: that on the wall.
    """

    everyone: float | None
    own: float
    clock: float

    @classmethod
    def now(cls) -> Self:
        own = os.times()
        return cls(
            _everyone(), own.user + own.system + own.children_user + own.children_system, time.perf_counter()
        )

    def others_since(self, start: "ProcessorTime") -> float | None:
        """How many processors others kept busy on average; None where that isn't known."""
        if self.everyone is None or start.everyone is None:
            return None
        others = (self.everyone - start.everyone) - (self.own - start.own)
        return max(0.0, others / (self.clock - start.clock))


def _everyone() -> float | None:
    stat = PROC / "stat"
    if not stat.exists():
        return None
    user, nice, system, _idle, _iowait, irq, softirq, steal, *_ = map(int, stat.read_text().split()[1:11])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
