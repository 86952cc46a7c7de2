"""Sets up TensorFlow before its first import: environment, seeds, precision, and no start-up messages."""

import importlib.util
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import cache

from facelib.errors import FaceError
from facelib.files import cache_home


def settle_environment() -> None:
    """Takes Keras and matplotlib out of the hands of this computer's settings. `import facelib` calls it.

    TensorFlow leaves oneDNN off on a CPU without AVX512-VNNI, where it makes training and embedding some 1.5 times as
    fast. It is on here, unless TF_ENABLE_ONEDNN_OPTS says otherwise.

    A ~/.keras/keras.json may ask for another backend, float16 or channels first, and KERAS_BACKEND for torch. Keras
    reads both at its first import, so it gets a home of ours. Jupyter exports a MPLBACKEND that a script may not have.

    Raises:
        FaceError: Keras was imported before, with another backend.
    """
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    os.environ["KERAS_BACKEND"] = "tensorflow"
    with suppress(FaceError):  # without a home folder there is no keras.json in it either
        os.environ["KERAS_HOME"] = str(cache_home() / "mobilearc" / "keras")
    backend = os.environ.get("MPLBACKEND", "")
    if backend.startswith("module://") and importlib.util.find_spec(backend[len("module://") :].split(".")[0]) is None:
        os.environ["MPLBACKEND"] = "agg"
    keras = sys.modules.get("keras")
    if keras is None or not hasattr(keras, "config"):
        return
    if keras.config.backend() != "tensorflow":
        raise FaceError(
            f"Keras must run on TensorFlow here. Received: the backend {keras.config.backend()}. Import "
            "facelib before keras."
        )
    keras.config.set_floatx("float32")
    keras.config.set_image_data_format("channels_last")
    keras.config.set_epsilon(1e-7)


def quiet_tensorflow() -> None:
    """Imports TensorFlow without its start-up messages. A script calls it before anything else imports TensorFlow."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with quiet_stderr():
        import tensorflow  # noqa: F401
    for name in ("tensorflow", "absl"):
        logging.getLogger(name).setLevel(logging.ERROR)


@contextmanager
def quiet_stderr() -> Iterator[None]:
    """A context that discards what is written to file descriptor 2.

    C++ libraries write start-up messages there before any log level is set. Errors are Python exceptions and are not
    lost.
    """
    sys.stderr.flush()
    stderr = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        sys.stderr.flush()
        os.dup2(stderr, 2)
        os.close(stderr)


@cache
def import_tensorflow():
    """Imports TensorFlow with the environment variables of a training, which must be set before the import."""
    # Without it every activation gets new memory from the system: page faults take a quarter of a CPU training step.
    os.environ.setdefault("TF_CPU_ALLOCATOR_USE_BFC", "true")
    quiet_tensorflow()
    import tensorflow as tf

    return tf


_TRACED_FOR_XLA = ContextVar("traced_for_xla", default=False)


@contextmanager
def for_xla() -> Iterator[None]:
    """A context in which a function is traced that XLA compiles: operations without an XLA kernel are replaced."""
    token = _TRACED_FOR_XLA.set(True)
    try:
        yield
    finally:
        _TRACED_FOR_XLA.reset(token)


def is_for_xla() -> bool:
    """Whether what is traced now is compiled by XLA as a whole; see `for_xla`."""
    return _TRACED_FOR_XLA.get()


def has_gpu() -> bool:
    """Whether this process trains on a GPU: TensorFlow sees one, and it is not hidden.

    Code that is faster only on a CPU asks here: XLA for PReLU, blocks of class centres that fit into a cache.
    """
    import tensorflow as tf

    return bool(tf.config.get_visible_devices("GPU"))


def num_lanes() -> int:
    """How many operations TensorFlow computes at the same time on the CPU, each on its own threads; 1 by default."""
    import tensorflow as tf

    return tf.config.threading.get_inter_op_parallelism_threads() or 1


def set_lanes(count: int, cores: int) -> None:
    """Lets TensorFlow compute so many operations at the same time, on a CPU; see `facelib.training.lanes`.

    Args:
        count: of lanes; 1 leaves TensorFlow's threads as they are.
        cores: that the lanes share.
    """
    if count > 1 and not has_gpu():
        set_threads(max(1, cores // count), count)


def set_up_tensorflow(seed: int, precision: str, deterministic: bool) -> None:
    """Sets memory growth, random seeds, Keras's dtype policy and determinism for a training.

    Args:
        seed: of Python, NumPy and Keras.
        precision: name of a Keras dtype policy: "float32" or "mixed_float16".
        deterministic: True for TensorFlow's deterministic ops, which are slower.
    """
    tf = import_tensorflow()
    import keras

    for gpu in tf.config.list_physical_devices("GPU"):
        tf.config.experimental.set_memory_growth(gpu, True)
    keras.utils.set_random_seed(seed)
    if deterministic:
        tf.config.experimental.enable_op_determinism()
    keras.mixed_precision.set_global_policy(precision)


def set_threads(each: int, operations: int = 1) -> None:
    """Sets the threads of TensorFlow on the CPU, unless it computes already.

    Args:
        each: threads of one operation.
        operations: that run at the same time.
    """
    import tensorflow as tf

    with suppress(RuntimeError):  # TensorFlow is running: its threads are fixed
        tf.config.threading.set_intra_op_parallelism_threads(each)
        tf.config.threading.set_inter_op_parallelism_threads(operations)
