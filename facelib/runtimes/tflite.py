"""TFLite models (.tflite): run by LiteRT as an `Embedder`, their operations read, and their inner values observed."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np

from facelib.embedder import RuntimeEmbedder
from facelib.errors import FaceError, short_name
from facelib.files import require_file
from facelib.model_input import Io
from facelib.runtimes import executors
from facelib.runtimes.frozen_graph import layer_of
from facelib.runtimes.tflite_check import check_tflite, enumeration
from facelib.tensorflow_env import quiet_stderr

MAX_LISTED = 5
MAGIC = b"TFL3"  # bytes 4..8 of a .tflite
KERNELS = {"xnnpack": executors.XNNPACK, "reference": executors.LITERT_REFERENCE}  # of LiteRT: name for the report
CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D")


class TfliteEmbedder(RuntimeEmbedder):
    """An `Embedder` over LiteRT: `threads` interpreters, usually of one thread each.

    These models take one face at a time, and 5 ms of work is too little to share between threads. Two interpreters
    side by side embed nearly twice as many faces as one interpreter with two threads.

    Args:
        path: the .tflite file.
        io: how the model is fed.
        threads: number of interpreters.
        kernels: a key of `KERNELS`.
        call_threads: threads of an interpreter, which share the work of one face.
    """

    def __init__(self, path: Path, io: Io, threads: int = 1, kernels: str = "xnnpack", call_threads: int = 1):
        names = {"input": io.input, "output": io.output}
        lites = [Lite(path, **names, threads=call_threads, kernels=kernels) for _ in range(threads)]
        self.executor = KERNELS[kernels]
        shape = lites[0].shape
        expected = (*io.size, 3) if io.layout == "nhwc" else (3, *io.size)
        if shape[1:] != expected or shape[0] < 1:
            raise FaceError(
                f"'{path}' needs {list(shape)}, but the faces have {list(expected)}: check --crop and --layout."
            )
        io = replace(io, dtype="uint8" if lites[0].takes_pixels and io.pixels == "raw" else "float32")
        super().__init__(Path(path).name, io, threads * shape[0], unit=shape[0])
        self._batch, self._pool = shape[0], ThreadPoolExecutor(threads)
        self._lites: SimpleQueue[Lite] = SimpleQueue()
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


class Lite:
    """One LiteRT interpreter as a function: [B, H, W, C] -> float32 [B, D]. It quantises the input if that is needed.

    Args:
        path: the .tflite file, or its bytes.
        input: tensor name; the only input needs none.
        output: tensor name; the only output needs none.
        threads: of the interpreter.
        kernels: a key of `KERNELS`.

    Attributes:
        shape: tuple of int, the fixed shape of the input.
        dtype: NumPy dtype of the input.
        output_dtype: NumPy dtype of the output.
        output_size: number of values of the output.
        output_scale: of the output; 0 if it is not quantised.
        output_zero_point: of the output; 0 if it is not quantised.
        scale: of the input; 0 if it is not quantised.
        zero_point: of the input; 0 if it is not quantised.

    Raises:
        FaceError: no such file, one that LiteRT cannot load or should not (`check_tflite`), or a name that the model
            does not have.
    """

    def __init__(
        self, path: Path | bytes, *, input: str = "", output: str = "", threads: int = 1, kernels: str = "xnnpack"
    ):
        from ai_edge_litert.interpreter import Interpreter, OpResolverType

        name = "the model" if isinstance(path, bytes) else f"'{path}'"
        data = path if isinstance(path, bytes) else require_file(path, "TFLite model").read_bytes()
        if data[4:8] != MAGIC:
            raise FaceError(
                f"A TFLite model must have 'TFL3' at byte 4. {name} does not: use the .tflite made by pb_2_tflite.py."
            )
        check_tflite(data, name)
        try:
            with quiet_stderr():
                resolver = OpResolverType.BUILTIN_REF if kernels == "reference" else OpResolverType.AUTO
                self._interpreter = Interpreter(
                    model_content=data, num_threads=threads, experimental_op_resolver_type=resolver
                )
                self._interpreter.allocate_tensors()
            inputs, outputs = self._interpreter.get_input_details(), self._interpreter.get_output_details()
        except (ValueError, RuntimeError) as error:
            raise FaceError(
                f"LiteRT cannot load {name} ({_one_line(error)}). Make the file again, or copy it again."
            ) from error
        self._name = name
        self._input = _find_tensor(inputs, input, name, "input")
        self._output = _find_tensor(outputs, output, name, "output")
        self.shape, self.dtype = tuple(self._input["shape"].tolist()), np.dtype(self._input["dtype"])
        self.scale, self.zero_point = self._input["quantization"]
        self.output_dtype = np.dtype(self._output["dtype"])
        self.output_size = int(np.prod(self._output["shape"][1:]))
        self.output_scale, self.output_zero_point = self._output["quantization"]

    def describe_tensors(self) -> dict[str, dict[str, Any]]:
        """The `tensors` of a sidecar: name, shape, dtype, scale and zero point of input and output."""
        found = {}
        for side, tensor in (("input", self._input), ("output", self._output)):
            scale, zero_point = tensor["quantization"]
            found[side] = {
                "name": tensor["name"], "shape": tensor["shape"].tolist(), "dtype": np.dtype(tensor["dtype"]).name,
                "scale": float(scale), "zero_point": int(zero_point),
            }  # fmt: skip
        return found

    @property
    def takes_pixels(self) -> bool:
        """Whether the input is uint8 pixels 0..255 without rescaling."""
        return self.dtype == np.uint8 and (self.scale, self.zero_point) in ((1.0, 0), (0.0, 0))

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """Runs the model.

        Args:
            pixels: float or uint8, of `shape`, in the units of the network before quantisation.
        """
        try:
            self._interpreter.set_tensor(self._input["index"], self.quantise(pixels))
            self._interpreter.invoke()
        except (ValueError, RuntimeError) as error:
            raise FaceError(
                f"LiteRT cannot run {self._name} ({_one_line(error)}). Make the file again, or copy it again."
            ) from error
        return self.dequantise(self._interpreter.get_tensor(self._output["index"]))

    def quantise(self, pixels: np.ndarray) -> np.ndarray:
        """What the input tensor gets: pixels in the units of the network -> `dtype`, same shape."""
        if not self.takes_pixels and self.dtype.kind in "iu":
            limits = np.iinfo(self.dtype)
            steps = np.rint(pixels / np.float32(self.scale or 1) + self.zero_point)
            pixels = np.clip(steps, limits.min, limits.max)
        return pixels.astype(self.dtype, copy=False)

    def dequantise(self, output: np.ndarray) -> np.ndarray:
        """Values of the output tensor, of `output_dtype` or as floats -> the embedding, same shape."""
        if self.output_dtype.kind not in "iu":
            return output
        return (output.astype(np.float32) - self.output_zero_point) * np.float32(self.output_scale or 1)


@dataclass(frozen=True)
class Tensor:
    """A value or a constant of a model.

    Attributes:
        index: its number in the model.
        name: as the converter wrote it.
        shape: tuple of int; a map is [N, H, W, C].
        dtype: 'FLOAT32', 'INT8', ...
        data: of a float32 or int32 constant, otherwise None.
    """

    index: int
    name: str
    shape: tuple[int, ...]
    dtype: str
    data: np.ndarray | None


@dataclass(frozen=True)
class Op:
    """One operation of a model.

    Attributes:
        kind: 'CONV_2D', ...
        inputs: tensors, constants too.
        output: the first output.
        options: by the names of TFLite's schema.
    """

    kind: str
    inputs: tuple[Tensor, ...]
    output: Tensor
    options: dict[str, Any]

    @property
    def layer(self) -> str:
        """Name of its layer in the network.

        A convolution takes it from its kernel: its output has the name of the last operation that was fused into it.
        """
        is_weighted = self.kind in (*CONVOLUTIONS, "FULLY_CONNECTED") and len(self.inputs) > 1 and self.inputs[1].name
        return layer_of(self.inputs[1].name.rpartition(";")[2] if is_weighted else self.output.name)


def read_ops(model: Path | bytes) -> list[Op]:
    """The operations of a .tflite in the order of their execution.

    Args:
        model: the file, or its bytes.

    Raises:
        FaceError: no such file, or one that LiteRT cannot load.
    """
    from ai_edge_litert import schema_py_generated as schema

    Lite(model)  # it checks the model; the reader below trusts it

    content = schema.ModelT.InitFromPackedBuf(model if isinstance(model, bytes) else Path(model).read_bytes(), 0)
    if len(content.subgraphs) != 1:
        name = "The model" if isinstance(model, bytes) else f"'{model}'"
        raise FaceError(
            f"A TFLite embedder must have one subgraph. {name} has {len(content.subgraphs)}: convert the net without "
            "loops and conditions."
        )
    graph = content.subgraphs[0]
    kinds, types = enumeration(schema.BuiltinOperator), enumeration(schema.TensorType)
    tensors = [_tensor(i, tensor, content, types) for i, tensor in enumerate(graph.tensors)]
    ops = []
    for operator in graph.operators:
        code = content.operatorCodes[operator.opcodeIndex]
        kind = kinds[max(code.builtinCode, code.deprecatedBuiltinCode)]  # codes above 127 are in the newer field
        inputs = tuple(tensors[i] for i in operator.inputs if i >= 0)
        options = vars(operator.builtinOptions) if operator.builtinOptions is not None else {}
        ops.append(Op(kind, inputs, tensors[operator.outputs[0]], options))
    return ops


class Watched:
    """A model that keeps the value of every tensor, for analysis. Slow: it runs without XNNPACK.

    XNNPACK and other delegates compute several operations at once and hide the values between them.

    Args:
        model: the bytes of a .tflite with one input.

    Attributes:
        ops: list of `Op`, in the order of execution.
    """

    def __init__(self, model: bytes):
        from ai_edge_litert.interpreter import Interpreter, OpResolverType

        self.ops = read_ops(model)
        with quiet_stderr():
            self._interpreter = Interpreter(
                model_content=model,
                experimental_preserve_all_tensors=True,
                experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
            )
            self._interpreter.allocate_tensors()
        details = self._interpreter.get_tensor_details()
        self._quantisation = {tensor["index"]: tensor["quantization"] for tensor in details}

    def run(self, pixels: np.ndarray) -> None:
        """Runs the model.

        Args:
            pixels: float32 [1, H, W, 3], in the units of the input before quantisation.
        """
        (source,) = self._interpreter.get_input_details()
        scale, zero_point = source["quantization"]
        if source["dtype"] != np.float32:
            pixels = np.rint(pixels / np.float32(scale or 1)) + zero_point
        self._interpreter.set_tensor(source["index"], pixels.astype(source["dtype"]))
        self._interpreter.invoke()

    def value(self, tensor: Tensor) -> np.ndarray:
        """The value of a tensor after the last `run`, float32."""
        value = self._interpreter.get_tensor(tensor.index)
        scale, zero_point = self._quantisation[tensor.index]
        return (value.astype(np.float32) - zero_point) * np.float32(scale) if scale else value.astype(np.float32)


def _find_tensor(details: list[dict], name: str, model: str, what: str) -> dict:
    """The input or output called `name`. If there is only one, its name is ignored, because converters rename
    tensors."""
    names = [detail["name"] for detail in details]
    short = [each.removeprefix("serving_default_").partition(":")[0] for each in names]
    for candidates in (names, short):
        if name in candidates:
            return details[candidates.index(name)]
    if len(details) == 1:
        return details[0]
    listed = ", ".join(short_name(each)[1:-1] for each in names[:MAX_LISTED])
    raise FaceError(f"{model} has no {what} {short_name(name)}. It has {listed}. Use --{what} NAME.")


def _tensor(index: int, tensor, model, types: dict[int, str]) -> Tensor:
    shape = tuple(int(side) for side in tensor.shape) if tensor.shape is not None else ()
    dtype, raw = types[tensor.type], model.buffers[tensor.buffer].data
    data = None
    if raw is not None and len(raw) and dtype in ("FLOAT32", "INT32"):
        data = np.asarray(raw, np.uint8).view(np.float32 if dtype == "FLOAT32" else np.int32).reshape(shape)
    return Tensor(index, (tensor.name or b"").decode(errors="replace"), shape, dtype, data)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
