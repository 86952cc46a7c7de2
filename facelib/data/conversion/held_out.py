"""Identities that a conversion keeps out of the training set: held out for a verification set, or left out for good."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from facelib.data.conversion.to_folders import export_folders
from facelib.data.conversion.two_passes import Job
from facelib.data.readers.sources import DerivedSource, Source
from facelib.errors import BadRecord, FaceError
from facelib.files import read_json

MADE_FROM = ".held_out.json"  # in the folder of the held-out identities; hidden, so it is no identity


@dataclass(frozen=True)
class LeaveOut:
    """Identities that are left out because a verification set has them.

    Attributes:
        described: JSON value for meta.json: the verification sets and the model.
        find: the labels of these identities, int64, of the source that is converted. It may take long.
    """

    described: dict
    find: Callable[[Source], np.ndarray]


def held_out_path(out: Path) -> Path:
    """Where the identities that are held out of the data directory `out` are written."""
    return out.with_name(f"{out.name}-held-out")


def choose_held_out(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """A seeded choice of identities with two images or more: labels, int64 [count], ascending.

    Args:
        labels: int64 [N], of the records that would be written.
        count: how many identities to hold out.
        seed: of the choice.

    Raises:
        FaceError: too few have two images, or fewer than two would stay.
    """
    sizes = np.bincount(labels)
    eligible = np.flatnonzero(sizes >= 2)
    stay = int((sizes > 0).sum()) - count
    if not 1 <= count <= len(eligible) or stay < 2:
        raise FaceError(
            "--hold-out N needs at least N identities with two or more images, and at least two other identities for "
            f"OUT. Received: --hold-out {count}; {int((sizes > 0).sum()):,} identities, {len(eligible):,} of them "
            "with two or more images."
        )
    return np.sort(np.random.default_rng([seed, 2]).permutation(eligible)[:count])


def write_held_out(job: Job) -> None:
    """Writes the identities that are held out as folders, completely or not at all, unless they are there.

    Raises:
        FaceError: another folder is in this place, or a record cannot be read.
    """
    out = held_out_path(job.out)
    if (out / MADE_FROM).is_file() and read_json(out / MADE_FROM, "record of a hold-out") == job.made_from:
        return
    if out.is_dir() and any(out.iterdir()):
        raise FaceError(
            f"--hold-out must write to a new folder. '{out}' already exists: remove it, or choose a different OUT."
        )
    source, records = job.source, job.held_out
    if job.skip_bad:
        images = job.check(records.tolist())
        records = records[[not isinstance(image, BadRecord) for image in images]]
    held = DerivedSource(source, records, source.labels[records], source.class_names, {"held_out": True})
    export_folders(held, out, job.progress, {MADE_FROM: job.made_from})
