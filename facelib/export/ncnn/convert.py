"""Converts an ONNX model for ncnn with pnnx, which runs in .venv-ncnn."""

import tempfile
from pathlib import Path

from facelib.runtimes.array_worker import call_worker, environment_python
from facelib.runtimes.ncnn import WORKER


def onnx_to_ncnn(onnx: Path, size: tuple[int, int], fp16: bool) -> tuple[bytes, bytes]:
    """An ncnn model as (content of the .param, content of the .bin).

    Args:
        onnx: a model that takes float32 [1, 3, height, width].
        size: (height, width) in pixels.
        fp16: whether the weights are stored in half precision.

    Raises:
        FaceError: the environment is missing, or pnnx refuses the model.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "model.onnx").write_bytes(onnx.read_bytes())
        shape = f"[1,3,{size[0]},{size[1]}]f32"
        call_worker(
            environment_python("ncnn", "ncnn"), WORKER, f"pnnx cannot convert '{onnx}'.", "convert", name, shape,
            str(int(fp16)),
        )  # fmt: skip
        return (folder / "model.param").read_bytes(), (folder / "model.bin").read_bytes()
