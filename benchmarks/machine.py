"""The conditions of a measurement: processor, cores, how busy they were, memory of a process."""

import os
import platform
import time
from pathlib import Path


def read_cpu() -> tuple[int, int]:
    """(busy, idle) ticks of all cores so far; zeros where the system does not say."""
    stat = Path("/proc/stat")
    if not stat.is_file():
        return 0, 0
    ticks = [int(word) for word in stat.read_text(encoding="utf-8").split("\n")[0].split()[1:8]]
    return sum(ticks) - ticks[3] - ticks[4], ticks[3] + ticks[4]


def busy_share(before: tuple[int, int]) -> float:
    """Share of all cores in use since `before` was read, by us and by others; on two cores, one busy is 0.5."""
    busy, idle = (now - then for now, then in zip(read_cpu(), before, strict=True))
    return round(busy / max(1, busy + idle), 2)


def machine() -> str:
    """Processor and number of cores."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").split("\n") if info.is_file() else []
    model = next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor()
    )
    return f"{model}, {sum(line.startswith('processor') for line in lines) or '?'} cores"


def peak_memory() -> int | None:
    """Bytes that this process has had in memory at most; None where the system does not say.

    Not getrusage: its maximum begins with the memory of the process that started this one.
    """
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="utf-8").split("\n") if status.is_file() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)


def resident_memory() -> int:
    """Bytes of this process in memory now; Linux only."""
    return int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def versions() -> str:
    """Of Python and TensorFlow, and the day."""
    import tensorflow as tf

    return f"Python {platform.python_version()}, TensorFlow {tf.__version__}, {time.strftime('%F')}"
