"""A .tflite with every value inside it to be seen: its operations in order, and what each wrote."""

from dataclasses import dataclass

import numpy as np

from facelib.tensorflow_env import quiet_stderr


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
