"""Opens whatever train.py reads: a data directory here or in object storage, or TFRecords of an older system.

The older systems have no index: one walk over their files finds where records lie and their labels. Their feature keys
are in facelib/data/tfrecord_layouts.py.
"""

import os
from array import array
from pathlib import Path

import numpy as np

from facelib.data import tfrecord_layouts
from facelib.data.data_dir import INDEX, META, WrongIndexError, is_data_dir, open_data_dir
from facelib.data.record_reader import INDEX_DTYPE, MAX_SHARD_BYTES, OlderFiles, Records
from facelib.data.storage import StoredPath, copy_to_cache, data_path
from facelib.data.tfrecord import FRAME_BYTES, decode_example, map_file, scan
from facelib.data.tfrecord_layouts import Layout
from facelib.errors import BadRecord, FaceError
from facelib.files import require_file

SUFFIXES = (".tfrecord", ".tfrecords", ".tfr")


def open_records(path: Path | StoredPath) -> Records:
    """Opens training data.

    A data directory opens at once. Older TFRecords have no index, so every record is read: about 34,000 a second.

    Args:
        path: a data directory, here or in object storage; an older TFRecord file, a folder of them, or the index text
            file of a TFace set.

    Raises:
        FaceError: nothing there, cut short, or sizes and hashes that disagree with meta.json.
    """
    path = data_path(path)
    if isinstance(path, StoredPath):
        return _open_stored(path)
    if is_data_dir(path):
        return open_data_dir(path, path)
    if not path.exists():
        raise FaceError(f"There are no training data at '{path}'. Make them with: python prepare_data.py SOURCE {path}")
    return open_older(path)


def _open_stored(path: StoredPath) -> Records:
    folder = copy_to_cache(path, META, INDEX)
    try:
        return open_data_dir(folder, path)
    except WrongIndexError:  # damaged here, or copied while someone wrote it there
        (folder / INDEX).unlink(missing_ok=True)
        return open_data_dir(copy_to_cache(path, META, INDEX), path)


def list_tfrecords(folder: Path) -> list[Path]:
    """The TFRecord files of a folder, in name order. Compressed ones count where there are no others."""
    found = sorted(file for file in folder.iterdir() if is_tfrecord_name(file) and file.is_file())
    return [file for file in found if file.suffix != ".gz"] or found


def is_tfrecord_name(path: Path) -> bool:
    """Whether a file has the name of a TFRecord file, compressed or not."""
    return path.name.removesuffix(".gz").endswith(SUFFIXES)


def open_older(path: Path, bad: list[str] | None = None) -> Records:
    """Opens the TFRecords of an older system.

    Labels become 0 .. C-1 in the order of the stored labels, which become the class names.

    Args:
        path: a TFRecord file, a folder of them, or a TFace index text file (`name \\t shard \\t offset \\t label`).
        bad: a list that gets a line for each record that cannot be read, instead of an error.

    Raises:
        FaceError: no TFRecords, no known feature keys, or damaged.
    """
    if path.is_file() and path.suffix == ".txt":
        return _open_tface(path, bad)
    files = list_tfrecords(path) if path.is_dir() else [require_file(path, "TFRecord file")]
    if not files:
        raise FaceError(
            f"'{path}' has neither a data directory nor a TFRecord file ({', '.join(SUFFIXES)}). Make a data "
            "directory with: python prepare_data.py SOURCE OUT"
        )
    layout, size = None, None
    columns: list[tuple[int, np.ndarray, np.ndarray, np.ndarray]] = []
    for k, file in enumerate(files):
        is_first = layout is None
        layout, offsets, lengths, labels = _scan_file(file, layout, bad)
        if is_first and layout and len(offsets):
            size = _size_in(file, int(offsets[0]), int(lengths[0]), layout)
        columns.append((k, offsets, lengths, labels))
    if layout is None or not sum(len(column[1]) for column in columns):
        raise FaceError(f"'{path}' holds no image records. Make the file again, or copy it again.")
    if layout.label_key is None:
        return _find_tface_index(path, files, bad)
    records = _build(path, files, columns, layout)
    records.meta = {"image_size": list(size)} if size else {}
    return records


def _size_in(file: Path, offset: int, length: int, layout: Layout) -> tuple[int, int] | None:
    """The image size that a record declares."""
    frame = bytes(memoryview(map_file(file))[offset + 12 : offset + 12 + length])
    return tfrecord_layouts.declared_size(layout, decode_example(frame), file.parent)


def _scan_file(file: Path, layout: Layout | None, bad: list[str] | None):
    """(layout, offsets, lengths, stored labels) of the image records of one file."""
    offsets, lengths = scan(file, bad)
    keep, labels = np.ones(len(offsets), bool), array("q")
    view = memoryview(map_file(file))  # not closed by hand: an error's traceback may still hold parts of it
    for i, (offset, length) in enumerate(zip(offsets.tolist(), lengths.tolist(), strict=True)):
        try:
            features = decode_example(view[offset + 12 : offset + 12 + length])
            if tfrecord_layouts.is_header(features):
                keep[i] = False
                continue
            layout = layout or tfrecord_layouts.find_layout(features)
            if layout.label_key is None:
                break  # labels come from the TFace index
            labels.append(tfrecord_layouts.read_label(layout, features))
        except BadRecord as error:
            if bad is None or layout is None:
                raise FaceError(
                    f"Every record must be a tf.train.Example with an image and a label. '{file}' record {i} (offset "
                    f"{offset}): {error}. Make the file again, or copy it again."
                ) from error
            keep[i] = False
            bad.append(f"{file.name} record {i} (offset {offset}): {error}")
    return layout, offsets[keep], lengths[keep], np.frombuffer(labels, np.int64)


