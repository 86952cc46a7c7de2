"""The device of a training: chosen, checked against what the driver shows, and said in one line."""

import argparse
import os
from collections import Counter

from facelib.errors import FaceError
from facelib.machine import cores
from facelib.nvidia import DEV, OLDEST_DRIVER, Nvidia, can_load, device_files, find_nvidia, missing_libraries
from facelib.tensorflow_env import import_tensorflow, num_lanes

DEVICES = ("auto", "cpu", "gpu")
VISIBLE = "CUDA_VISIBLE_DEVICES"
_SEE_WHY = "python -c \"import tensorflow as tf; tf.config.list_physical_devices('GPU')\""
# mobilefacenet of width 0.25, batch 32, two cores of an AMD EPYC, 2026-11-28, fastest step of each: 1.78 s against
# 0.50 s in two runs, 2.22 s against 0.79 s by turns in one run beside other work.
MIXED_ON_CPU = 3


def add_device_flag(parser: argparse.ArgumentParser) -> None:
    """Adds --device, which `settle_device` takes."""
    text = (
        "device for the training; auto: a GPU if the machine has one, and an error if TensorFlow does not see that "
        "GPU (default: auto)"
    )
    parser.add_argument("--device", choices=DEVICES, default="auto", help=text)


def visible_gpus() -> list[str]:
    """The GPUs that CUDA_VISIBLE_DEVICES leaves, as it names them; without it, all of the host.

    As in CUDA, an empty or negative entry hides all that follow.
    """
    listed = os.environ.get(VISIBLE)
    if listed is None:
        return [str(i) for i in range(len(device_files()))]
    gpus = [name.strip() for name in listed.split(",")]
    return gpus[: next((i for i, name in enumerate(gpus) if not name or name.startswith("-")), len(gpus))]


def are_hidden() -> bool:
    """Whether CUDA_VISIBLE_DEVICES hides every GPU."""
    return VISIBLE in os.environ and not visible_gpus()


def settle_device(choice: str) -> None:
    """Hides the GPUs for "cpu". Else checks that TensorFlow sees the GPUs that the driver shows.

    Call it before TensorFlow computes anything. Without a sign of a GPU, "auto" does not import TensorFlow.

    Args:
        choice: one of `DEVICES`.

    Raises:
        FaceError: TensorFlow sees no GPU, though the driver shows one or "gpu" asks for one.
    """
    if choice == "cpu":
        os.environ[VISIBLE] = ""
        return
    if are_hidden():
        if choice == "gpu":
            raise FaceError(
                f"--device gpu needs a GPU. {VISIBLE}={os.environ[VISIBLE]} hides all GPUs: unset this variable."
            )
        return
    nvidia = find_nvidia()
    if (choice == "gpu" or nvidia.signs) and not gpu_names():
        raise FaceError(unseen_gpu(nvidia))


def unseen_gpu(nvidia: Nvidia) -> str:
    """The message for a machine on which TensorFlow sees no GPU: what was found, what is missing, what mends it."""
    if not nvidia.signs:
        found = nvidia.problem or "no /dev/nvidia0, no driver, no nvidia-smi"
        return f"--device gpu needs a GPU. Found: {found}. Install the NVIDIA driver, or use --device cpu."
    missing, mend = _what_is_missing(nvidia)
    found = ", ".join(nvidia.signs) + (f", driver {nvidia.driver}" if nvidia.driver else "")
    return (
        f"This machine has a GPU that TensorFlow does not see. Found: {found}. Missing: {missing}. {mend}. "
        "Or train on the CPU: --device cpu."
    )


def _what_is_missing(nvidia: Nvidia) -> tuple[str, str]:
    """(what is missing, what to do), of the first thing that is missing."""
    tf = import_tensorflow()
    build, version = tf.sysconfig.get_build_info(), tf.__version__
    install = f"Run make setup GPU=1, or in your own Python environment: pip install 'tensorflow[and-cuda]=={version}'"
    if not build.get("is_cuda_build"):
        return f"CUDA in TensorFlow {version}, which was built without it", install
    cuda = build["cuda_version"]
    if libraries := missing_libraries(cuda, build["cudnn_version"]):
        return ", ".join(libraries), install
    if not can_load("libcuda.so.1"):
        return "libcuda.so.1 of the driver", "Install the NVIDIA driver; start a container with --gpus all"
    oldest = OLDEST_DRIVER.get(cuda.split(".")[0])
    if oldest and nvidia.driver and tuple(map(int, nvidia.driver.split(".")[:2])) < oldest:
        return f"driver {oldest[0]}.{oldest[1]} or newer, for CUDA {cuda}", "Update the NVIDIA driver"
    files = [DEV / name for name in device_files()]
    if not any(os.access(file, os.R_OK | os.W_OK) for file in files):
        missing = f"permission to use {files[0]}" if files else f"{DEV / 'nvidia0'}"
        return missing, "Start a container with --gpus all; ask Slurm for a GPU with --gres=gpu:1"
    return "unknown", f"See what TensorFlow says: {_SEE_WHY}"


