"""The two passes of a conversion, on a source in memory. Truth: the list of images that the source has."""

import hashlib

import cv2
import numpy as np
import pytest

from facelib.data.conversion.two_passes import (
    ImageChecker,
    Job,
    fill_buckets,
    new_labels,
    remaining_labels,
    write_shards,
)
from facelib.data.tfrecord import decode_example, payload_of, scan
from facelib.errors import BadRecord, FaceError

SIZE = (8, 8)
COUNTS = (5, 4, 1, 6)  # images of each identity


def encoded(number, size=SIZE):
    return cv2.imencode(".png", np.full((*size, 3), number, np.uint8))[1].tobytes()


class MemorySource:
    """Images in memory; `bad` are the records that cannot be read."""

    kind, path, notes, image_size, fingerprint = "memory", "memory", [], None, "0" * 64

    def __init__(self, bad=()):
        self.labels = np.repeat(np.arange(len(COUNTS)), COUNTS)
        self.class_names = [f"person {k}" for k in range(len(COUNTS))]
        self.images = [encoded(k) for k in range(len(self.labels))]
        self.unreadable, self.bad = set(bad), []

    def __len__(self):
        return len(self.labels)

    def read(self, i):
        if i in self.unreadable:
            raise BadRecord("it is lost")
        return self.images[i]

    def describe(self, i):
        return f"image {i}"


def make_job(tmp_path, source, *, num_shards=3, min_images=1, skip_bad=True, seed=7):
    keep = np.arange(len(source))
    made_from = {"path": "memory", "options": {"seed": seed}}
    check = ImageChecker(source, SIZE)
    return Job(source, tmp_path, made_from, keep, check, num_shards, min_images, skip_bad, progress=False)


def written(folder):
    """[(image, label)] of all shards in their order."""
    found = []
    for path in sorted(folder.glob("*.tfrecord")):
        data = path.read_bytes()
        for at, length in zip(*scan(path), strict=True):
            example = decode_example(payload_of(data[at : at + length + 16]))
            found.append((example["image_raw"][0], example["label"][0]))
    return found


def run(tmp_path, job):
    buckets = fill_buckets(job, range(job.num_shards), tmp_path)
    labels, classes = remaining_labels(job, buckets)
    return (*write_shards(buckets, labels, tmp_path, job), classes)


def test_both_passes_write_every_image_once_with_its_label(tmp_path):
    source = MemorySource()

    index, shards, classes = run(tmp_path, make_job(tmp_path, source))

    found = written(tmp_path)
    assert sorted(found) == sorted(zip(source.images, source.labels.tolist(), strict=True))
    assert [label for _, label in found] == index["label"].tolist() != sorted(source.labels.tolist())
    assert classes.tolist() == [0, 1, 2, 3]
    for shard in shards:
        data = (tmp_path / shard["name"]).read_bytes()
        assert (shard["bytes"], shard["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".tfrecord"] * 3  # no bucket is left


def test_the_shards_of_two_hosts_are_those_of_one(tmp_path):
    source = MemorySource()
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    whole.mkdir()
    halves.mkdir()
    run(whole, make_job(whole, source))
    for shards in (range(2), range(2, 3)):
        job = make_job(halves, source)
        buckets = fill_buckets(job, shards, halves)
        write_shards(buckets, buckets.label, halves, job)

    for path in whole.iterdir():
        assert path.read_bytes() == (halves / path.name).read_bytes()


def test_another_seed_gives_another_order(tmp_path):
    orders = []
    for seed in (1, 2):
        folder = tmp_path / str(seed)
        folder.mkdir()
        run(folder, make_job(folder, MemorySource(), seed=seed))
        orders.append(written(folder))

    assert sorted(orders[0]) == sorted(orders[1]) and orders[0] != orders[1]


def test_an_identity_that_bad_images_leave_too_small_goes_and_the_labels_close_up(tmp_path):
    source = MemorySource(bad=[5, 6, 7])  # three of the four images of identity 1
    job = make_job(tmp_path, source, min_images=2)
    buckets = fill_buckets(job, range(3), tmp_path)

    labels, classes = remaining_labels(job, buckets)

    assert classes.tolist() == [0, 3]
    expected = {0: 0, 1: -1, 2: -1, 3: 1}  # old class -> new label
    assert labels.tolist() == [expected[label] for label in buckets.label.tolist()]
    assert buckets.bad == [(k, f"image {k}: it is lost") for k in (5, 6, 7)]


def test_a_source_that_is_all_bad_leaves_no_identity(tmp_path):
    job = make_job(tmp_path, MemorySource(bad=range(16)), min_images=2)

    with pytest.raises(FaceError, match=r"After 16 bad images were left out, no identity of .* has at least 2 images"):
        remaining_labels(job, fill_buckets(job, range(3), tmp_path))


def test_the_first_bad_image_stops_the_conversion_unless_bad_ones_are_skipped(tmp_path):
    job = make_job(tmp_path, MemorySource(bad=[3]), skip_bad=False)

    with pytest.raises(FaceError, match=r"image 3: it is lost.*--skip-bad"):
        fill_buckets(job, range(3), tmp_path)


def test_new_labels_count_the_classes_that_remain():
    assert new_labels(np.array([1, 4]), 6).tolist() == [-1, 0, -1, -1, 1, -1]


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("decode", [False, True])
def test_the_checker_returns_images_in_order_and_bad_ones_as_errors(workers, decode):
    source = MemorySource(bad=[1])
    source.images[2] = encoded(2, (9, 8))
    source.images[4] = source.images[4].replace(b"IDAT", b"JDAT")  # its header and end are whole
    records = np.array([0, 1, 2, 3, 4] * 40)

    pieces = list(ImageChecker(source, SIZE, decode, workers).stream(records))

    assert max(map(len, pieces)) <= 64
    found = [image for piece in pieces for image in piece][:5]
    assert (found[0], found[3]) == (source.images[0], source.images[3])
    assert str(found[1]) == "it is lost" and "9x8, but all must be 8x8" in str(found[2])
    assert isinstance(found[4], BadRecord) == decode
