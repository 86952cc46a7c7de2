"""The networks of the face detector: two .tflite files in facelib/alignment/weights, run by LiteRT on the CPU."""

from pathlib import Path

import numpy as np

from facelib.errors import FaceError
from facelib.tensorflow_env import quiet_stderr

WEIGHTS = Path(__file__).parent / "weights"
FACE_BOXES, FACE_POINTS = "face_boxes.tflite", "face_points.tflite"


class DetectorNet:
    """One network of the face detector as a function: float32 [H, W, 3] -> list of its outputs, float32 [1, ...].

    Args:
        name: file in facelib/alignment/weights.
        outputs: names of the outputs, in the order in which the function returns them.

    Raises:
        FaceError: LiteRT is not installed.
    """

    def __init__(self, name: str, outputs: tuple[str, ...]):
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ImportError as error:
            raise FaceError(
                f"The face detector runs on LiteRT, which cannot be imported ({error}): pip install ai-edge-litert."
            ) from error

        with quiet_stderr():
            self._interpreter = Interpreter(model_path=str(WEIGHTS / name), num_threads=1)
            self._interpreter.allocate_tensors()
        self._input = self._interpreter.get_input_details()[0]["index"]
        places = {detail["name"]: detail["index"] for detail in self._interpreter.get_output_details()}
        self._outputs = [places[output] for output in outputs]

    def __call__(self, view: np.ndarray) -> list[np.ndarray]:
        self._interpreter.set_tensor(self._input, np.ascontiguousarray(view)[np.newaxis])
        self._interpreter.invoke()
        return [self._interpreter.get_tensor(index) for index in self._outputs]


def probability(logits: np.ndarray) -> np.ndarray:
    """The logistic function in float64, without overflow."""
    return 1.0 / (1.0 + np.exp(-np.clip(np.asarray(logits, np.float64), -80, 80)))
