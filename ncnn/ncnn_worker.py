"""The worker that runs pnnx and ncnn in .venv-ncnn. Not a script for users.

python ncnn_worker.py convert FOLDER SHAPE FP16   reads model.onnx, writes model.param and model.bin

facelib/runtimes/worker_loop.py calls `load`. The model runs in ncnn on this CPU, takes float32 [1, 3, H, W] and returns
the embedding, float32 [D].
"""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path


def convert(folder: str, shape: str, fp16: str) -> None:
    """Runs pnnx's program, which the package brings; importing the package would need PyTorch."""
    spec = importlib.util.find_spec("pnnx")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("pnnx is not installed")
    program = Path(next(iter(spec.submodule_search_locations))) / "pnnx"
    names = {"pnnxparam": "pnnx.param", "pnnxbin": "pnnx.bin", "pnnxpy": "pnnx.py", "pnnxonnx": "pnnx.onnx"}
    names |= {"ncnnparam": "model.param", "ncnnbin": "model.bin", "ncnnpy": "ncnn.py"}
    words = [f"{name}={file}" for name, file in names.items()]
    done = subprocess.run(
        [str(program), "model.onnx", f"inputshape={shape}", f"fp16={fp16}", *words],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
    )  # fmt: skip
    if not (Path(folder) / "model.param").is_file():
        lines = done.stdout.strip().splitlines() or [f"pnnx ended with code {done.returncode}"]
        raise SystemExit(lines[-1])


def load(param: str, weights: str, source: str, target: str, shape: str):
    """A model as (what the first line says, the model as a function of its input).

    Args:
        param: path of the .param.
        weights: path of the .bin.
        source: name of the input blob.
        target: name of the output blob.
        shape: of the input, JSON.
    """
    import numpy as np

    import ncnn

    net = ncnn.Net()
    net.opt.num_threads, net.opt.use_vulkan_compute = 1, False
    # Computed in float32, whatever type the weights are stored in. A phone's CPU may compute in half precision.
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    net.opt.use_bf16_storage = False
    if net.load_param(param) or net.load_model(weights):
        raise ValueError("ncnn refuses the .param or the .bin")

    def run(values):
        with net.create_extractor() as extractor:
            if extractor.input(source, ncnn.Mat(values[0]).clone()):
                raise ValueError(f"there is no input {source}")
            failed, output = extractor.extract(target)
            if failed:
                raise ValueError(f"there is no output {target}")
            return np.array(output, np.float32).reshape(-1)

    takes = json.loads(shape)
    outputs = list(run(np.zeros(takes, np.float32)).shape)
    return {"shape": takes, "dtype": "float32", "outputs": outputs, "version": ncnn.__version__}, run


if __name__ == "__main__":
    {"convert": convert}[sys.argv[1]](*sys.argv[2:])
