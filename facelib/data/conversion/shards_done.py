"""Makes one data directory on many hosts: each host writes some of its shards, and a last step joins them.

Host I of N runs `prepare_data.py SOURCE OUT --shard I/N`. It reads only the records of its shards and writes
OUT.part-I-of-N beside OUT. Then `prepare_data.py merge OUT` makes OUT of the N parts: the same bytes as one host would
write. The place of every record follows from the seed, so the hosts need no communication. Only the merge knows which
identities remain. If bad images left one too small, the labels after it move down by one and the shards are written
again; otherwise the shards are linked.
"""

import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from tqdm import tqdm

from facelib.data.conversion.job import (
    Conversion,
    already_there,
    check_made_from,
    check_num_shards,
    made_from_of,
    open_job,
)
from facelib.data.conversion.two_passes import Job, fill_buckets, new_labels, too_small, write_shards
from facelib.data.data_dir import (
    INDEX,
    MAX_SHARDS,
    META,
    check_class_names,
    check_fields,
    check_image_size,
    check_rows,
    check_shards,
    hash_index,
    shard_entry,
    shard_name,
    write_frames,
    write_index,
    write_meta,
)
from facelib.data.record_reader import INDEX_DTYPE, Records
from facelib.errors import FaceError
from facelib.files import map_npy, read_json, require_file, working_folder, write_bytes

PART = "part.json"
_BLOCK = 512  # records read at once


@dataclass
class Part:
    """A finished part of a data directory.

    Attributes:
        path: the folder.
        meta: its part.json.
        index: INDEX_DTYPE [N]; the labels number the kept identities of the source.
    """

    path: Path
    meta: dict
    index: np.ndarray


def parse_part(text: str) -> tuple[int, int]:
    """'2/8' -> (2, 8)."""
    found = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text)
    part, count = map(int, found.groups()) if found else (0, 0)
    if not 1 <= part <= count:
        raise FaceError(f"--shard must be I/N: the part I (counted from 1) of N parts, such as 2/8. Received: {text}.")
    return part, count


def part_path(out: Path, part: int, count: int) -> Path:
    """Where part I of N lies."""
    return out.with_name(f"{out.name}.part-{part}-of-{count}")


def convert_part(source_path: Path, out: Path, part: int, count: int, **options) -> Conversion:
    """Writes one part of a data directory.

    Args:
        source_path: face data of any format.
        out: the data directory; the part is written beside it.
        part: from 1.
        count: number of parts.
        options: those of `facelib.data.conversion.job.open_job`.

    Raises:
        FaceError: as `convert` does, fewer shards than parts, or another part in this place.
    """
    job = open_job(source_path, Path(out), **options)
    if (job.out / META).exists():
        return already_there(job.out, job.made_from)
    check_num_shards(job)
    if job.num_shards < count:
        raise FaceError(
            f"Each host must write at least one shard. With --shard {part}/{count} there are more hosts than shards "
            f"({job.num_shards}). Use fewer hosts, or --shards {count}."
        )
    folder = part_path(job.out, part, count)
    if (folder / PART).exists():
        old = _open_part(folder)
        check_made_from(folder, old.meta["source"], job.made_from)
        return _conversion(old, was_finished=True)
    if folder.exists():
        raise FaceError(
            f"Each part must be written to a new folder. '{folder}' already exists and does not hold a part: remove it."
        )
    with working_folder(folder) as working:
        _write_part(job, part, count, working)
    return _conversion(_open_part(folder))


def _write_part(job: Job, part: int, count: int, folder: Path) -> None:
    buckets = fill_buckets(job, _shards_of(job.num_shards, part, count), folder)
    kept = np.unique(job.source.labels[job.keep])  # every host sees all of them
    labels = np.where(buckets.length > 0, np.searchsorted(kept, buckets.label), -1)
    index, entries = write_shards(buckets, labels, folder, job)
    write_index(folder / INDEX, index)
    meta = {
        "part": part,
        "parts": count,
        "num_shards": job.num_shards,
        "min_images": job.min_images,
        "image_size": list(job.check.size),
        "source": job.made_from,
        "index_sha256": hash_index(index),
        "shards": entries,
        "source_bad": job.source.bad,
        "bad": buckets.bad,
        "class_names": [job.source.class_names[k] for k in kept.tolist()],
    }
    write_bytes(folder / PART, json.dumps(meta).encode())  # as ASCII: file names need not be UTF-8


