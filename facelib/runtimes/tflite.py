"""TFLite models: run by LiteRT, read layer by layer from the flatbuffer, and watched value by value."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np

from facelib.embedder import RuntimeEmbedder
from facelib.errors import FaceError
from facelib.files import require_file
from facelib.model_input import Io
from facelib.runtimes.frozen_graph import layer_of
from facelib.tensorflow_env import quiet_stderr

MAGIC = b"TFL3"  # bytes 4..8 of a .tflite


class Lite:
    """One interpreter: float or pixel values [B, H, W, C] -> float32 [B, D], quantisation hidden.

    Attributes:
        shape: of the input, fixed.   dtype: NumPy dtype of the input.
        scale, zero_point: of the input, 0 and 0 where it is not quantised.
    """

    def __init__(self, path: Path | bytes, *, input: str = "", output: str = "", threads: int = 1):
        """`input` and `output` are tensor names; the only one there is needs none."""
        from ai_edge_litert.interpreter import Interpreter

        name = "the model" if isinstance(path, bytes) else f"'{path}'"
        data = path if isinstance(path, bytes) else require_file(path, "TFLite model").read_bytes()
        if data[4:8] != MAGIC:
            raise FaceError(f"A TFLite model has 'TFL3' at byte 4. {name} has not: name the .tflite of pb_2_tflite.py.")
        try:
            with quiet_stderr():
                self._interpreter = Interpreter(model_content=data, num_threads=threads)
                self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise FaceError(f"LiteRT cannot load {name} ({reason}). Make or copy it again.") from error
        self._name = name
        self._input = _pick(self._interpreter.get_input_details(), input, name, "input")
        self._output = _pick(self._interpreter.get_output_details(), output, name, "output")
        self.shape, self.dtype = tuple(self._input["shape"].tolist()), np.dtype(self._input["dtype"])
        self.scale, self.zero_point = self._input["quantization"]
        self.output_dtype = np.dtype(self._output["dtype"])

    @property
    def takes_pixels(self) -> bool:
        """Whether the input is uint8 0..255 as it comes."""
        return self.dtype == np.uint8 and (self.scale, self.zero_point) in ((1.0, 0), (0.0, 0))

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """`pixels`: of `shape`, in the units of the network; quantised here where the input is."""
        if not self.takes_pixels and self.dtype.kind in "iu":
            limits = np.iinfo(self.dtype)
            steps = np.rint(pixels / np.float32(self.scale or 1) + self.zero_point)
            pixels = np.clip(steps, limits.min, limits.max)
        try:
            self._interpreter.set_tensor(self._input["index"], pixels.astype(self.dtype, copy=False))
            self._interpreter.invoke()
        except (ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise FaceError(f"LiteRT cannot run {self._name} ({reason}). Make or copy it again.") from error
        output = self._interpreter.get_tensor(self._output["index"])
        if output.dtype.kind not in "iu":
            return output
        scale, zero_point = self._output["quantization"]
        return (output.astype(np.float32) - zero_point) * np.float32(scale or 1)


def _pick(details: list[dict], wanted: str, model: str, what: str) -> dict:
    """The tensor called `wanted`; the only one there is when the name is not in the file, as converters rename."""
    names = [detail["name"] for detail in details]
    short = [name.removeprefix("serving_default_").partition(":")[0] for name in names]
    for candidates in (names, short):
        if wanted in candidates:
            return details[candidates.index(wanted)]
    if len(details) == 1:
        return details[0]
    raise FaceError(f"{model} has no {what} '{wanted}' but {', '.join(names)}. Use --{what} NAME.")


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


@dataclass(frozen=True)
class Operation:
    """One operation. name: 'CONV_2D'.   tensor: name of the tensor that it writes.   inputs, output: tensor numbers."""

    name: str
    tensor: str
    inputs: tuple[int, ...]
    output: int


class Watched:
    """One interpreter without delegates, which would hide what is between their ends. Slow: to look at, not to use."""

    def __init__(self, model: bytes):
        from ai_edge_litert.interpreter import Interpreter, OpResolverType

        with quiet_stderr():
            self._interpreter = Interpreter(
                model_content=model,
                experimental_preserve_all_tensors=True,
                experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
            )
            self._interpreter.allocate_tensors()
        self._tensors = {tensor["index"]: tensor for tensor in self._interpreter.get_tensor_details()}
        self.operations = [
            Operation(
                op["op_name"], self._tensors[op["outputs"][0]]["name"], tuple(op["inputs"].tolist()), op["outputs"][0]
            )
            for op in self._interpreter._get_ops_details()
        ]

    def run(self, pixels: np.ndarray) -> None:
        """`pixels`: [1, H, W, 3] in the units of the input before quantisation."""
        (source,) = self._interpreter.get_input_details()
        scale, zero_point = source["quantization"]
        if source["dtype"] != np.float32:
            pixels = np.rint(pixels / np.float32(scale or 1)) + zero_point
        self._interpreter.set_tensor(source["index"], pixels.astype(source["dtype"]))
        self._interpreter.invoke()

    def value(self, tensor: int) -> np.ndarray:
        """What the last `run` left in a tensor, as float32."""
        value = self._interpreter.get_tensor(tensor)
        scale, zero_point = self._tensors[tensor]["quantization"]
        return (value.astype(np.float32) - zero_point) * np.float32(scale) if scale else value.astype(np.float32)


class TfliteEmbedder(RuntimeEmbedder):
    """An `Embedder` over LiteRT: one interpreter of one thread for each of `threads`.

    Faces come one by one in these models, and a net of 5 ms a face has too little work in it to share: two
    interpreters side by side do nearly twice the faces of one with two threads.
    """

    def __init__(self, path: Path, io: Io, threads: int = 1):
        from facelib.runtimes.tflite import Lite

        lites = [Lite(path, input=io.input, output=io.output) for _ in range(threads)]
        shape = lites[0].shape
        expected = (*io.size, 3) if io.layout == "nhwc" else (3, *io.size)
        if shape[1:] != expected:
            raise FaceError(
                f"'{path}' takes {list(shape)}, the faces come as {list(expected)}: check --crop and --layout."
            )
        io = replace(io, dtype="uint8" if lites[0].takes_pixels and io.pixels == "raw" else "float32")
        super().__init__(Path(path).name, io, threads * shape[0], unit=shape[0])
        self._batch, self._lites, self._pool = shape[0], SimpleQueue(), ThreadPoolExecutor(threads)
        for lite in lites:
            self._lites.put(lite)

    def run(self, pixels: np.ndarray) -> np.ndarray:
        starts = range(0, len(pixels), self._batch)
        return np.concatenate(list(self._pool.map(self._run_one, (pixels[i : i + self._batch] for i in starts))))

    def _run_one(self, pixels: np.ndarray) -> np.ndarray:
        lite = self._lites.get()
        try:
            return lite(pixels)
        finally:
            self._lites.put(lite)
