"""How many weights the description of a Keras model declares: found before any is made, for files of strangers.

A description of a few bytes may declare layers that fill any memory. What a net declares must be in its file.
"""

import math
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from facelib.errors import FaceError

MAX_RATIO = 2.5  # of the weights, as float32, to the file, which may hold them as float16
SMALL_BYTES = 2**26  # that any description may declare


def check_declared(make: Callable[[], Any], num_bytes: int, path: Path) -> None:
    """Refuses a description that declares far more weights than its file holds.

    Args:
        make: makes the model from its description. Here it makes no weight; what it raises is left to the reader.
        num_bytes: of the file that holds the weights.
        path: of the model, for the error.

    Raises:
        FaceError: the weights would take more than `SMALL_BYTES` and more than `MAX_RATIO` times `num_bytes`.
    """
    import keras
    from keras.src.backend.common import global_state

    waiting = "uninitialized_variables"  # where Keras keeps the variables of a stateless scope
    before = global_state.get_global_attribute(waiting)
    global_state.set_global_attribute(waiting, [])
    try:
        with suppress(Exception), keras.StatelessScope(initialize_variables=False):
            make()
    finally:
        variables = global_state.get_global_attribute(waiting)
        global_state.set_global_attribute(waiting, before)
    declared = 4 * sum(math.prod(variable.shape) for variable in variables)
    if declared > max(SMALL_BYTES, MAX_RATIO * num_bytes):
        raise FaceError(
            f"'{path}' describes a net with {declared / 2**30:,.1f} GiB of weights, which are not in the file. The "
            "file is damaged or was made to fill the memory. The net was not built. Get the file from its author."
        )
