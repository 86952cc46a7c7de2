"""TensorFlow ops of our own in C++, compiled for this CPU when they are first wanted. Names TensorFlow."""

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
from functools import cache
from pathlib import Path

import tensorflow as tf

from facelib.errors import FaceError
from facelib.files import atomic_path, cache_home

# The products are written for fused multiplication and addition, which ISO C++ alone does not let a compiler form.
_FLAGS = ("-O3", "-march=native", "-std=c++17", "-ffp-contract=fast", "-shared", "-fPIC", "-pthread")
_PATIENCE = 120  # seconds for a compiler; it takes one or two


@cache
def load_ops(source: Path):
    """The module of ops in `source`, which names nothing but TensorFlow's C interface and the headers beside it.

    The library is kept in the cache of this user, under a name that changes with sources, compiler, TensorFlow and CPU.

    Raises:
        FaceError: no C++ compiler, or one that does not compile it; a cache that cannot be written; a library that
            TensorFlow does not load.
    """
    compiler = shlex.split(os.environ.get("CXX") or "c++")
    if not compiler or shutil.which(compiler[0]) is None:
        raise FaceError(f"There is no C++ compiler '{' '.join(compiler)}'. Install g++ or clang.")
    flags = [*_FLAGS, f"-I{tf.sysconfig.get_include()}", *tf.sysconfig.get_link_flags()]
    sources = [path.read_bytes() for path in (source, *sorted(source.parent.glob("*.h")))]
    parts = [*sources, _run([*compiler, "--version"]).stdout.encode(), " ".join(compiler + flags).encode(), _cpu()]
    library = cache_home() / f"{source.stem}-{hashlib.sha256(b'|'.join(parts)).hexdigest()[:16]}.so"
    try:
        if not library.is_file():
            with atomic_path(library) as part:
                _compile([*compiler, str(source), *flags], part)
    except OSError as error:
        raise FaceError(
            f"Compiled ops are kept in '{library.parent}', which fails: {error.strerror}. Set XDG_CACHE_HOME to a "
            f"folder that can be written."
        ) from error
    try:
        return tf.load_op_library(str(library))
    except (tf.errors.OpError, OSError, TypeError) as error:  # the latter of a path that the locale cannot spell
        reason = str(error).splitlines()[0]
        raise FaceError(f"TensorFlow does not load '{library}': {reason}. Delete it, or set XDG_CACHE_HOME.") from error


def _compile(command: list[str], library: Path) -> None:
    done = _run([*command, "-o", str(library)])
    if done.returncode or not library.is_file():
        said = [line for line in done.stderr.splitlines() if line.strip()]
        said = [line for line in said if "error" in line] or said[-1:] or [f"exit code {done.returncode}"]
        raise FaceError(f"'{command[0]}' does not compile our C++: {said[0]}.")


def _run(command: list[str]) -> subprocess.CompletedProcess:
    environment = os.environ | {"LC_ALL": "C"}  # errors that begin with 'error'
    try:
        return subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=_PATIENCE, env=environment
        )
    except subprocess.TimeoutExpired as error:
        raise FaceError(f"The C++ compiler '{command[0]}' has not ended after {_PATIENCE} s.") from error
    except OSError as error:
        raise FaceError(f"The C++ compiler '{command[0]}' cannot be run: {error.strerror}.") from error


def _cpu() -> bytes:
    """What -march=native stands for: homes are shared by unlike machines."""
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return platform.processor().encode()
    lines = info.read_text().splitlines()
    kinds = ("model name", "flags", "CPU part", "Features")  # the latter two on ARM
    return "|".join(sorted({line for line in lines if line.startswith(kinds)})).encode()
