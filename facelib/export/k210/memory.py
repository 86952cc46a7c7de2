"""The memory of the K210: its general RAM, and what a compiled model needs of it."""

import re

from facelib.errors import FaceError

RAM_BYTES = 6 * 2**20


def parse_memory(report: str) -> dict[str, int]:
    """Bytes by name of nncase's MEMORY USAGES: '.data  588.00 KB (602112 B)' -> {'data': 602112}."""
    table = report.partition("MEMORY USAGES")[2]
    found = re.findall(r"^\.?(\w+)\s+[\d.]+ \w+\s+\((\d+) B\)", table, re.MULTILINE)
    memory = {name.lower(): int(size) for name, size in found}
    if not {"data", "model", "total"} <= memory.keys():
        raise RuntimeError(f"nncase reported no memory usage: {report[-500:]!r}")
    return memory


def check_memory(memory: dict[str, int], where: str) -> None:
    """Raises unless the model with its data fits the K210's general RAM."""
    if memory["total"] > RAM_BYTES:
        raise FaceError(
            f"The K210 has 6 MiB of RAM. '{where}' needs {memory['total'] / 2**20:.2f}: model "
            f"{memory['model'] / 2**20:.2f}, data {memory['data'] / 2**20:.2f}. Nothing was written: lower model.width."
        )
