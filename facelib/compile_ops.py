"""TensorFlow ops of our own in C++, compiled for this CPU when they are first wanted. Names TensorFlow."""

import hashlib
import os
import platform
import shutil
import subprocess
from functools import cache
from pathlib import Path

import tensorflow as tf

from facelib.cli import FaceError
from facelib.files import atomic_path, cache_home

# The products are written for fused multiplication and addition, which ISO C++ alone does not let a compiler form.
_FLAGS = ("-O3", "-march=native", "-std=c++17", "-ffp-contract=fast", "-shared", "-fPIC", "-pthread")


@cache
def load_ops(source: Path):
    """The module of ops in `source`, which names nothing but TensorFlow's C interface and the headers beside it.

    The library is kept in the cache of this user, under a name that changes with sources, compiler, TensorFlow and CPU.

    Raises:
        FaceError: no C++ compiler; or one that does not compile it, or a cache that cannot be written.
    """
    compiler = shutil.which(os.environ.get("CXX") or "c++")
    if compiler is None:
        raise FaceError(f"There is no C++ compiler '{os.environ.get('CXX') or 'c++'}'. Install g++ or clang.")
    flags = [*_FLAGS, f"-I{tf.sysconfig.get_include()}", *tf.sysconfig.get_link_flags()]
    version = subprocess.run([compiler, "--version"], capture_output=True, check=False).stdout
    sources = [path.read_bytes() for path in (source, *sorted(source.parent.glob("*.h")))]
    parts = [*sources, version, " ".join(flags).encode(), tf.__version__.encode(), _cpu()]
    library = cache_home() / f"{source.stem}-{hashlib.sha256(b'|'.join(parts)).hexdigest()[:16]}.so"
    if not library.is_file():
        with atomic_path(library) as part:
            done = subprocess.run([compiler, str(source), "-o", str(part), *flags], capture_output=True, text=True)
            if done.returncode:
                said = next((line for line in done.stderr.splitlines() if "error" in line), "it says nothing")
                raise FaceError(f"'{compiler}' does not compile {source.name}: {said}")
    try:
        return tf.load_op_library(str(library))
    except (tf.errors.OpError, OSError) as error:
        raise FaceError(f"TensorFlow does not load '{library}': {error}. Delete it; it is made again.") from error


def _cpu() -> bytes:
    """What -march=native stands for: homes are shared by unlike machines."""
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return platform.processor().encode()
    lines = info.read_text().splitlines()
    kinds = ("model name", "flags", "CPU part", "Features")  # the latter two on ARM
    return "|".join(sorted({line for line in lines if line.startswith(kinds)})).encode()