def gpu_names() -> list[str]:
    """The names of the GPUs that TensorFlow sees, in its order."""
    tf = import_tensorflow()
    gpus = tf.config.list_physical_devices("GPU")
    return [tf.config.experimental.get_device_details(gpu).get("device_name", "GPU") for gpu in gpus]


def num_threads() -> int:
    """The threads in which TensorFlow computes an operation on the CPU."""
    chosen = import_tensorflow().config.threading.get_intra_op_parallelism_threads()
    given = os.environ.get("TF_NUM_INTRAOP_THREADS", "")
    return chosen or (int(given) if given.isdecimal() else 0) or cores()


def training_on() -> str:
    """The first line of a training: 'training on: 1 GPU (NAME, 40 GiB)', 'training on the CPU, 2 lanes of 1 thread'."""
    names, threads = gpu_names(), num_threads()
    if not names:
        lanes = num_lanes()
        of_lanes = f"{lanes} lanes of " if lanes > 1 else ""
        return f"training on the CPU, {of_lanes}{threads} thread{'s' * (threads != 1)}"
    memory = {gpu.name: gpu.total for gpu in find_nvidia().gpus}.get(names[0], 0)
    of_all = f" of {len(names)} GPUs" if len(names) > 1 else " GPU"
    return f"training on: 1{of_all} ({names[0]}{f', {memory / (1 << 30):.0f} GiB' if memory else ''})"


def device_notes(precision: str, is_in_parts: bool = False) -> list[str]:
    """What the user should know of the device of a training.

    Args:
        precision: of the recipe.
        is_in_parts: whether the recipe normalises by parts of a batch.
    """
    names = gpu_names()
    problem = "" if names or are_hidden() else find_nvidia().problem
    notes = [f"{problem}; to use a GPU, install or repair the driver"] if problem else []
    if names and is_in_parts:
        notes.append("a GPU takes the whole batch at once: train.batch_norm = 'part' has no effect")
    if len(names) > 1:
        return [
            *notes,
            f"one process uses one GPU: python launch.py -n {len(names)} train.py ... uses all {len(names)}",
        ]
    if names or precision != "mixed_float16":
        return notes
    slower = (
        f"on a CPU a step with mixed_float16 took about {MIXED_ON_CPU} x as long as with float32 (small MobileFaceNet)"
    )
    return [*notes, f"{slower}: use --set precision=float32; tools/doctor.py measures both"]


def device_rows() -> list[tuple[str, str]]:
    """(name, value) of driver, CUDA, cuDNN, TensorFlow and devices, for a table."""
    tf, nvidia = import_tensorflow(), find_nvidia()
    build = tf.sysconfig.get_build_info()
    rows = [("driver", _driver(nvidia))]
    is_cuda = bool(build.get("is_cuda_build"))
    if is_cuda:
        missing = missing_libraries(build["cuda_version"], build["cudnn_version"])
        for name, version, of_it in (
            ("CUDA", build["cuda_version"], [each for each in missing if "cudnn" not in each]),
            ("cuDNN", build["cudnn_version"], [each for each in missing if "cudnn" in each]),
        ):
            there = f"missing: {', '.join(of_it)}" if of_it else "its libraries are there"
            rows.append((name, f"{version}, as TensorFlow was built for; {there}"))
    else:
        rows += [("CUDA", "TensorFlow was built without it"), ("cuDNN", "TensorFlow was built without it")]
    rows.append(("TensorFlow", f"{tf.__version__}, built {'with' if is_cuda else 'without'} CUDA"))
    counts = Counter(gpu_names())
    gpus = ", ".join(f"{count} x {name}" for name, count in counts.items())
    hidden = f"; {VISIBLE} hides the GPUs" if are_hidden() and nvidia.signs else ""
    return [*rows, ("devices", (gpus or "the CPU alone") + hidden)]


def free_gpu_bytes() -> int | None:
    """Bytes that are free on the GPU that a training uses; None if that is not known."""
    names = gpu_names()
    free = {gpu.name: gpu.free for gpu in find_nvidia().gpus}
    return (free.get(names[0]) if names else None) or None


def _driver(nvidia: Nvidia) -> str:
    if not nvidia.signs:
        return nvidia.problem or "none: no /dev/nvidia0, no /proc/driver/nvidia, no nvidia-smi"
    return f"{nvidia.driver or 'of unknown version'} ({', '.join(nvidia.signs)})"
