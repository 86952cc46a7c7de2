"""The two memories of the K210: how much a .tflite will need of them, and the check of what nncase reports.

6 MiB of general RAM hold the kmodel and the data of the CPU. 2 MiB of the KPU hold the maps that a layer reads and
writes. The estimate is made before compilation, so that the layer to change is named; nncase's own figures decide.
"""

import math
import re
from collections.abc import Sequence

from facelib.errors import FaceError
from facelib.runtimes.tflite import CONVOLUTIONS, Op

RAM_BYTES = 6 * 2**20
KPU_BYTES = 2 * 2**20


def estimate_ram(kpu_ops: Sequence[Op], cpu_ops: Sequence[Op]) -> int:
    """The least RAM in bytes that a model needs: its weights, and the two maps of its largest CPU operation.

    Args:
        kpu_ops: convolutions that the KPU computes, with weights of 8 bits.
        cpu_ops: operations that the CPU computes, in float32.
    """
    weights = sum(math.prod(op.inputs[1].shape) for op in kpu_ops)
    for op in cpu_ops:
        constants = op.inputs[1:2] if op.kind in CONVOLUTIONS else [each for each in op.inputs if each.data is not None]
        weights += 4 * sum(math.prod(tensor.shape) for tensor in constants)
    maps = [4 * (math.prod(op.inputs[0].shape) + math.prod(op.output.shape)) for op in cpu_ops]
    return weights + max(maps, default=0)


def kpu_bytes(height: int, width: int, channels: int) -> int:
    """Bytes of an 8-bit map in the KPU's memory: rows of 64 bytes, which narrow maps share between 2 or 4 channels."""
    shared = 4 if width <= 16 else 2 if width <= 32 else 1
    rows = -(-width // 64) * height
    return 64 * rows * -(-channels // min(channels, shared))


def parse_memory(report: str) -> dict[str, int]:
    """Bytes by name from nncase's MEMORY USAGES: '.data  588.00 KB (602112 B)' -> {'data': 602112}."""
    table = report.partition("MEMORY USAGES")[2]
    found = re.findall(r"^\.?(\w+)\s+[\d.]+ \w+\s+\((\d+) B\)", table, re.MULTILINE)
    memory = {name.lower(): int(size) for name, size in found}
    if not {"data", "model", "total"} <= memory.keys():
        raise RuntimeError(f"nncase reported no memory usage: {report[-500:]!r}")
    return memory


def check_memory(memory: dict[str, int], where: str) -> None:
    """Checks that a compiled model fits the RAM.

    Args:
        memory: bytes by name, of `parse_memory`.
        where: names the model in the error.

    Raises:
        FaceError: it needs more.
    """
    if memory["total"] > RAM_BYTES:
        raise FaceError(
            f"The K210 has 6 MiB of RAM. '{where}' needs {memory['total'] / 2**20:.2f}: model "
            f"{memory['model'] / 2**20:.2f}, data {memory['data'] / 2**20:.2f}. Nothing was written: lower model.width."
        )
