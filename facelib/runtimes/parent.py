"""The artefact that another one was made from, as an `Embedder`: the reference of a converted model."""

from pathlib import Path

from facelib.embedder import RuntimeEmbedder
from facelib.files import sha256_of
from facelib.model_input import Io
from facelib.runtimes.open_embedder import can_open, open_embedder
from facelib.sidecar import read_sidecar


def find_parent(artefact: Path) -> Path | None:
    """The file that the sidecar says the artefact was made from: there, unchanged, and to be run here; else None.

    A board has no TensorFlow for a .pb, even if the whole export folder was copied to it.
    """
    sidecar = read_sidecar(artefact)
    named = (sidecar.rest.get("made_from") or {}) if sidecar else {}
    path = Path(artefact).parent / named.get("path", "")
    return path if path.is_file() and can_open(path) and sha256_of(path) == named.get("sha256") else None


def open_reference(path: Path, threads: int) -> RuntimeEmbedder:
    """An artefact that others are compared with, fed as its sidecar says; raw RGB pixels where it has none."""
    sidecar = read_sidecar(path)
    return open_embedder(path, sidecar.io if sidecar else Io(), threads)
