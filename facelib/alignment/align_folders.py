"""Aligns all photos of a tree of folders, in several processes. A second run makes only the missing crops."""

import csv
import errno
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache, partial
from multiprocessing import get_context, parent_process
from pathlib import Path

import cv2
from tqdm import tqdm

from facelib.alignment.align import Detector, cut_faces
from facelib.alignment.detect import FaceDetector
from facelib.alignment.photos import UnusablePhotoError, crop_names, decode_photo, further_crop
from facelib.errors import BadRecord, FaceError
from facelib.files import atomic_path, make_folder, read_image_file, read_json, target_of, write_bytes, write_json
from facelib.locks import is_held, open_folder
from facelib.part_files import sweep_parts
from facelib.photo_folders import PhotoFolder, find_photos, folder_notes
from facelib.tensorflow_env import quiet_stderr
from facelib.wording import spreadsheet_cell

SETTINGS = ".align_faces.json"  # marks a folder as ours, and says by which rule
SKIPPED = "skipped.csv"  # photos without a crop, and why
NO_FACE = "no face found"
LOW_QUALITY = "quality "  # how the reason starts for a face that is not good enough
# As large as InsightFace's own crops, a fifth of a PNG; embeddings keep cosine 0.999 to those of the exact pixels.
JPEG_QUALITY = 95


@dataclass
class Outcome:
    """The result of a run.

    Attributes:
        num_photos: all photos below the root.
        num_before: crops that were there before.
        num_written: crops that were written.
        notes: what the user should know of the folders.
        skipped: for each photo without a crop, the reason.
        several: for each photo of this run that shows several faces, how many.
        folders: names of the folders with photos; '' for the root itself.
        folders_with_crop: names of the folders with at least one crop.
    """

    num_photos: int = 0
    num_before: int = 0
    num_written: int = 0
    notes: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    several: dict[str, int] = field(default_factory=dict)
    folders: set[str] = field(default_factory=set)
    folders_with_crop: set[str] = field(default_factory=set)

    @property
    def num_faceless(self) -> int:
        return sum(why == NO_FACE for why in self.skipped.values())

    @property
    def num_low(self) -> int:
        return sum(why.startswith(LOW_QUALITY) for why in self.skipped.values())

    @property
    def num_done(self) -> int:
        return self.num_before + self.num_written + len(self.skipped)


def align_folders(
    root: Path,
    out: Path,
    *,
    rule: str,
    workers: int,
    min_quality: float = 0.0,
    progress: bool = True,
    make_detector: Callable[[], Detector] = FaceDetector,
) -> Outcome:
    """Writes the crop of each photo below `root` to the same folder below `out`; see `crop_names` for its name.

    With the rule 'all' the further faces of a photo have the names of `further_crop`. Photos that cannot be read, show
    no face, or only faces of too low a quality are listed in `SKIPPED`; they are tried again once they change. Existing
    crops stay. A run that is stopped leaves no half-written crop.

    Args:
        root: folder of photos, or of folders of photos.
        out: folder of crops, new or made by an earlier run.
        rule: which face of a photo, see `facelib.alignment.align.rank_faces`.
        workers: number of processes.
        min_quality: 0 to 1, of the faces to cut out, see `facelib.alignment.quality`.
        progress: show a progress bar.
        make_detector: called once in each process; it must be importable by name.

    Raises:
        FaceError: no photos, an `out` with other files, or a process that died.
    """
    _check_places(root, out)
    outcome = Outcome()
    folders = [_counts(folder) for folder in find_photos(root, out)]
    outcome.num_photos = sum(len(folder.photos) for folder in folders)
    outcome.folders = {folder.name for folder in folders if folder.photos}
    outcome.notes = folder_notes(folders)
    if not outcome.num_photos:
        raise FaceError(f"PHOTOS must be a folder of photos, or of folders of photos. There are no photos in '{root}'.")
    with _claimed(out, {"face": rule, "min_quality": min_quality}):
        outcome.skipped = _read_skipped(root, out)
        work = partial(_align_file, root, out, rule, min_quality, make_detector)
        bar = tqdm(
            total=outcome.num_photos, unit=" photos", desc="align", disable=None if progress else True, leave=False
        )
        try:
            with bar:
                for photo, (why, num_faces) in _in_processes(work, _missing(root, out, outcome, rule), workers):
                    if num_faces > 1:
                        outcome.several[photo] = num_faces
                    if why is None:
                        outcome.num_written += 1
                        outcome.folders_with_crop.add(os.path.dirname(photo))
                    else:
                        outcome.skipped[photo] = why
                    bar.update(outcome.num_done - bar.n)
        finally:
            _write_skipped(out, outcome.skipped)
    return outcome


def _counts(folder: PhotoFolder) -> PhotoFolder:
    """The folder with a range in place of its file names: those of millions of photos would fill the memory."""
    return replace(folder, photos=range(len(folder.photos)))  # type: ignore[arg-type]


def _check_places(root: Path, out: Path) -> None:
    if not root.is_dir():
        raise FaceError(f"PHOTOS must be a folder. There is no folder at '{root}'. Check the path.")
    if out.exists() and not out.is_dir():
        raise FaceError(f"OUT must be a folder. '{out}' is a file: choose a different name.")
    if root.resolve().is_relative_to(target_of(out)):
        raise FaceError(f"PHOTOS must not be inside OUT. OUT '{out}' contains PHOTOS '{root}': choose a different OUT.")
    sweep_parts(out, SETTINGS)  # a run that was killed while it wrote its first file leaves this alone
    if out.is_dir() and not (out / SETTINGS).exists() and any(out.iterdir()):
        raise FaceError(
            f"OUT must be a new folder, or a folder made by align_faces.py. '{out}' has other files: choose a "
            "different OUT."
        )


