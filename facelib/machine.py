"""The cores, memory, disk, clock and temperature of this machine, as far as this process may use or read them."""

import contextlib
import os
import platform
import re
import time
from collections.abc import Sequence
from pathlib import Path

PROC = Path("/proc")
SYS = Path("/sys")
CGROUP = Path("/sys/fs/cgroup")
_CHUNK = 8 << 20  # bytes of one read
_DISK_SECONDS = 1.0


def cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor() -> str:
    """The name of the processor, such as "AMD EPYC 7763"."""
    info = PROC / "cpuinfo"
    text = info.read_text(encoding="utf-8", errors="replace") if info.is_file() else ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return " ".join(found[1].split()) if found else platform.machine()


def board() -> str | None:
    """The name of the board, such as "Raspberry Pi 5 Model B Rev 1.0"; None where no device tree says it."""
    model = PROC / "device-tree" / "model"
    return model.read_text(encoding="utf-8", errors="replace").strip("\0\n") if model.is_file() else None


def is_emulated() -> bool:
    """Whether QEMU runs this process on a CPU of another family. False where the kernel does not say its own."""
    kernel = PROC / "sys" / "kernel" / "arch"
    return kernel.is_file() and _is_arm(kernel.read_text(encoding="utf-8")) != _is_arm(platform.machine())


def _is_arm(machine: str) -> bool:
    return machine.lower().startswith(("arm", "aarch64"))


def temperature() -> float | None:
    """Degrees Celsius of the hottest sensor; None where none can be read."""
    values = _numbers_of("class/thermal/thermal_zone*/temp")
    return max(values) / 1000 if values else None


def clock_mhz() -> float | None:
    """MHz of the fastest core at this moment; None where the system does not tell."""
    values = _numbers_of("devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq")
    return max(values) / 1000 if values else None


def _numbers_of(pattern: str) -> list[int]:
    """The numbers in files of /sys. A sensor that is switched off gives an error in place of a number."""
    found = []
    for path in SYS.glob(pattern):
        with contextlib.suppress(OSError, ValueError):
            found.append(int(path.read_text(encoding="utf-8")))
    return found


def peak_bytes() -> int | None:
    """Bytes of memory that this process held at most; None where the system does not tell."""
    return _kilobytes(PROC / "self" / "status", "VmHWM")


def total_bytes() -> int | None:
    """Bytes of memory that this process may use at most; None if the system does not tell."""
    total, limit = _from_meminfo("MemTotal"), _from_cgroup("memory.max")
    return total if total is None or limit is None else min(total, limit)


def free_bytes() -> int | None:
    """Bytes of memory that are free for this process; None if the system does not tell."""
    free, limit, used = _from_meminfo("MemAvailable"), _from_cgroup("memory.max"), _from_cgroup("memory.current")
    return free if free is None or limit is None or used is None else min(free, limit - used)


def _from_meminfo(name: str) -> int | None:
    return _kilobytes(PROC / "meminfo", name)


def _kilobytes(info: Path, name: str) -> int | None:
    lines = info.read_text(encoding="utf-8").split("\n") if info.is_file() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), None)


def _from_cgroup(name: str) -> int | None:
    file = CGROUP / name
    text = file.read_text(encoding="utf-8").strip() if file.is_file() else ""
    return int(text) if text.isdigit() else None  # "max" is no limit


def machine_rows(files: Sequence[Path]) -> list[tuple[str, str]]:
    """(name, value) of cores, memory and disk, for a table.

    Args:
        files: on the disk that is to be measured; they are read.
    """
    total, free = total_bytes(), free_bytes()
    memory = "unknown" if total is None or free is None else f"{total / 1e9:.1f} GB, {free / 1e9:.1f} GB free"
    speed, done = disk_speed(files)
    disk = f"{speed / 1e6:,.0f} MB/s, {done / 1e6:,.1f} MB of the data read in sequence" if done else "not measured"
    return [("cores", f"{cores()} of {os.cpu_count()}, {processor()}"), ("RAM", memory), ("disk", disk)]


def disk_speed(files: Sequence[Path]) -> tuple[float, int]:
    """(bytes/s, bytes read) of reading files in sequence for a second, from the disk and not from the memory.

    Linux drops what it holds of them first. A file system in memory, or the cache of a virtual machine's host, stays.
    """
    done, start = 0, time.perf_counter()
    for file in files:
        with open(file, "rb", buffering=0) as opened:
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            while chunk := opened.read(_CHUNK):
                done += len(chunk)
                if time.perf_counter() - start > _DISK_SECONDS:
                    return done / (time.perf_counter() - start), done
    return done / max(1e-9, time.perf_counter() - start), done
