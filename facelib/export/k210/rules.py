"""What the K210 takes: the rules of its KPU and of nncase 1.x, applied to a .tflite layer by layer.

The K210 has 6 MB of general RAM and 2 MB for the feature maps of its accelerator, the KPU, which does 1x1 and 3x3
convolutions of 8-bit numbers. nncase computes the rest on the CPU in float32. Learned from kendryte/nncase:
docs/FAQ_EN.md of 0.x (sizes), docs/tflite_ops.md, and modules/k210 of 1.x (what it gives to the KPU, rows of a map).
"""

import math
from dataclasses import dataclass, field

import numpy as np

from facelib.export.k210.memory import RAM_BYTES
from facelib.runtimes.tflite import Op

KPU_BYTES = 2 * 2**20
MAX_CHANNELS, MIN_SIDE, MAX_HEIGHT, MAX_WIDTH = 1024, 4, 240, 320

CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D")
# Fused into a convolution, done by the KPU as one (a sum of two maps), or free.
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
VALID = 1  # of the schema's padding; the other is SAME
INTEGERS = ("INT4", "INT8", "UINT8", "INT16", "FLOAT16")  # what quantisers leave; indices are INT32 and INT64

SWAP = (
    "python tools/swap_activation.py EMBEDDER.h5 OUT --to relu6 --data DATA"  # leaky_relu compiles too, with more RAM
)
PAD = 'train with model.padding = "symmetric" (recipes/k210_mobilefacenet.toml)'


@dataclass(frozen=True)
class Finding:
    """layer: which.   what: what it has, what the K210 has, and for an error what to do."""

    layer: str
    what: str


@dataclass
class Lint:
    """What a .tflite is to the K210.

    errors: must change.   notes: work, on the CPU.   on_kpu: convolutions of the KPU.
    kpu_bytes, kpu_layer: the most that one layer needs of the KPU's 2 MiB.
    ram_bytes: what the model needs at least: its weights, and the two maps of its largest CPU layer, in float32.
    """

    errors: list[Finding] = field(default_factory=list)
    notes: list[Finding] = field(default_factory=list)
    on_kpu: int = 0
    kpu_bytes: int = 0
    kpu_layer: str = ""
    ram_bytes: int = 0


def check_ops(ops: list[Op]) -> Lint:
    """Holds every operation of a model against the rules."""
    lint = Lint()
    tensors = [tensor for op in ops for tensor in (*op.inputs, op.output)]
    if quantised := next((tensor for tensor in tensors if tensor.dtype in INTEGERS), None):
        lint.errors.append(
            Finding(
                quantised.name,
                f"is {quantised.dtype}: nncase quantises a float32 model itself. Make one: python pb_2_tflite.py IN.pb "
                f"--mode float",
            )
        )
        return lint  # the rest is meant for float models
    made_by = {op.output.index: op for op in ops}
    raw = {ops[0].inputs[0].index} if ops else set()  # the pixels, and what only shifts and scales them
    weights, largest = 0, 0
    for op in ops:
        if op.kind in CONVOLUTIONS:
            on_kpu = _check_convolution(op, made_by, lint)
            weights += math.prod(op.inputs[1].shape) * (1 if on_kpu else 4)
            largest = max(largest, 0 if on_kpu else _float_maps(op))
        elif slope := _prelu_slope(op, made_by):
            lint.errors.append(Finding(op.layer, f"is a PReLU of {slope} slopes, which the KPU has not: {SWAP}"))
        elif op.kind in ELEMENTWISE and op.inputs[0].index in raw and op.inputs[1].data is not None:
            raw.add(op.output.index)  # a table of 256 values
        elif _feeds_prelu(op, ops, made_by):
            continue
        elif not _is_beside(op):
            _check_other(op, lint)
            largest = max(largest, _float_maps(op))
            weights += 4 * sum(tensor.data.size for tensor in op.inputs if tensor.data is not None)
    lint.ram_bytes = weights + largest
    if lint.ram_bytes > RAM_BYTES:
        lint.errors.append(
            Finding("the whole", f"needs {lint.ram_bytes / 2**20:.1f} MiB or more of 6: lower model.width")
        )
    return lint


