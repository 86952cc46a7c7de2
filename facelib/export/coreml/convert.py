"""Converts an ONNX model for Core ML with coremltools, which runs in .venv-coreml.

coremltools reads neither ONNX nor a frozen graph. So the nodes of the ONNX graph are handed over one by one.
"""

import json
import tempfile
from pathlib import Path

import numpy as np

from facelib.errors import FaceError
from facelib.model_input import Io
from facelib.runtimes.array_worker import call_worker, environment_python
from facelib.runtimes.coreml import INPUT, OUTPUT, WORKER

MODES = {
    "fp16": "weights and computation in float16 (iOS 15, macOS 12)",
    "int8": "weights stored in 8 bits, a scale for each channel; computation in float16 (iOS 16, macOS 13)",
}


def onnx_to_coreml(onnx: Path, io: Io, mode: str) -> tuple[bytes, dict]:
    """A .mlpackage as (content of the .zip, what an app sees of the model).

    Args:
        onnx: a model that takes float32 [N, 3, height, width], raw pixels.
        io: how it is fed.
        mode: a key of `MODES`.

    Raises:
        FaceError: the environment is missing, coremltools refuses the model, or the input and output of the result are
            not an image and an embedding of float32.
    """
    python = environment_python("coreml", "coremltools")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write_net(onnx, io, mode, folder)
        call_worker(python, WORKER, f"coremltools cannot convert '{onnx}'.", "convert", name)
        interface = json.loads((folder / "interface.json").read_text(encoding="utf-8"))
        check_interface(interface, io)
        return (folder / "model.mlpackage.zip").read_bytes(), interface


def check_interface(interface: dict, io: Io) -> None:
    """Refuses a model whose input is not an image of the right size and colours, or whose output is no float32."""
    wanted = {
        "input": INPUT, "input_type": "imageType", "size": list(io.size), "colours": io.colour.upper(),
        "output": OUTPUT, "output_type": "FLOAT32",
    }  # fmt: skip
    wrong = {key: interface.get(key) for key, value in wanted.items() if interface.get(key) != value}
    if wrong:
        raise FaceError(
            f"The Core ML model must take an image and return float32. coremltools made {wrong} instead of "
            f"{ {key: wanted[key] for key in wrong} }. Nothing was written. Install the version of coremltools in "
            "coreml/requirements.txt."
        )


def _write_net(onnx: Path, io: Io, mode: str, folder: Path) -> None:
    """Writes the graph as net.json and tensors.npz."""
    from onnx import helper, load, numpy_helper

    graph = load(onnx).graph
    nodes = [
        {
            "kind": node.op_type,
            "inputs": list(node.input),
            "outputs": list(node.output),
            "attributes": {each.name: _plain(helper.get_attribute_value(each)) for each in node.attribute},
        }
        for node in graph.node
    ]
    net = {"mode": mode, "size": list(io.size), "colour": io.colour, "nodes": nodes}
    net |= {"input": io.input, "output": io.output}
    (folder / "net.json").write_text(json.dumps(net), encoding="utf-8")
    np.savez(folder / "tensors.npz", **{each.name: numpy_helper.to_array(each) for each in graph.initializer})


def _plain(value):
    """An attribute as JSON has it; of others than numbers and texts only that they are there."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return value if isinstance(value, int | float | str | list) else None
