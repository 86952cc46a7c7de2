"""Checks a .tflite for the K210, operation by operation: the limits of its KPU, of its memory and of nncase 1.x.

The KPU, the chip's accelerator, computes 1x1 and 3x3 convolutions of 8-bit numbers. nncase computes the rest on the CPU
in float32. There are two memories: 6 MiB of general RAM hold the kmodel and the data of the CPU, 2 MiB of the KPU hold
the maps that a layer reads and writes. The need is estimated before compilation, so that the layer to change is named;
nncase's own figures decide. Learned from kendryte/nncase: docs/FAQ_EN.md of 0.x (sizes), docs/tflite_ops.md, and
modules/k210 of 1.x (what it gives to the KPU, rows of a map).
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from facelib.errors import FaceError
from facelib.runtimes.tflite import CONVOLUTIONS, Op

RAM_BYTES = 6 * 2**20
KPU_BYTES = 2 * 2**20

MAX_CHANNELS, MIN_SIDE, MAX_HEIGHT, MAX_WIDTH = 1024, 4, 240, 320

# Fused into a convolution, computed by the KPU like one (a sum of two maps), or free.
BESIDE = ("ADD", "CONCATENATION", "LEAKY_RELU", "PAD", "RELU", "RELU6", "RELU_N1_TO_1", "RESHAPE", "SQUEEZE")
POOLS = ("AVERAGE_POOL_2D", "MAX_POOL_2D")
ON_CPU = (
    "ABS", "BATCH_TO_SPACE_ND", "CAST", "CEIL", "COS", "DIV", "EXP", "FLOOR", "FLOOR_DIV", "FLOOR_MOD",
    "FULLY_CONNECTED", "GATHER", "GATHER_ND", "L2_NORMALIZATION", "LOG", "LOGISTIC", "LOG_SOFTMAX", "MAXIMUM", "MEAN",
    "MINIMUM", "MIRROR_PAD", "MUL", "NEG", "ONE_HOT", "PACK", "PADV2", "POW", "REDUCE_MAX", "REDUCE_MIN",
    "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR", "ROUND", "RSQRT", "SHAPE", "SIN", "SLICE", "SOFTMAX",
    "SPACE_TO_BATCH_ND", "SQRT", "SQUARE", "SQUARED_DIFFERENCE", "STRIDED_SLICE", "SUB", "SUM", "TANH", "TRANSPOSE",
    "TRANSPOSE_CONV",
)  # fmt: skip
ELEMENTWISE = ("ADD", "SUB", "MUL", "DIV")
VALID = 1  # padding in TFLite's schema; 0 is SAME
INTEGERS = ("INT4", "INT8", "UINT8", "INT16", "FLOAT16")  # types of quantised tensors; indices are INT32 and INT64

SWAP = (
    "python tools/swap_activation.py EMBEDDER.h5 OUT --to relu6 --data DATA"  # leaky_relu compiles too, with more RAM
)
PAD = 'train with model.padding = "symmetric" (recipes/k210_mobilefacenet.toml)'


@dataclass(frozen=True)
class Finding:
    """What the check says of one layer.

    Attributes:
        layer: name.
        what: what the layer has and what the K210 takes; in an error also what to do.
    """

    layer: str
    what: str


@dataclass
class Lint:
    """The result of the check.

    Attributes:
        errors: layers that must change.
        notes: layers that run on the CPU.
        on_kpu: number of convolutions on the KPU.
        kpu_bytes: the largest use of the KPU's 2 MiB by one layer, bytes.
        kpu_layer: name of that layer.
        ram_bytes: the least RAM that the model needs, bytes.
    """

    errors: list[Finding] = field(default_factory=list)
    notes: list[Finding] = field(default_factory=list)
    on_kpu: int = 0
    kpu_bytes: int = 0
    kpu_layer: str = ""
    ram_bytes: int = 0


def check_ops(ops: list[Op]) -> Lint:
    """Checks the operations of a float32 model, in the order of `read_ops`."""
    lint = Lint()
    tensors = [tensor for op in ops for tensor in (*op.inputs, op.output)]
    if quantised := next((tensor for tensor in tensors if tensor.dtype in INTEGERS), None):
        lint.errors.append(
            Finding(
                quantised.name,
                f"is {quantised.dtype}: nncase needs a float32 model, which it quantises itself. Make this model: "
                "python pb_2_tflite.py IN.pb --mode float",
            )
        )
        return lint  # the other rules are for float models
    made_by = {op.output.index: op for op in ops}
    raw = {ops[0].inputs[0].index} if ops else set()  # tensor numbers: the pixels, shifted and scaled
    kpu_ops: list[Op] = []
    cpu_ops: list[Op] = []
    for op in ops:
        if op.kind in CONVOLUTIONS:
            computed_by = kpu_ops if _check_convolution(op, made_by, lint) else cpu_ops
            computed_by.append(op)
        elif slope := _prelu_slope(op, made_by):
            lint.errors.append(Finding(op.layer, f"is a PReLU of {slope} slopes, which the KPU cannot compute: {SWAP}"))
        elif op.kind in ELEMENTWISE and op.inputs[0].index in raw and op.inputs[1].data is not None:
            raw.add(op.output.index)  # becomes a table of 256 values
        elif _feeds_prelu(op, ops, made_by):
            continue
        elif not _is_beside(op):
            _check_other(op, lint)
            cpu_ops.append(op)
    lint.ram_bytes = estimate_ram(kpu_ops, cpu_ops)
    if lint.ram_bytes > RAM_BYTES:
        lint.errors.append(
            Finding(
                "the whole", f"needs {lint.ram_bytes / 2**20:.1f} MiB or more, but the K210 has 6: lower model.width"
            )
        )
    return lint


def _check_convolution(op: Op, made_by: dict[int, Op], lint: Lint) -> bool:
    """Adds the findings of a convolution; returns whether it is one for the KPU."""
    before = made_by.get(op.inputs[0].index)
    is_padded = before is not None and before.kind == "PAD" and before.inputs[1].data is not None
    padded_by = before if is_padded and op.options["padding"] == VALID else None
    source = padded_by.inputs[0] if padded_by else op.inputs[0]
    (_, height, width, channels), filters = source.shape, op.output.shape[3]
    kernel, stride = op.inputs[1].shape[1:3], (op.options["strideH"], op.options["strideW"])
    errors = []
    if max(channels, filters) > MAX_CHANNELS:
        errors.append(
            f"has {max(channels, filters):,} channels, but the KPU supports at most {MAX_CHANNELS:,}: lower model.width"
        )
    if height > MAX_HEIGHT or width > MAX_WIDTH:
        errors.append(
            f"sees a map of {height}x{width}, but the KPU supports at most {MAX_HEIGHT}x{MAX_WIDTH}: "
            "use smaller faces (--crop)"
        )
    padding = _padding(op, padded_by, (height, width), kernel, stride)
    is_even = all(pad_before == pad_after for pad_before, pad_after in padding)
    if kernel == (3, 3) and not is_even:
        errors.append(f"pads {_text(padding)} (before, after), the KPU needs the same padding before and after: {PAD}")
    lint.errors += [Finding(op.layer, what) for what in errors]
    reason = _cpu_reason(op, kernel, stride, (height, width))
    if reason:
        lint.notes.append(Finding(op.layer, f"runs on the CPU: {reason}"))
        return False
    if errors:
        return True
    lint.on_kpu += 1
    is_depthwise = op.kind == "DEPTHWISE_CONV_2D"
    # The KPU computes stride 1. Of a full convolution it drops the positions between the strides itself.
    out_height, out_width = op.output.shape[1:3] if stride != (1, 1) and not is_depthwise else (height, width)
    needed = kpu_bytes(height, width, channels) + kpu_bytes(out_height, out_width, filters)
    if needed > KPU_BYTES:
        what = (
            f"has maps of {needed / 2**20:.1f} MiB for its input and output, but the KPU has 2: lower model.width, or "
            "use smaller faces"
        )
        lint.errors.append(Finding(op.layer, what))
    if needed > lint.kpu_bytes:
        lint.kpu_bytes, lint.kpu_layer = needed, op.layer
    return True


def _padding(op: Op, padded_by: Op | None, size, kernel, stride) -> list[tuple[int, int]]:
    """[(above, below), (left, right)] of a convolution, or of the PAD operation before it."""
    padding = padded_by.inputs[1].data if padded_by is not None else None
    if padding is not None:
        return [(int(before), int(after)) for before, after in padding[1:3]]
    if op.options["padding"] == VALID:
        return [(0, 0), (0, 0)]
    totals = [max((-(-n // s) - 1) * s + k - n, 0) for n, k, s in zip(size, kernel, stride, strict=True)]
    return [(total // 2, total - total // 2) for total in totals]  # TensorFlow's SAME: an odd pixel is added at the end


def _cpu_reason(op: Op, kernel, stride, size) -> str:
    """Why nncase computes a convolution on the CPU; '' if the KPU does."""
    if kernel not in ((1, 1), (3, 3)):
        return f"its kernel is {kernel[0]}x{kernel[1]}, but the KPU has only 1x1 and 3x3"
    if stride not in ((1, 1), (2, 2)):
        return f"its stride is {stride[0]}x{stride[1]}, but the KPU has only 1 and 2"
    if (op.options["dilationHFactor"], op.options["dilationWFactor"]) != (1, 1):
        return "the KPU does not support dilation"
    if op.kind == "DEPTHWISE_CONV_2D" and op.output.shape[3] != op.inputs[0].shape[3]:
        return "the KPU supports only one depthwise filter per channel"
    if min(size) < MIN_SIDE and kernel != (1, 1):  # nncase pads the map of a 1x1 kernel to 4x4
        return f"its map is {size[0]}x{size[1]}, but the KPU needs at least {MIN_SIDE}x{MIN_SIDE}"
    return ""


def _prelu_slope(op: Op, made_by: dict[int, Op]) -> int:
    """The number of slopes of a PReLU, as one operation or as max(x, a * x); 0 for other operations.

    If all slopes are equal it is a LeakyReLU. nncase recognises it as one, and 0 is returned.
    """
    if op.kind == "PRELU":
        return math.prod(op.inputs[1].shape)
    slopes = _scaled_by(op, made_by) if op.kind == "MAXIMUM" else None
    return 0 if slopes is None or np.ptp(slopes) == 0 else slopes.size


def _scaled_by(op: Op, made_by: dict[int, Op]) -> np.ndarray | None:
    """The constant `a` of `op(x, a * x)`; None if `op` is something else."""
    for x, other in (op.inputs, op.inputs[::-1]):
        product = made_by.get(other.index)
        if product is not None and product.kind == "MUL":
            for factor, slopes in (product.inputs, product.inputs[::-1]):
                if factor.index == x.index and slopes.data is not None:
                    return slopes.data
    return None


def _feeds_prelu(op: Op, ops: list[Op], made_by: dict[int, Op]) -> bool:
    """Whether `op` is part of a LeakyReLU: the product in max(x, a * x), or that maximum."""
    if op.kind == "MAXIMUM":
        return _scaled_by(op, made_by) is not None
    users = [user for user in ops if any(tensor.index == op.output.index for tensor in user.inputs)]
    return op.kind == "MUL" and len(users) == 1 and users[0].kind == "MAXIMUM" and _feeds_prelu(users[0], ops, made_by)


def _is_beside(op: Op) -> bool:
    if op.kind == "ADD":
        return all(tensor.data is None for tensor in op.inputs)
    if op.kind in POOLS:
        window = (op.options["filterHeight"], op.options["filterWidth"], op.options["strideH"], op.options["strideW"])
        return window in ((2, 2, 2, 2), (4, 4, 4, 4))
    return op.kind in BESIDE


def _check_other(op: Op, lint: Lint) -> None:
    if op.kind in (*ON_CPU, *POOLS, *BESIDE):
        lint.notes.append(Finding(op.layer, f"runs on the CPU: the KPU does not support such a {op.kind}"))
    else:
        what = f"is {op.kind}, which nncase 1.9 does not support: build the layer from convolutions, sums and ReLU6"
        lint.errors.append(Finding(op.layer, what))


def _text(padding: list[tuple[int, int]]) -> str:
    return " and ".join(f"{before}, {after}" for before, after in dict.fromkeys(padding))


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
            f"The K210 has 6 MiB of RAM. '{where}' needs {memory['total'] / 2**20:.2f} MiB: model "
            f"{memory['model'] / 2**20:.2f}, data {memory['data'] / 2**20:.2f}. Nothing was written: lower "
            "model.width."
        )
