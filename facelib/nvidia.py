"""The NVIDIA GPUs that the driver shows, without TensorFlow, and the CUDA libraries that can be loaded."""

import ctypes
import importlib.util
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

DEV = Path("/dev")
DRIVER = Path("/proc/driver/nvidia")
_QUERY = ("--query-gpu=name,memory.total,memory.free,driver_version", "--format=csv,noheader")
_ASK_SECONDS = 20  # a broken GPU makes nvidia-smi hang
_CUDA_12 = ("libcudart.so.12", "libcublas.so.12", "libcublasLt.so.12", "libcufft.so.11", "libcusolver.so.11",
            "libcusparse.so.12")  # fmt: skip
OLDEST_DRIVER = {"12": (525, 60), "13": (580, 65)}  # by the major version of CUDA


@dataclass(frozen=True)
class Gpu:
    """A GPU as nvidia-smi describes it.

    Attributes:
        name: such as "NVIDIA A100-SXM4-40GB".
        total: bytes of its memory; 0 if that is not known.
        free: bytes of its memory that are free; 0 if that is not known.
    """

    name: str
    total: int = 0
    free: int = 0


@dataclass(frozen=True)
class Nvidia:
    """What this machine says of its NVIDIA GPUs.

    Attributes:
        signs: what says that there is a GPU, such as "/dev/nvidia0"; empty if nothing does.
        gpus: as nvidia-smi lists them.
        driver: its version, or "".
        problem: what nvidia-smi says when it fails, or "".
    """

    signs: tuple[str, ...] = ()
    gpus: tuple[Gpu, ...] = ()
    driver: str = ""
    problem: str = ""


def find_nvidia() -> Nvidia:
    """Asks the device files, the files of the driver and nvidia-smi."""
    gpus, driver, problem = _ask_nvidia_smi()
    signs = []
    if gpus:
        signs.append("nvidia-smi lists " + ", ".join(dict.fromkeys(gpu.name for gpu in gpus)))
    signs += [str(DEV / name) for name in device_files()]
    version = DRIVER / "version"
    if version.is_file():
        signs.append(str(version))
        found = re.search(r"\b\d{3,}\.\d+(\.\d+)?\b", version.read_text(encoding="utf-8", errors="replace"))
        driver = driver or (found[0] if found else "")
    elif (DRIVER / "gpus").is_dir() and any((DRIVER / "gpus").iterdir()):
        signs.append(str(DRIVER / "gpus"))
    return Nvidia(tuple(signs), gpus, driver, problem)


def device_files() -> list[str]:
    """The names of the GPUs' files in /dev: nvidia0, nvidia1, ..."""
    names = os.listdir(DEV) if DEV.is_dir() else []
    return sorted((name for name in names if re.fullmatch(r"nvidia\d+", name)), key=lambda name: int(name[6:]))


def _ask_nvidia_smi() -> tuple[tuple[Gpu, ...], str, str]:
    """(GPUs, version of the driver, problem). Without nvidia-smi all are empty."""
    program = shutil.which("nvidia-smi") or shutil.which("nvidia-smi", path="/usr/lib/wsl/lib")
    if program is None:
        return (), "", ""
    try:
        done = subprocess.run([program, *_QUERY], capture_output=True, timeout=_ASK_SECONDS, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        return (), "", f"nvidia-smi does not answer in {_ASK_SECONDS} s"
    except OSError as error:
        return (), "", f"nvidia-smi cannot be run: {error.strerror}"
    text = done.stdout.decode(errors="replace").strip()
    gpus, driver = parse_gpus(text)
    if gpus:
        return gpus, driver, ""
    said = " ".join((text or done.stderr.decode(errors="replace")).split())[:160]
    return (), "", f"nvidia-smi shows no GPU: {said or f'exit code {done.returncode}'}"


def parse_gpus(text: str) -> tuple[tuple[Gpu, ...], str]:
    """(GPUs, version of the driver) from the lines of nvidia-smi.

    Args:
        text: lines "NAME, 40960 MiB, 40000 MiB, 550.54.15", or "GPU 0: NAME (UUID: ...)".
    """
    gpus, driver = [], ""
    for line in text.splitlines():
        if listed := re.match(r"GPU \d+: (.+?)(?: \(UUID|$)", line):
            gpus.append(Gpu(listed[1]))
            continue
        name, *fields = (field.strip() for field in line.split(","))
        sizes = [int(size[1]) << 20 for field in fields if (size := re.fullmatch(r"(\d+)(?: MiB)?", field))]
        versions = [field for field in fields if re.fullmatch(r"\d+\.\d+(\.\d+)?", field)]
        if name and (sizes or versions):
            total, free, *_ = (*sizes, 0, 0)
            gpus.append(Gpu(name, total, free))
            driver = versions[0] if versions else driver
    return tuple(gpus), driver


def missing_libraries(cuda: str, cudnn: str) -> list[str]:
    """The names of the CUDA libraries that TensorFlow needs and that cannot be loaded.

    Args:
        cuda: version that TensorFlow was built for, such as "12.5.1".
        cudnn: major version of cuDNN that it was built for, such as "9".
    """
    major = cuda.split(".")[0]
    names = _CUDA_12 if major == "12" else (f"libcudart.so.{major}", f"libcublas.so.{major}")
    return [name for name in (*names, f"libcudnn.so.{cudnn}") if not (_is_in_packages(name) or can_load(name))]


def _is_in_packages(name: str) -> bool:
    """Whether one of NVIDIA's pip packages brings a library; TensorFlow looks for them there."""
    spec = importlib.util.find_spec("nvidia")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    return any(any(Path(folder).glob(f"*/lib/{name}")) for folder in folders)


def can_load(name: str) -> bool:
    """Whether the system finds a shared library."""
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True
