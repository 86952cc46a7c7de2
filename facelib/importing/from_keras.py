"""Reads Keras models: .h5 and .keras of Keras 2 and 3, with the net or with weights only."""

from facelib.errors import FaceError
from facelib.importing.job import Imported, Job
from facelib.tensorflow_env import quiet_tensorflow


def read_h5(job: Job) -> Imported:
    """The net of an .h5, with the structure that the file describes.

    Raises:
        FaceError: a layer that holds code or has no counterpart, or pixels that nobody says.
    """
    quiet_tensorflow()
    from facelib.importing.as_ours import as_ours
    from facelib.importing.keras_parts import read_known, read_structured
    from facelib.importing.stored_weights import is_weights_only
    from facelib.runtimes.keras_h5 import load_with_heads

    if not is_weights_only(job.path):
        return as_ours(*load_with_heads(job.path), job)
    if job.structure is not None:
        return as_ours(*read_structured(job), job)
    if job.known_as is not None:
        return read_known(job)
    raise FaceError(
        f"'{job.path}' has only weights. Pass the structure of the net: --structure model.json (written by "
        "net.to_json()), or --as mobilefacenet, mobilenet or iresnet50 for the nets of bubbliiiing/arcface-keras."
    )


def read_zip(job: Job) -> Imported:
    """The net of a .keras.

    Raises:
        FaceError: as `read_h5`.
    """
    quiet_tensorflow()
    from facelib.importing import keras_parts
    from facelib.importing.as_ours import as_ours

    return as_ours(*keras_parts.read_zip(job.path), job)
