"""Runtimes that only bench_embedders.py uses, each an `Embedder`. The packages are optional: pip install openvino ncnn.

OpenVINO reads model.onnx, model_float.tflite, model_fp16.tflite, model_dynamic.tflite and the graphs (.pb) directly.
For ncnn, first convert the ONNX model: pip install pnnx (this also installs PyTorch). Then `pnnx model.onnx
inputshape=[1,112,112,3] fp16=0` writes model.ncnn.param and model.ncnn.bin.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path

import numpy as np

from facelib.embedder import BATCH_SIZE, RuntimeEmbedder
from facelib.errors import FaceError
from facelib.files import require_file
from facelib.model_input import Io


class OpenvinoEmbedder(RuntimeEmbedder):
    """An `Embedder` over OpenVINO on the CPU.

    Args:
        path: of the model.
        io: how the model is fed.
        threads: of OpenVINO.
        precision: 'f32', or '' for OpenVINO's default, which is bf16 on a CPU with AMX.
    """

    def __init__(self, path: Path, io: Io, threads: int, precision: str = ""):
        openvino = _import("openvino")
        hints = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY"}
        hints |= {"INFERENCE_PRECISION_HINT": precision} if precision else {}
        try:
            self._model = openvino.Core().compile_model(str(require_file(path, "model")), "CPU", hints)
        except RuntimeError as error:
            raise FaceError(f"OpenVINO cannot load '{path}' ({' '.join(str(error).split())[:160]}).") from error
        source, target = self._model.inputs[0], self._model.outputs[0]
        if not target.element_type.is_real():
            raise FaceError(
                f"OpenVINO does not show the zero point of an integer output, so the output of '{path}' cannot be "
                "read. Use the float model."
            )
        chosen = self._model.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        fixed = source.partial_shape[0].get_length() if source.partial_shape[0].is_static else None
        super().__init__(f"OpenVINO {chosen}", replace(io, dtype="float32"), fixed or BATCH_SIZE, fixed or 1)

    def run(self, pixels: np.ndarray) -> np.ndarray:
        return self._model(pixels)[0]


class NcnnEmbedder(RuntimeEmbedder):
    """An `Embedder` over ncnn on the CPU, one face at a time.

    Args:
        path: X.param; X.bin stands beside it. The net has one input and one output.
        io: how the model is fed.
        threads: of ncnn.
    """

    def __init__(self, path: Path, io: Io, threads: int):
        ncnn = _import("ncnn")
        weights = require_file(Path(path).with_suffix(".bin"), "file of ncnn weights")
        self._net, self._mat = ncnn.Net(), ncnn.Mat
        self._net.opt.num_threads = threads
        if self._net.load_param(str(require_file(path, "ncnn model"))) or self._net.load_model(str(weights)):
            raise FaceError(f"ncnn cannot load '{path}' and '{weights}'. Make both files again with pnnx.")
        (self._input,), (self._output,) = self._net.input_names(), self._net.output_names()
        super().__init__("ncnn", replace(io, dtype="float32"), 1)

    def run(self, pixels: np.ndarray) -> np.ndarray:
        with self._net.create_extractor() as extractor:
            extractor.input(self._input, self._mat(pixels[0]))
            _, output = extractor.extract(self._output)
            return np.array(output)[None]


def _import(name: str):
    try:
        return import_module(name)
    except ImportError as error:
        raise FaceError(f"'{name}:' needs a package that is not installed: pip install {name}") from error


EXTRA: dict[str, Callable[[Path, Io, int], RuntimeEmbedder]] = {
    "openvino": OpenvinoEmbedder,
    "openvino-f32": partial(OpenvinoEmbedder, precision="f32"),
    "ncnn": NcnnEmbedder,
}
