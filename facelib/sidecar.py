"""Sidecars: `X.json` beside every artefact `X` says how to feed it, what it gives, and what it was made from.

The sidecar holds the SHA-256 of its artefact: an artefact that was changed afterwards is refused.
"""

import errno
import functools
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from facelib import __version__
from facelib.errors import FaceError
from facelib.files import read_json, require_file, sha256_of, write_json
from facelib.json_schema import check_json
from facelib.model_input import PIXEL_SCALINGS, SIDECAR_SCHEMA, TEMPLATE_112, TEMPLATE_POINTS, Io, scaling_of

PACKAGES = ("tensorflow", "keras", "numpy", "opencv-python-headless", "ai-edge-litert", "onnx", "onnxruntime")
COMPARISON = {"normalise": True, "distance": "squared L2"}  # of two embeddings, for who has only the sidecar
RENAME_SECONDS = 2.0  # at most between the two renames that put an artefact and its sidecar into place


@dataclass(frozen=True)
class Sidecar:
    """What a sidecar says; the keys are those of `sidecar.schema.json`.

    Attributes:
        path: the JSON file.
        kind: kind of artefact, e.g. 'h5', 'tflite_int8'.
        sha256: SHA-256 of the artefact, 64 hex digits.
        io: how to feed the artefact.
        licence: licence of the weights; None when not known.
        training_data: what the weights were trained on; None when not known.
        rest: the whole content of the file, with the keys that have no attribute here.
    """

    path: Path
    kind: str
    sha256: str
    io: Io
    licence: str | None = None
    training_data: Any = None
    rest: dict = field(default_factory=dict)

    @property
    def is_from_flags(self) -> bool:
        """Whether `io` is what the user said with flags; other flags then replace it."""
        return self.rest.get("io_from") == "flags"


def sidecar_path(artefact: Path) -> Path:
    """`X` -> `X.json`."""
    artefact = Path(artefact)
    return artefact.with_name(artefact.name + ".json")


def write_sidecar(
    artefact: Path,
    *,
    kind: str,
    made_from: Path | None,
    io: Io | dict,
    licence: str | None = None,
    training_data: Any = None,
    **extra: Any,
) -> Path:
    """Writes `X.json` for the finished artefact `X`, atomically; returns its path.

    Args:
        artefact: the file `X`.
        kind: e.g. 'h5', 'frozen_pb', 'optimized_pb', 'tflite_int8', 'onnx'.
        made_from: the parent artefact. Its hash is recorded; its licence and training data are inherited unless they
            are given here.
        io: how to feed the artefact.
        licence: licence of the weights.
        training_data: what the weights were trained on, a JSON value.
        extra: more keys, JSON values, e.g. `calibration={...}`.
    """
    artefact = require_file(artefact, f"{kind} artefact")
    parent = read_sidecar(made_from) if made_from is not None else None
    io = io if isinstance(io, Io) else Io.from_dict(io, str(sidecar_path(artefact)))
    value = {
        "kind": kind,
        "sha256": sha256_of(artefact),
        "made_from": _describe_parent(Path(made_from), artefact) if made_from is not None else None,
        "made_by": {"argv": _tidy_argv(), "git_commit": git_commit(), "versions": package_versions()},
        "io": io.as_dict(),
        "pixel_scaling": scaling_of(io),
        "pixel_range": [0, 255],
        "template": [list(point) for point in TEMPLATE_112],
        "template_points": list(TEMPLATE_POINTS),
        "comparison": COMPARISON,
        "licence": licence if licence is not None else (parent.licence if parent else None),
        "training_data": training_data if training_data is not None else (parent.training_data if parent else None),
        **({"io_from": "flags"} if parent and parent.is_from_flags else {}),
        **extra,
    }
    write_json(sidecar_path(artefact), value)
    return sidecar_path(artefact)


def check_companion(artefact: Path, path: Path, key: str, script: str) -> Path:
    """A file that belongs to an artefact, such as its weights; returns its path.

    Args:
        artefact: its sidecar has the hash of the file.
        path: of the file.
        key: of {"path", "sha256"} in the sidecar; names the file in errors.
        script: makes both again.

    Raises:
        FaceError: the file is missing, or its SHA-256 is not the one in the sidecar.
    """
    require_file(path, f"file of {key}")
    sidecar = read_sidecar(artefact)
    expected = (sidecar.rest.get(key) or {}).get("sha256") if sidecar else None
    if expected is not None and sha256_of(path) != expected:
        raise FaceError(
            f"'{path}' was changed after the sidecar of '{Path(artefact).name}' was written (SHA-256 disagrees). "
            f"Convert the model again: {script}."
        )
    return path


def companion_record(path: Path) -> dict[str, str]:
    """What a sidecar says of a file that belongs to its artefact: {"path", "sha256"}."""
    return {"path": path.name, "sha256": sha256_of(path)}


def keep_flags(artefact: Path, kind: str, io: Io, sidecar: Sidecar | None) -> Sidecar | None:
    """Writes the sidecar of a file that came without one, so that no later command needs its flags.

    Call it once the file was run as `io` says. A file that has a sidecar keeps it, unless other flags replaced it. In a
    folder that cannot be written the flags are not kept.

    Args:
        artefact: the file.
        kind: of artefact, where no sidecar says it.
        io: how it was fed.
        sidecar: of the file; None when it has none.

    Returns: the sidecar that the file has now.
    """
    if sidecar is not None and (not sidecar.is_from_flags or sidecar.io == io):
        return sidecar
    try:
        if sidecar is None:
            write_sidecar(artefact, kind=kind, made_from=None, io=io, io_from="flags")
        else:
            write_json(sidecar.path, {**sidecar.rest, "io": io.as_dict(), "pixel_scaling": scaling_of(io)})
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        return sidecar
    return read_sidecar(artefact)


