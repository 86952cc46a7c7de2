"""Running .tflite files with LiteRT: open, check, feed and read one interpreter."""

from pathlib import Path

import numpy as np

from facelib.errors import FaceError
from facelib.files import require_file
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