def _shards_of(num_shards: int, part: int, count: int) -> range:
    return range(num_shards * (part - 1) // count, num_shards * part // count)


def merge(out: Path, progress: bool = True) -> Conversion:
    """Makes the data directory `out` from its parts, and removes them.

    Raises:
        FaceError: a part is missing, damaged, or of another source or other options.
    """
    out = Path(out)
    if (out / META).exists():
        source = made_from_of(out)
        done = already_there(out, source)
        merged = [path for _, _, path in _find_parts(out) if (path / PART).is_file()]
        _remove_parts(out, [path for path in merged if _is_of(_open_part(path), source)])  # that merge was killed
        return done
    if out.exists():
        raise FaceError(f"OUT must be a new folder. '{out}' already exists: choose a different name.")
    parts = _open_parts(out)
    first = parts[0].meta
    index = np.concatenate([part.index for part in parts])
    counts = np.bincount(index["label"], minlength=len(first["class_names"]))
    classes = np.flatnonzero(counts >= first["min_images"])
    lines = sorted(tuple(line) for part in parts for line in part.meta["bad"])
    bad = [*first["source_bad"], *(line for _, line in lines)]
    if not len(classes):
        raise too_small(first["source"], len(bad), first["min_images"])
    with working_folder(out) as folder:
        if len(classes) == len(counts):
            shards = [entry for part in parts for entry in part.meta["shards"]]
            for part in parts:
                for entry in part.meta["shards"]:
                    _link(part.path / entry["name"], folder / entry["name"])
        else:
            index, shards = _relabel(parts, new_labels(classes, len(counts)), folder, progress)
        names = [first["class_names"][k] for k in classes.tolist()]
        write_meta(folder, index, shards, bad, names, first["image_size"], first["source"])
    _remove_parts(out, [part.path for part in parts])
    return Conversion(out, len(index), len(classes), first["num_shards"], len(bad))


def _link(path: Path, new: Path) -> None:
    """Links `new` to `path`, or copies it where the file system has no links. The part stays whole until the end."""
    try:
        os.link(path, new)
    except OSError:
        shutil.copyfile(path, new)


def _relabel(parts: list[Part], labels: np.ndarray, folder: Path, progress: bool) -> tuple[np.ndarray, list[dict]]:
    """Writes all shards again with `labels[old]`, without the records where that is -1."""
    indexes, entries = [], []
    total = sum(len(part.index) for part in parts)
    with tqdm(total=total, unit=" images", desc="merge", disable=None if progress else True, leave=False) as bar:
        for part in parts:
            files = [part.path / entry["name"] for entry in part.meta["shards"]]
            rows = part.index.copy()
            rows["shard"] -= _shards_of(part.meta["num_shards"], part.meta["part"], part.meta["parts"]).start
            records = Records(part.path, files, rows, part.meta["class_names"])
            start = 0
            for entry, file in zip(part.meta["shards"], files, strict=True):
                stop = start + entry["records"]
                kept = np.flatnonzero(labels[part.index["label"][start:stop]] >= 0) + start
                blocks = (kept[k : k + _BLOCK] for k in range(0, len(kept), _BLOCK))
                # The records of a data directory are encoded images; only those of an older system may be pixels.
                images = (cast(bytes, image) for block in blocks for image, _ in records.read_sorted(block))
                new = labels[part.index["label"][kept]].tolist()
                written, digest = write_frames(folder / file.name, images, new, entry["bytes"], bar)
                written["shard"] = int(file.name.split("-")[1])
                indexes.append(written)
                entries.append(shard_entry(folder / file.name, len(written), digest))
                start = stop
    return np.concatenate(indexes), entries


def _open_parts(out: Path) -> list[Part]:
    """All parts of `out`, in order."""
    found = _find_parts(out)
    if not found:
        raise FaceError(
            f"merge makes '{out}' from the parts beside it, but there are no parts. Make each part with "
            f"prepare_data.py SOURCE {out} --shard I/N."
        )
    counts = sorted({count for count, _, _ in found})
    if len(counts) > 1:
        raise FaceError(
            f"All parts of '{out}' must be made with the same N in --shard I/N. Received: parts with N = "
            f"{' and of '.join(map(str, counts))}. Remove the parts with the wrong N."
        )
    count = counts[0]
    missing = sorted(set(range(1, count + 1)) - {part for _, part, _ in found})
    if missing:
        which = ", ".join(f"{part}/{count}" for part in missing[:8]) + ", ..." * (len(missing) > 8)
        raise FaceError(
            f"'{out}' needs all {count} parts. Missing: {which}. Make the missing parts with --shard first."
        )
    parts = [_open_part(path) for _, _, path in found]
    for part in parts[1:]:
        check_made_from(part.path, part.meta["source"], parts[0].meta["source"])
        if part.meta["num_shards"] != parts[0].meta["num_shards"]:
            raise FaceError(
                f"All parts must come from the same conversion. '{part.path}' and '{parts[0].path}' do not. Make "
                f"'{part.path}' again."
            )
    return parts


def _remove_parts(out: Path, parts: list[Path]) -> None:
    """Removes merged parts, each under a hidden name first: what a killed merge leaves of it is removed by the next."""
    for _, _, left in _find_parts(out, ".{}.merged"):
        shutil.rmtree(left)
    for part in parts:
        shutil.rmtree(part.rename(part.with_name(f".{part.name}.merged")))


def _find_parts(out: Path, form: str = "{}") -> list[tuple[int, int, Path]]:
    """[(N, I, path)] of what lies beside `out` under the names of its parts, written as `form`; sorted."""
    pattern = re.compile(form.replace(".", r"\.").format(re.escape(out.name) + r"\.part-([0-9]+)-of-([0-9]+)"))
    siblings = out.parent.iterdir() if out.parent.is_dir() else ()
    named = ((pattern.fullmatch(path.name), path) for path in siblings)
    return sorted((int(found[2]), int(found[1]), path) for found, path in named if found)


def _is_of(part: Part, source: dict) -> bool:
    old = part.meta["source"]
    return (old["hash"], old["options"]) == (source.get("hash"), source.get("options"))


def _open_part(path: Path) -> Part:
    meta = read_json(path / PART, "part of a data directory")
    try:
        index = np.array(map_npy(require_file(path / INDEX, "index of a part"), INDEX_DTYPE, 1))
        problem = _check_meta(meta) or _check_files(path, meta, index)
    except (ValueError, OSError) as error:
        problem = str(error)
    if problem:
        raise FaceError(f"'{path}' is damaged: {problem}. Remove it, and make this part again.")
    return Part(path, meta, index)


def _check_meta(meta: dict) -> str:
    """'' for a part.json that has all its keys, else what is wrong."""
    numbers = dict.fromkeys(("part", "parts", "num_shards", "min_images"), int)
    lists = dict.fromkeys(("shards", "source_bad", "bad", "class_names"), list)
    problem = check_fields(meta, {**numbers, **lists, "index_sha256": str, "image_size": list, "source": dict})
    problem = problem or check_fields(meta["source"], {"path": str, "hash": str, "options": dict})
    problem = problem or check_fields(meta["source"]["options"], {"seed": int})
    problem = problem or check_image_size(meta["image_size"]) or check_shards(meta["shards"])
    problem = problem or check_class_names(meta["class_names"])
    for entry in [] if problem else meta["shards"]:
        problem = problem or check_fields(entry, {"records": int})
    if problem:
        return problem
    if not (1 <= meta["part"] <= meta["parts"] <= meta["num_shards"] <= MAX_SHARDS):
        return f"it is part {meta['part']} of {meta['parts']}, of {meta['num_shards']} shards"
    numbers_here = _shards_of(meta["num_shards"], meta["part"], meta["parts"])
    if [entry["name"] for entry in meta["shards"]] != [shard_name(k, meta["num_shards"]) for k in numbers_here]:
        return "the names of its shards are not those of this part"
    if not all(type(line) is str for line in meta["source_bad"]):
        return "'source_bad' is not a list of strings"
    if not all(isinstance(line, list) and [*map(type, line)] == [int, str] for line in meta["bad"]):
        return "'bad' is not a list of [number, text]"
    return ""


def _check_files(path: Path, meta: dict, index: np.ndarray) -> str:
    """'' for an index and shards that fit part.json, else what is wrong."""
    if hash_index(index) != meta["index_sha256"]:
        return "another index"
    sizes = [entry["bytes"] for entry in meta["shards"]]
    for entry, size in zip(meta["shards"], sizes, strict=True):
        if (path / entry["name"]).stat().st_size != size:
            return f"'{entry['name']}' has the wrong size"
    first = _shards_of(meta["num_shards"], meta["part"], meta["parts"]).start
    if len(index) and int(index["shard"].min()) < first:
        return f"its index lists shard {index['shard'].min()}, but its first shard is {first}"
    rows = index.copy()
    rows["shard"] -= first
    counts = np.bincount(rows["shard"], minlength=len(sizes)).tolist()
    if counts != [entry["records"] for entry in meta["shards"]]:
        return "its index and its shards have different numbers of records"
    return check_rows(rows, len(meta["class_names"]), sizes)


def _conversion(part: Part, was_finished: bool = False) -> Conversion:
    num_classes, num_bad = len(part.meta["class_names"]), len(part.meta["bad"])
    return Conversion(part.path, len(part.index), num_classes, len(part.meta["shards"]), num_bad, [], was_finished)
