"""nncase 1.9, the last compiler for the K210, and its simulator, in an environment of their own: they need Python 3.10.

k210/nncase_worker.py runs in there; what is here speaks with it through files and pipes.
"""

import json
import os
import re
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from queue import SimpleQueue

import numpy as np

from facelib.embedder import RuntimeEmbedder
from facelib.errors import FaceError
from facelib.export.k210.rules import RAM_BYTES
from facelib.files import require_file
from facelib.model_input import Io

ROOM = Path(__file__).resolve().parents[2] / "k210"
VERSION = "1.9.0.20230322"
MAGIC = b"LDMK"  # the first bytes of a kmodel of version 5
# What brings the pretrained MobileFaceNet nearest to its float net: mean cosine 0.9947 on 12 LFW crops. Without
# use_mse_quant_w 0.9923; with ranges of maps by 'l2' or 'cdf' 0.9925, 0.987. w_quant_type changes nothing on the K210.
SETTINGS = {
    "compile": {
        "target": "k210", "quant_type": "uint8", "w_quant_type": "uint8", "use_mse_quant_w": True,
        "preprocess": True, "input_type": "uint8", "input_range": [0.0, 255.0], "input_layout": "NCHW",
        "mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0],
    },
    "calibrate_method": "no_clip",
}  # fmt: skip
# What the runtime does between the KPU's pieces of the network; every other operation computes on the CPU.
PASSING = ("Call", "Copy", "Quantize", "Dequantize", "Pad", "Slice", "TableLookup1D")


@dataclass(frozen=True)
class Kmodel:
    """A compiled model.   memory: bytes, {'input', 'output', 'data', 'model', 'total'}, as nncase reports them.

    on_kpu: how many convolutions the KPU runs, sums of maps among them.   on_cpu: the operations of the CPU.
    """

    content: bytes
    memory: dict[str, int]
    on_kpu: int
    on_cpu: tuple[str, ...]


def nncase_python() -> Path:
    """The interpreter of nncase's environment.

    Raises:
        FaceError: it was not made.
    """
    python = ROOM / ".venv" / "bin" / "python"
    if not (ROOM / ".venv" / "ready").is_file() or not python.is_file():
        raise FaceError("nncase 1.9 compiles for the K210 and needs Python 3.10. k210/.venv is missing: make k210")
    return python


def compile_kmodel(tflite: Path, crops: np.ndarray) -> Kmodel:
    """Compiles a float .tflite of batch 1.

    Args:
        crops: uint8 [N, H, W, 3], RGB, to measure ranges on.

    Raises:
        FaceError: no nncase, or it refuses the model.
    """
    python = nncase_python()
    pixels = np.ascontiguousarray(crops.transpose(0, 3, 1, 2))
    settings = {**SETTINGS, "compile": {**SETTINGS["compile"], "input_shape": [1, *pixels.shape[1:]]}}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "model.tflite").write_bytes(Path(tflite).read_bytes())
        (folder / "settings.json").write_text(json.dumps(settings))
        np.save(folder / "crops.npy", pixels)
        command = [str(python), str(ROOM / "nncase_worker.py"), "compile", str(folder)]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace")
        if done.returncode != 0 or not (folder / "model.kmodel").is_file():
            reason = (done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}").splitlines()[-1]
            raise FaceError(
                f"nncase cannot compile '{tflite}' ({reason[:200]}). See: python k210/check_k210.py {tflite}"
            )
        on_kpu, on_cpu = parse_placement(folder / "dump")
        return Kmodel((folder / "model.kmodel").read_bytes(), parse_memory(done.stdout), on_kpu, on_cpu)


def parse_memory(report: str) -> dict[str, int]:
    """Bytes by name of nncase's MEMORY USAGES: '.data  588.00 KB (602112 B)' -> {'data': 602112}."""
    table = report.partition("MEMORY USAGES")[2]
    found = re.findall(r"^\.?(\w+)\s+[\d.]+ \w+\s+\((\d+) B\)", table, re.MULTILINE)
    memory = {name.lower(): int(size) for name, size in found}
    if not {"data", "model", "total"} <= memory.keys():
        raise RuntimeError(f"nncase reported no memory usage: {report[-500:]!r}")
    return memory