def _check_convolution(op: Op, made_by: dict[int, Op], lint: Lint) -> bool:
    """Adds what is to be said of a convolution; whether it runs on the KPU."""
    before = made_by.get(op.inputs[0].index)
    is_padded = before is not None and before.kind == "PAD" and before.inputs[1].data is not None
    padded_by = before if is_padded and op.options["padding"] == VALID else None
    source = padded_by.inputs[0] if padded_by else op.inputs[0]
    (_, height, width, channels), filters = source.shape, op.output.shape[3]
    kernel, stride = op.inputs[1].shape[1:3], (op.options["strideH"], op.options["strideW"])
    errors = []
    if max(channels, filters) > MAX_CHANNELS:
        errors.append(f"has {max(channels, filters):,} channels, the KPU at most {MAX_CHANNELS:,}: lower model.width")
    if height > MAX_HEIGHT or width > MAX_WIDTH:
        errors.append(
            f"sees a map of {height}x{width}, the KPU at most {MAX_HEIGHT}x{MAX_WIDTH}: take smaller faces (--crop)"
        )
    padding = _padding(op, padded_by, (height, width), kernel, stride)
    is_even = all(pad_before == pad_after for pad_before, pad_after in padding)
    if kernel == (3, 3) and not is_even:
        errors.append(f"pads {_text(padding)} (before, after), the KPU as much before as after: {PAD}")
    lint.errors += [Finding(op.layer, what) for what in errors]
    reason = _cpu_reason(op, kernel, stride, (height, width))
    if reason:
        lint.notes.append(Finding(op.layer, f"runs on the CPU: {reason}"))
        return False
    if errors:
        return True
    lint.on_kpu += 1
    is_depthwise = op.kind == "DEPTHWISE_CONV_2D"
    # The KPU computes every position. Of a full convolution it drops those between the strides itself.
    made = op.output.shape[1:3] if stride != (1, 1) and not is_depthwise else (height, width)
    needed = kpu_bytes(height, width, channels) + kpu_bytes(*made, filters)
    if needed > KPU_BYTES:
        what = f"has maps of {needed / 2**20:.1f} MiB in and out, the KPU 2: lower model.width, or take smaller faces"
        lint.errors.append(Finding(op.layer, what))
    if needed > lint.kpu_bytes:
        lint.kpu_bytes, lint.kpu_layer = needed, op.layer
    return True


def kpu_bytes(height: int, width: int, channels: int) -> int:
    """Bytes of an 8-bit map in the KPU's memory: rows of 64 bytes, which narrow maps share between 2 or 4 channels."""
    shared = 4 if width <= 16 else 2 if width <= 32 else 1
    rows = -(-width // 64) * height
    return 64 * rows * -(-channels // min(channels, shared))


def _padding(op: Op, padded_by: Op | None, size, kernel, stride) -> list[tuple[int, int]]:
    """[(above, below), (left, right)] of a convolution, its own or that of the PAD before it."""
    if padded_by is not None:
        return [tuple(map(int, pair)) for pair in padded_by.inputs[1].data[1:3]]
    if op.options["padding"] == VALID:
        return [(0, 0), (0, 0)]
    totals = [max((-(-n // s) - 1) * s + k - n, 0) for n, k, s in zip(size, kernel, stride, strict=True)]
    return [(total // 2, total - total // 2) for total in totals]  # TensorFlow's SAME: the odd one goes after


def _cpu_reason(op: Op, kernel, stride, size) -> str:
    """Why nncase leaves a convolution to the CPU; '' when the KPU does it."""
    if kernel not in ((1, 1), (3, 3)):
        return f"its kernel is {kernel[0]}x{kernel[1]}, the KPU's are 1x1 and 3x3"
    if stride not in ((1, 1), (2, 2)):
        return f"its stride is {stride[0]}x{stride[1]}, the KPU's are 1 and 2"
    if (op.options["dilationHFactor"], op.options["dilationWFactor"]) != (1, 1):
        return "the KPU has no dilation"
    if op.kind == "DEPTHWISE_CONV_2D" and op.output.shape[3] != op.inputs[0].shape[3]:
        return "the KPU has one depthwise filter a channel"
    if min(size) < MIN_SIDE and kernel != (1, 1):  # for a 1x1 kernel nncase fills the map up to 4x4
        return f"its map is {size[0]}x{size[1]}, the KPU's at least {MIN_SIDE}x{MIN_SIDE}"
    return ""


def _prelu_slope(op: Op, made_by: dict[int, Op]) -> int:
    """How many different slopes a PReLU has, as an op or written max(x, a * x); 0 for anything else.

    One slope for all channels is a LeakyReLU, and nncase takes it for one.
    """
    if op.kind == "PRELU":
        return math.prod(op.inputs[1].shape)
    slopes = _scaled_by(op, made_by) if op.kind == "MAXIMUM" else None
    return 0 if slopes is None or np.ptp(slopes) == 0 else slopes.size


def _scaled_by(op: Op, made_by: dict[int, Op]) -> np.ndarray | None:
    """The constant `a` of `op(x, a * x)`."""
    for x, other in (op.inputs, op.inputs[::-1]):
        product = made_by.get(other.index)
        if product is not None and product.kind == "MUL":
            for factor, slopes in (product.inputs, product.inputs[::-1]):
                if factor.index == x.index and slopes.data is not None:
                    return slopes.data
    return None


def _feeds_prelu(op: Op, ops: list[Op], made_by: dict[int, Op]) -> bool:
    """Whether `op` is half of a rectifier: the product in max(x, a * x), or that maximum with one slope."""
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
        lint.notes.append(Finding(op.layer, f"runs on the CPU: the KPU has no such {op.kind}"))
    else:
        what = f"is {op.kind}, which nncase 1.9 has not: build the layer from convolutions, sums and ReLU6"
        lint.errors.append(Finding(op.layer, what))


def _float_maps(op: Op) -> int:
    """Bytes of what goes in and out of an operation, in float32."""
    return 4 * sum(math.prod(tensor.shape) for tensor in (op.inputs[0], op.output))


def _text(padding: list[tuple[int, int]]) -> str:
    return " and ".join(f"{before}, {after}" for before, after in dict.fromkeys(padding))