@contextmanager
def _claimed(out: Path, settings: dict) -> Iterator[None]:
    """Locks `out` while it is written, and refuses it when its crops were made with other settings."""
    make_folder(out)
    handle = open_folder(out)
    try:
        if handle is not None and is_held(handle):
            raise FaceError(f"Another run of align_faces.py is writing '{out}' now. Wait until it ends.")
        sweep_parts(out)
        if not (out / SETTINGS).exists():
            write_json(out / SETTINGS, settings)
        before = {"min_quality": 0.0} | read_json(out / SETTINGS, "record of a run of align_faces.py")
        for name, value in settings.items():
            if before.get(name) != value:
                flag = f"--{name.replace('_', '-')}"
                raise FaceError(
                    f"All crops of a folder must be made with the same options. '{out}' was made with {flag} "
                    f"{before.get(name)}. Received: {flag} {value}. Choose a different OUT, or use the same options."
                )
        yield
    finally:
        if handle is not None:
            os.close(handle)


def _missing(root: Path, out: Path, outcome: Outcome, rule: str) -> Iterator[tuple[str, str]]:
    """Yields (photo, crop) of the missing crops, counts the others, and removes what a killed run left."""
    for folder in find_photos(root, out):
        place = out / folder.name
        there = set(os.listdir(place)) if place.is_dir() else set()
        sweep_parts(place, listed=there)
        for photo, crop in crop_names(folder, has_further=rule == "all").items():
            path = os.path.join(folder.name, photo)
            if crop in there:
                outcome.num_before += 1
                outcome.folders_with_crop.add(folder.name)
                outcome.skipped.pop(path, None)
            elif path not in outcome.skipped:
                yield path, os.path.join(folder.name, crop)


Result = tuple[str | None, int]  # why there is no crop, or None; the number of faces in the photo


def _in_processes(
    work: Callable[[str, str], Result], tasks: Iterator[tuple[str, str]], workers: int
) -> Iterator[tuple[str, Result]]:
    """Yields (photo, result of `work(photo, crop)`) as they finish, with a few tasks queued ahead."""
    # Spawned, not forked: the threads of OpenCV do not survive a fork.
    pool = ProcessPoolExecutor(workers, get_context("spawn"), _start_worker)
    running: dict[Future[Result], str] = {}
    try:
        while True:
            while len(running) < 4 * workers and (task := next(tasks, None)):
                running[pool.submit(work, *task)] = task[0]
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(future), future.result()
    except BrokenProcessPool as error:
        raise FaceError(
            "A worker process was killed, by the system or by a user. Each worker needs about 0.3 GB of memory. Run "
            "the command again with fewer --workers: it makes the missing crops."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    """One thread a process, and the process ends with the command, however that ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the command, which then ends this
    threading.Thread(target=_end_with_parent, daemon=True).start()
    cv2.setNumThreads(1)


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:  # always so: this runs in the workers alone
        parent.join()
        os._exit(1)


@cache
def _detector(make: Callable[[], Detector]) -> Detector:
    return make()


def _align_file(
    root: Path, out: Path, rule: str, min_quality: float, make_detector: Callable[[], Detector], photo: str, crop: str
) -> Result:
    """Writes the crops of one photo, the first one last: where it is there, all are."""
    try:
        data = read_image_file(root / photo)
        with quiet_stderr():  # the decoders print warnings
            pixels = decode_photo(data, "This one")
    except (BadRecord, UnusablePhotoError) as error:
        return str(error), 0
    found, num_faces = cut_faces(pixels, _detector(make_detector), rule)
    if not found:
        return NO_FACE, 0
    good = [face for face in found if face.quality.score >= min_quality]
    if not good:
        return f"{LOW_QUALITY}{found[0].quality}", num_faces
    for number, face in reversed(list(enumerate(good, 1))):
        bgr = cv2.cvtColor(face.pixels, cv2.COLOR_RGB2BGR)
        encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1]
        try:
            place = out / (crop if number == 1 else further_crop(crop, number))
            write_bytes(place, encoded.tobytes(), sweeps=False)  # `_missing` has
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise
            return "the name is too long", num_faces
    return None, num_faces


def _read_skipped(root: Path, out: Path) -> dict[str, str]:
    """The list of an earlier run, without the photos that are gone or have changed since."""
    if not (out / SKIPPED).exists():
        return {}
    listed = (out / SKIPPED).stat().st_mtime_ns
    with open(out / SKIPPED, newline="", errors="surrogateescape", encoding="utf-8") as file:
        rows = [row for row in csv.reader(file) if len(row) == 2][1:]
    known = {}
    for photo, why in ((photo.removeprefix("'"), why) for photo, why in rows):
        try:
            if (root / photo).stat().st_ctime_ns <= listed:
                known[photo] = why
        except OSError:  # gone, or not to be read then and perhaps to be read now
            continue
    return known


def _write_skipped(out: Path, skipped: dict[str, str]) -> None:
    if not skipped:
        (out / SKIPPED).unlink(missing_ok=True)
        return
    with (
        atomic_path(out / SKIPPED) as part,
        open(part, "w", newline="", errors="surrogateescape", encoding="utf-8") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["photo", "why"])
        writer.writerows((spreadsheet_cell(photo), spreadsheet_cell(why)) for photo, why in sorted(skipped.items()))
