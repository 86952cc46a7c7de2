"""The worker that runs nncase in k210/.venv (Python 3.10, NumPy and nncase only). Not a script for users.

compile FOLDER     reads model.tflite, crops.npy (uint8 [N, 3, H, W]) and settings.json; writes model.kmodel; prints
                   nncase's report (called by facelib/export/k210/compile.py)
simulate KMODEL    prints a line of JSON about the model; then reads images from stdin (uint8 [3, H, W]) and writes the
                   embedding of each (float32 [D]) to stdout (called by facelib/runtimes/kmodel.py)
"""

import json
import os
import sys
from pathlib import Path


def compile_model(folder: Path) -> None:
    import nncase
    import numpy as np

    settings = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
    options = nncase.CompileOptions()
    for name, value in settings["compile"].items():
        setattr(options, name, value)
    options.dump_asm, options.dump_dir = True, str(folder / "dump")
    compiler = nncase.Compiler(options)
    compiler.import_tflite((folder / "model.tflite").read_bytes(), nncase.ImportOptions())
    crops = np.load(folder / "crops.npy")
    ranges = nncase.PTQTensorOptions()
    ranges.calibrate_method = settings["calibrate_method"]
    ranges.samples_count = len(crops)
    ranges.set_tensor_data(crops.tobytes())
    compiler.use_ptq(ranges)
    compiler.compile()
    (folder / "model.kmodel").write_bytes(compiler.gencode_tobytes())


def simulate(path: Path) -> None:
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # nncase prints a greeting on stdout
    import nncase
    import numpy as np

    simulator = nncase.Simulator()
    simulator.load_model(path.read_bytes())
    tensor = simulator.get_input_tensor(0)
    shape, dtype = list(tensor.shape), np.dtype(tensor.dtype)
    head = {"shape": shape, "dtype": dtype.name, "outputs": list(simulator.get_output_tensor(0).shape)}
    answers.write(json.dumps(head).encode() + b"\n")
    answers.flush()
    size = int(np.prod(shape)) * dtype.itemsize
    while len(image := sys.stdin.buffer.read(size)) == size:
        pixels = np.frombuffer(image, dtype).reshape(shape)
        simulator.set_input_tensor(0, nncase.RuntimeTensor.from_numpy(pixels))
        simulator.run()
        answers.write(simulator.get_output_tensor(0).to_numpy().astype(np.float32).tobytes())
        answers.flush()


if __name__ == "__main__":
    {"compile": compile_model, "simulate": simulate}[sys.argv[1]](Path(sys.argv[2]))
