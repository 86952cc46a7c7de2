"""The worker that runs nncase in k210/.venv (Python 3.10, NumPy and nncase only). Not a script for users.

python nncase_worker.py compile FOLDER     reads model.tflite, crops.npy (uint8 [N, 3, H, W]) and settings.json; writes
                                           model.kmodel; prints nncase's report

facelib/runtimes/worker_loop.py calls `load`. The model runs in nncase's simulator, takes uint8 [1, 3, H, W] and returns
the embedding, float32 [1, D].
"""

import json
import sys
from pathlib import Path

import numpy as np


def compile_model(folder: Path) -> None:
    import nncase

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


def load(path: str):
    import nncase

    simulator = nncase.Simulator()
    simulator.load_model(Path(path).read_bytes())
    tensor = simulator.get_input_tensor(0)
    head = {
        "shape": list(tensor.shape),
        "dtype": np.dtype(tensor.dtype).name,
        "outputs": list(simulator.get_output_tensor(0).shape),
    }

    def run(pixels: np.ndarray) -> np.ndarray:
        simulator.set_input_tensor(0, nncase.RuntimeTensor.from_numpy(pixels))
        simulator.run()
        return simulator.get_output_tensor(0).to_numpy()

    return head, run


if __name__ == "__main__":
    {"compile": compile_model}[sys.argv[1]](Path(sys.argv[2]))
