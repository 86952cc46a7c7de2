"""Compares an imported model with its original, writes it with its sidecar, and says how to go on."""

from pathlib import Path

import numpy as np

from facelib.errors import FaceError
from facelib.export.parity import parity_faces
from facelib.importing.job import Imported
from facelib.model_input import Io, usual_fit
from facelib.runtimes.keras_h5 import KerasEmbedder, save_h5
from facelib.self_test import make_self_test
from facelib.sidecar import write_sidecar
from facelib.unit_vectors import normalize

NUM_FACES = 2


def check_outputs(imported: Imported, path: Path) -> float | None:
    """Runs the original and the import on the same faces.

    Args:
        imported: what a reader gave.
        path: of the original, for errors.

    Returns:
        The largest difference, relative to the largest output; None where nothing runs the original.

    Raises:
        FaceError: it is above `max_difference`.
    """
    if imported.original is None:
        return None
    model = imported.model
    faces = parity_faces(tuple(model.input_shape[1:3]), NUM_FACES)
    expected = imported.original(faces)
    received = model(faces.astype(np.float32), training=False).numpy()
    if received.shape != expected.shape:
        raise FaceError(
            f"The imported net must have the output shape of '{path}', {list(expected.shape)}, but it has "
            f"{list(received.shape)}. The file holds a different network."
        )
    if imported.is_normalised:
        received = normalize(received, "face {}".format)
    difference = float(np.abs(received - expected).max() / np.abs(expected).max())
    if not difference <= imported.max_difference:
        raise FaceError(
            f"The imported net must have the same outputs as '{path}', within {imported.max_difference:g}. The "
            f"difference is {difference:.2g}: the layers have the shapes of {model.name}, but are connected in a "
            "different way, or --pixels is wrong."
        )
    return difference


def write(
    imported: Imported, out: Path, made_from: Path, difference: float | None, fit: str | None = None, **known
) -> None:
    """Writes OUT.h5 and its sidecar.

    Args:
        imported: what a reader gave.
        out: the .h5.
        made_from: the original.
        difference: of `check_outputs`.
        fit: how a face of another size gets that of the net, 'crop' | 'resize'; None for `usual_fit`.
        known: of the weights, for the sidecar: licence, training_data.
    """
    model = imported.model
    save_h5(model, out, imported.centres)
    record = {"pixels": imported.pixels, "max_difference": difference, "model": imported.table, **imported.record}
    size = tuple(model.input_shape[1:3])
    io = Io(size=size, fit=fit or usual_fit(size), embedding_size=model.outputs[0].shape[-1])
    parent = made_from if made_from.is_file() else None
    test = make_self_test(KerasEmbedder(model, io), "h5")
    write_sidecar(out, kind="h5", made_from=parent, io=io, imported=record, **known, self_test=test)


def model_table(imported: Imported, out: Path) -> str:
    """The [model] lines of a recipe that trains the import on."""
    if imported.table is None:
        table = {"backbone": "imported", "from": str(out)}
    else:
        height, width = imported.model.input_shape[1:3]
        size = {"input_size": f"{height},{width}"} if (height, width) != Io.size else {}
        table = {**imported.table, "pixels": imported.pixels, **size}
    return "\n".join(["[model]", *(f"{key} = {_toml(value)}" for key, value in table.items())])


def _toml(value) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)
