"""Packages that only some scripts need: which extra of pyproject.toml brings each, and the line when one is missing."""

import importlib.util
import sys

from facelib.errors import FaceError

# Module -> (package, extra of pyproject.toml that brings it; '' for what every script needs).
PACKAGES = {
    "numpy": ("numpy", ""),
    "cv2": ("opencv-python-headless", ""),
    "crc32c": ("crc32c", ""),
    "filelock": ("filelock", ""),
    "jsonschema": ("jsonschema", ""),
    "tqdm": ("tqdm", ""),
    "ai_edge_litert": ("ai-edge-litert", "board"),
    "google": ("protobuf", "board"),
    "onnx": ("onnx", "onnx"),
    "onnxruntime": ("onnxruntime", "onnx"),
    "jinja2": ("jinja2", "plots"),
    "matplotlib": ("matplotlib", "plots"),
    "faiss": ("faiss-cpu", "data"),
    "fsspec": ("fsspec", "data"),
    "scipy": ("scipy", "data"),
    "sklearn": ("scikit-learn", "data"),
    "h5py": ("h5py", "train"),
    "keras": ("keras", "train"),
    "simplejpeg": ("simplejpeg", "train"),
    "tensorboard": ("tensorboard", "train"),
    "tensorflow": ("tensorflow", "train"),
}


def say_missing(module: str | None) -> str | None:
    """One line that names the missing package and its extra; None for a module that no extra brings.

    Args:
        module: the `name` of a ModuleNotFoundError; a part of a package will do.
    """
    name = (module or "").partition(".")[0]
    if name not in PACKAGES:
        return None
    package, extra = PACKAGES[name]
    whole = f'"mobilearc[{extra}]"' if extra else "mobilearc"
    return (
        f"This command needs {package}, which is not installed. Install it: pip install {whole}, or in a checkout pip "
        f"install {package}."
    )


def require(*modules: str) -> None:
    """Looks for packages that a long work will need, so that a missing one shows at the beginning. Imports none.

    Raises:
        FaceError: one of them is not installed.
    """
    for module in modules:
        if not is_installed(module):
            raise FaceError(say_missing(module) or f"This command needs {module}, which is not installed.")


def is_installed(module: str) -> bool:
    """Whether a package can be imported; nothing is imported."""
    if module in sys.modules:
        return sys.modules[module] is not None
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False