def check_memory(memory: dict[str, int], where: str) -> None:
    """Raises unless the model with its data fits the K210's general RAM."""
    if memory["total"] > RAM_BYTES:
        raise FaceError(
            f"The K210 has 6 MiB of RAM. '{where}' needs {memory['total'] / 2**20:.2f}: model "
            f"{memory['model'] / 2**20:.2f}, data {memory['data'] / 2**20:.2f}. Nothing was written: lower model.width."
        )


def parse_placement(dump: Path) -> tuple[int, tuple[str, ...]]:
    """(Convolutions on the KPU, operations on the CPU) from nncase's listings of the compiled program."""
    ours = [re.match(r"\[(\w+)\] ?(.*)", line) for line in _lines(dump / "stackvm")]
    on_cpu = [f"{op[1]} {op[2]}".strip() for op in ours if op and op[1] not in PASSING]
    return sum(line.startswith("[KPUConv2D]") for line in _lines(dump / "k210")), tuple(on_cpu)


def _lines(folder: Path) -> list[str]:
    return [line for path in sorted(folder.rglob("runtime_ops.txt")) for line in path.read_text().splitlines()]


class Simulator:
    """One process of nncase's simulator: uint8 [3, H, W] -> float32 [D]. Half a second a face; some 50 MB."""

    def __init__(self, path: Path):
        command = [str(nncase_python()), str(ROOM / "nncase_worker.py"), "simulate", os.path.abspath(path)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        head = self._process.stdout.readline()
        if not head:
            raise FaceError(f"nncase's simulator cannot load '{path}'. Compile it again: k210/tflite_2_kmodel.py.")
        described = json.loads(head)
        self.shape, self.dtype = tuple(described["shape"]), described["dtype"]
        self._answer = 4 * int(np.prod(described["outputs"]))

    def __call__(self, image: np.ndarray) -> np.ndarray:
        self._process.stdin.write(image.tobytes())
        self._process.stdin.flush()
        answer = self._process.stdout.read(self._answer)
        if len(answer) != self._answer:
            raise RuntimeError(f"nncase's simulator ended with code {self._process.wait()}")
        return np.frombuffer(answer, np.float32)

    def close(self) -> None:
        """Ends the process."""
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()


class KmodelEmbedder(RuntimeEmbedder):
    """An `Embedder` over nncase's simulator of the K210, in as many processes as `threads`."""

    chunk_images = 16  # a few seconds of work between two steps of the progress bar

    def __init__(self, path: Path, io: Io, threads: int = 1):
        path = require_file(path, "kmodel")
        with open(path, "rb") as file:
            if file.read(4) != MAGIC:
                raise FaceError(
                    f"A kmodel begins with 'LDMK'. '{path}' does not: name the file of k210/tflite_2_kmodel.py."
                )
        super().__init__(path.name, replace(io, dtype="uint8"), threads)
        self._pool, self._simulators = ThreadPoolExecutor(threads), SimpleQueue()
        for simulator in self._pool.map(Simulator, [path] * threads):
            self._simulators.put(simulator)
        expected = (1, 3, *io.size) if io.layout == "nchw" else (1, *io.size, 3)
        if (simulator.shape, simulator.dtype) != (expected, "uint8"):
            raise FaceError(
                f"'{path}' takes {simulator.dtype} {list(simulator.shape)}, the faces come as uint8 {list(expected)}: "
                f"check --layout and --crop."
            )

    def run(self, pixels: np.ndarray) -> np.ndarray:
        return np.stack(list(self._pool.map(self._run_one, pixels)))

    def close(self) -> None:
        """Ends the simulators."""
        while not self._simulators.empty():
            self._simulators.get().close()

    def _run_one(self, image: np.ndarray) -> np.ndarray:
        simulator = self._simulators.get()
        try:
            return simulator(image)
        finally:
            self._simulators.put(simulator)