def kind_of(artefact: Path) -> str:
    """The kind of a model without a sidecar, by its suffix; a .pb is a frozen graph that may not be optimised."""
    suffix = Path(artefact).suffix[1:].lower()
    return "frozen_pb" if suffix == "pb" else suffix


def read_sidecar(artefact: Path) -> Sidecar | None:
    """The sidecar of `artefact`, or None when it has none. Does not look at the artefact itself."""
    path = sidecar_path(artefact)
    if not path.is_file():
        return None
    value = read_json(path, "sidecar")
    check_json(value, SIDECAR_SCHEMA, path, "sidecar", f"Remove it, or make '{artefact}' again.")
    return Sidecar(
        path=path,
        kind=str(value.get("kind")),
        sha256=value["sha256"],
        io=Io.from_dict(value["io"], path),
        licence=value.get("licence"),
        training_data=value.get("training_data"),
        rest=value,
    )


def check_sidecar(artefact: Path) -> Sidecar | None:
    """Like `read_sidecar`, but refuses an artefact whose SHA-256 is not the one in its sidecar.

    A training may be between the two renames: it looks again for `RENAME_SECONDS` before it refuses.
    """
    end = time.monotonic() + RENAME_SECONDS
    while True:
        sidecar = read_sidecar(require_file(artefact, "model"))
        if sidecar is None or sha256_of(artefact) == sidecar.sha256:
            return sidecar
        if sidecar.is_from_flags and sidecar.rest.get("made_from") is None:  # another file of the user, said anew
            return None
        if time.monotonic() >= end:
            raise FaceError(
                f"'{artefact}' was changed after its sidecar '{sidecar.path.name}' was written (SHA-256 disagrees). "
                "Make the artefact again, or remove the sidecar and describe the model's input with flags."
            )
        time.sleep(0.05)


def check_unchanged(artefact: Path, sha256: str) -> None:
    """Refuses an artefact that is no longer the file that was opened: results are never written under another hash.

    Args:
        artefact: its path.
        sha256: of the file before it was opened.
    """
    if not Path(artefact).is_file() or sha256_of(artefact) != sha256:
        raise FaceError(
            f"'{artefact}' was replaced while this command ran, so the results would not match the new file. Nothing "
            "was written. Run the command again."
        )


def require_raw_pixels(artefact: Path) -> Io:
    """How a model is fed that is to be trained, as its sidecar says.

    Raises:
        FaceError: it has no sidecar, or does not take raw RGB pixels, NHWC, as a training feeds them.
    """
    sidecar = check_sidecar(artefact)
    if sidecar is None:
        raise FaceError(
            f"Training uses raw RGB pixels. '{artefact}' has no sidecar that describes its input: import the model "
            f"first, python import_model.py {Path(artefact).name} OUT.h5 --pixels {'|'.join(PIXEL_SCALINGS)} --color "
            "rgb|bgr."
        )
    return check_raw_pixels(sidecar.io, artefact)


def check_raw_pixels(io: Io, artefact: Path) -> Io:
    """Refuses the input of a model that is to be trained, unless it is raw RGB pixels, NHWC; returns it."""
    if (io.layout, io.colour, io.pixels) != (Io.layout, Io.colour, Io.pixels):
        raise FaceError(
            f"Training passes raw RGB pixels (NHWC) to the net. '{artefact}' needs {io.pixels} {io.colour} pixels, "
            f"{io.layout}: import the net first with import_model.py, which adds the scaling to the net."
        )
    return io


@functools.cache
def git_commit() -> str | None:
    """Commit of the code that runs, with '+changes' when files differ from it; None when it runs from no checkout.

    Asked once a process: code that is edited during a training is not the code that runs.
    """
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():  # installed, perhaps inside the checkout of another project
        return None

    def ask(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit = ask("rev-parse", "HEAD")
    if commit is None:
        return None
    return commit + ("+changes" if ask("status", "--porcelain", "--untracked-files=no") else "")


@functools.cache
def package_versions() -> dict[str, str]:
    """Versions of Python, of MobileArc and of the installed packages that shape an artefact."""
    versions = {"python": ".".join(map(str, sys.version_info[:3])), "mobilearc": __version__}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def portable_path(path: Path, start: Path) -> str:
    """`path` relative to the folder `start`; only its name when it is more than two folders up."""
    relative = os.path.relpath(Path(path).resolve(), Path(start).resolve())
    return Path(path).name if relative.startswith(os.path.join("..", "..", "..")) else Path(relative).as_posix()


def _describe_parent(parent: Path, artefact: Path) -> dict[str, Any]:
    parent = require_file(parent, "parent artefact")
    return {"path": portable_path(parent, artefact.parent), "sha256": sha256_of(parent)}


def _tidy_argv() -> list[str]:
    """The command, with the script and absolute paths shortened to their names: a sidecar goes to other machines."""
    return [Path(word).name if i == 0 or os.path.isabs(word) else word for i, word in enumerate(sys.argv)]


def parity_record(cosines: np.ndarray) -> dict:
    """The `parity` object of a sidecar.

    Args:
        cosines: float [N], cosine of each face's embedding to that of the parent.
    """
    return {"faces": len(cosines), "min_cosine": float(cosines.min()), "mean_cosine": float(cosines.mean())}
