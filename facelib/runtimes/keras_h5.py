"""Models on disk (.h5): how they are written, and read for inference. Names Keras."""

from pathlib import Path

from facelib.errors import FaceError
from facelib.files import atomic_path, require_file

_UNREADABLE = (OSError, ValueError, TypeError, KeyError, IndexError, AttributeError, RuntimeError)  # h5py and Keras


def save_h5(model, path: Path) -> None:
    """Writes a Keras model as .h5, atomically."""
    with atomic_path(path) as part:
        named_h5 = part.with_suffix(".h5")  # Keras chooses the format by the name
        try:
            model.save(named_h5)
            named_h5.replace(part)
        finally:
            named_h5.unlink(missing_ok=True)


def load_model(path: Path):
    """Reads a Keras model for inference; our own layers are known by name, code inside the file is not run.

    Of an epoch-NNN.h5, which has the class centres on top, the embedder alone is returned.
    """
    import keras

    import facelib.losses.adaptive_margins
    import facelib.models.fake_quant
    import facelib.models.layers  # noqa: F401 - these register our layers with Keras

    path = require_file(path, "model")
    try:
        model = keras.models.load_model(path, compile=False)
    except _UNREADABLE as error:
        raise _not_a_model(path, error) from error
    names = [layer.name for layer in model.layers]
    if len(model.inputs) == 2 and "embeddings" in names:
        return keras.Model(model.inputs[0], model.get_layer("embeddings").output, name=path.stem)
    return model


def load_head_centres(path: Path):
    """The class centres of an epoch-NNN.h5, float32 [C * K, D]; None where the file has no head."""
    import h5py
    import numpy as np

    path, found = require_file(path, "model"), []
    try:
        with h5py.File(path) as file:
            head = file["model_weights"].get("head")
            if head is not None:
                head.visititems(lambda name, item: found.append(np.array(item)) if name.endswith("centres") else None)
    except _UNREADABLE as error:
        raise _not_a_model(path, error) from error
    return found[0] if found else None


def _not_a_model(path: Path, error: Exception) -> FaceError:
    reason = " ".join(str(error).split())[:200]
    return FaceError(f"'{path}' is not a Keras model that this project can read ({reason}). Train it again.")
