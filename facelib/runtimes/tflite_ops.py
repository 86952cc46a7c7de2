"""What a .tflite computes, layer by layer, read from its flatbuffer without TensorFlow."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from facelib.errors import FaceError
from facelib.files import require_file
from facelib.runtimes.layer_names import layer_of
from facelib.runtimes.tflite import Lite


@dataclass(frozen=True)
class Tensor:
    """shape: of a map [N, H, W, C].   dtype: 'FLOAT32', 'INT8', ...   data: of a constant, otherwise None."""

    index: int
    name: str
    shape: tuple[int, ...]
    dtype: str
    data: np.ndarray | None


@dataclass(frozen=True)
class Op:
    """One operation. kind: 'CONV_2D', ...   layer: its name in the network.   options: as the schema calls them."""

    kind: str
    layer: str
    inputs: tuple[Tensor, ...]
    output: Tensor
    options: dict[str, Any]


def read_ops(path: Path) -> list[Op]:
    """The operations of a .tflite in the order of their execution.

    Raises:
        FaceError: no such file, or none that LiteRT can load.
    """
    path = require_file(path, "TFLite model")
    Lite(path)  # LiteRT checks the flatbuffer; the reader below trusts it
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    if len(model.subgraphs) != 1:
        raise FaceError(f"An embedder is one graph. '{path}' has {len(model.subgraphs)}: leave control flow out of it.")
    graph = model.subgraphs[0]
    kinds = _names(schema.BuiltinOperator)
    types = _names(schema.TensorType)
    tensors = [_tensor(i, tensor, model, types) for i, tensor in enumerate(graph.tensors)]
    ops = []
    for operator in graph.operators:
        code = model.operatorCodes[operator.opcodeIndex]
        inputs = tuple(tensors[i] for i in operator.inputs if i >= 0)
        output = tensors[operator.outputs[0]]
        kind = kinds[max(code.builtinCode, code.deprecatedBuiltinCode)]  # codes above 127 stand in the newer field
        options = vars(operator.builtinOptions) if operator.builtinOptions is not None else {}
        ops.append(Op(kind, _layer_name(kind, inputs, output), inputs, output, options))
    return ops


def _names(enumeration: type) -> dict[int, str]:
    return {value: name for name, value in vars(enumeration).items() if isinstance(value, int)}


def _tensor(index: int, tensor, model, types: dict[int, str]) -> Tensor:
    shape = tuple(int(side) for side in tensor.shape) if tensor.shape is not None else ()
    dtype, raw = types[tensor.type], model.buffers[tensor.buffer].data
    data = None
    if raw is not None and len(raw) and dtype in ("FLOAT32", "INT32"):
        data = np.asarray(raw, np.uint8).view(np.float32 if dtype == "FLOAT32" else np.int32).reshape(shape)
    return Tensor(index, (tensor.name or b"").decode(errors="replace"), shape, dtype, data)


def _layer_name(kind: str, inputs: tuple[Tensor, ...], output: Tensor) -> str:
    """A convolution is called as its kernel is: its output has the name of whatever was fused into it."""
    is_weighted = kind in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED") and len(inputs) > 1 and inputs[1].name
    return layer_of(inputs[1].name.rpartition(";")[2] if is_weighted else output.name)