def _build(path: Path, files: list[Path], columns, layout: Layout) -> Records:
    """Joins (file number, offsets, lengths, stored labels) to one index. A file above 4 GiB becomes several shards."""
    first_bytes: list[int] = []
    file_of_shard: list[int] = []
    rows = []
    for file, offsets, lengths, labels in columns:
        order = np.argsort(offsets, kind="stable")
        offsets, lengths, labels = offsets[order], lengths[order], labels[order]
        start = 0
        while start < len(offsets):
            base = int(offsets[start])
            stop = int(np.searchsorted(offsets + lengths + FRAME_BYTES, base + MAX_SHARD_BYTES, side="right"))
            if stop == start:
                raise FaceError(
                    f"A record must be smaller than 4 GiB. The record at offset {base} of '{files[file]}' has "
                    f"{lengths[start]:,} bytes."
                )
            part = np.empty(stop - start, INDEX_DTYPE)
            part["shard"], part["offset"] = len(first_bytes), offsets[start:stop] - base
            part["length"], part["label"] = lengths[start:stop], labels[start:stop]
            rows.append(part)
            first_bytes.append(base)
            file_of_shard.append(file)
            start = stop
    if not rows:
        raise FaceError(f"'{path}' holds no readable image record. Make the file again, or copy it again.")
    index = np.concatenate(rows)
    ids, contiguous = np.unique(index["label"], return_inverse=True)
    if ids[0] < 0:
        where = int(np.argmin(index["label"]))
        raise FaceError(
            f"A label must be 0 or greater. '{path}' record {where} has label {ids[0]}. Make the file again."
        )
    index["label"] = contiguous
    index.flags.writeable = False
    has_gaps = ids[-1] != len(ids) - 1
    label_ids = ids if has_gaps else None
    names = [str(label) for label in ids.tolist()]
    return Records(path, files, index, names, older=OlderFiles(layout, label_ids, file_of_shard, first_bytes))


# -------------------------------------------------------------------------------------------- TFace


def _find_tface_index(path: Path, files: list[Path], bad) -> Records:
    name = files[0].name.rsplit("-", 1)[0]
    folder = files[0].parent
    for candidate in (folder / f"{name}.txt", folder.parent / f"{name}.txt"):
        if candidate.is_file():
            return _open_tface(candidate, bad)
    raise FaceError(
        f"'{path}' has images without labels, as TFace writes them. Use the index text file instead (usually "
        f"{name}.txt, with lines 'name TAB shard TAB offset TAB label')."
    )


def _open_tface(path: Path, bad: list[str] | None = None) -> Records:
    names, shards, all_offsets, all_labels = [], array("q"), array("q"), array("q")
    ids: dict[str, int] = {}
    with open(require_file(path, "TFace index"), encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            fields = line.rstrip("\r\n").split("\t")
            try:
                name, shard, offset, label = fields
                if "/" in name or name in ("", ".", ".."):
                    raise ValueError("not the name of a set beside the index")
                shards.append(int(shard))
                all_offsets.append(int(offset))
                all_labels.append(int(label))
            except (ValueError, OverflowError) as error:
                raise FaceError(
                    f"Each line of a TFace index must be 'name TAB shard TAB offset TAB label'. '{path}' line "
                    f"{number}: {line.strip()[:80]!r}. Make the index again with TFace's convert_new_index.py."
                ) from error
            names.append(ids.setdefault(name, len(ids)))
    if not names:
        raise FaceError(f"'{path}' is empty. Make the index again with TFace's convert_new_index.py.")
    table = np.stack([np.array(names), np.frombuffer(shards, np.int64)], 1)
    pairs, which = np.unique(table, axis=0, return_inverse=True)
    offsets, labels = np.frombuffer(all_offsets, np.int64), np.frombuffer(all_labels, np.int64)
    files = [_tface_shard(path, list(ids)[name], shard) for name, shard in pairs.tolist()]
    columns = []
    for k, file in enumerate(files):
        mine = which.reshape(-1) == k
        starts, lengths = scan(file, bad)
        place = np.searchsorted(starts, offsets[mine])
        is_there = place < len(starts)
        is_there[is_there] = starts[place[is_there]] == offsets[mine][is_there]
        if bad is not None:
            bad += [f"{file.name} offset {offset}: no record begins there" for offset in offsets[mine][~is_there]]
            mine[mine] = is_there
            place, is_there = place[is_there], is_there[is_there]
        if not is_there.all():
            missing = int(offsets[mine][~is_there][0])
            raise FaceError(
                f"'{path}' lists offset {missing} of '{file.name}', but no record begins there. Make the index again."
            )
        columns.append((k, offsets[mine], lengths[place], labels[mine]))
    return _build(path, files, columns, tfrecord_layouts.LAYOUTS[-1])


def _tface_shard(path: Path, name: str, shard: int) -> Path:
    file = f"{name}-{shard:05d}.tfrecord"
    places = [path.parent / name / file, path.parent / file, path.parent.parent / name / file]
    for place in places:
        if os.path.isfile(place):
            return place
    raise FaceError(
        f"'{path}' lists the shard '{file}', but this file is not beside the index. There is no file "
        f"{', '.join(map(str, places))}."
    )
