"""Data directories and older TFRecords as `Records`. TensorFlow writes the older ones and reads ours."""

import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest

from facelib.data import data_dir
from facelib.data.conversion.job import convert
from facelib.data.data_dir import hash_index, write_index
from facelib.data.readers.mxnet_rec import face_payloads, write_rec
from facelib.data.readers.open_records import open_records
from facelib.data.readers.sources import open_source
from facelib.data.record_reader import INDEX_DTYPE, Records
from facelib.errors import FaceError

LABELS = [0, 0, 0, 1, 1, 2, 3, 3, 3, 3]


def pixels(k):
    """A 112x112 image, uint8 RGB, whose red is k."""
    image = np.zeros((112, 112, 3), np.uint8)
    image[:] = (k, k // 2, 255 - k)
    return image


def jpeg(k):
    return cv2.imencode(".jpg", pixels(k)[..., ::-1])[1].tobytes()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A data directory of 10 images in 3 shards; read-only."""
    root = tmp_path_factory.mktemp("made")
    write_rec(root / "train.rec", face_payloads([jpeg(20 * k) for k in range(10)], LABELS))
    convert(root / "train.rec", root / "data", shards=3, seed=4, progress=False)
    return root / "data"


@pytest.fixture
def copy(made, tmp_path):
    """The same, to be damaged."""
    return shutil.copytree(made, tmp_path / "data")


def test_a_record_costs_less_than_24_bytes_with_its_place_in_a_permutation():
    assert INDEX_DTYPE.itemsize + 4 < 24


def test_every_image_is_there_once_with_its_label(made):
    records = open_records(made)
    found = sorted(records.read(i) for i in range(len(records)))

    assert found == sorted((jpeg(20 * k), label) for k, label in enumerate(LABELS))
    assert (records.num_classes, records.class_names) == (4, ["0", "1", "2", "3"])
    np.testing.assert_array_equal(records.labels, [records.read(i)[1] for i in range(10)])


def test_tensorflow_reads_the_same_records_in_the_same_order(made):
    import tensorflow as tf

    form = {"image_raw": tf.io.FixedLenFeature([], tf.string), "label": tf.io.FixedLenFeature([], tf.int64)}
    shards = tf.data.TFRecordDataset(sorted(map(str, made.glob("*.tfrecord"))))
    theirs = [
        (e["image_raw"].numpy(), int(e["label"])) for e in shards.map(lambda r: tf.io.parse_single_example(r, form))
    ]

    records = open_records(made)
    assert [records.read(i) for i in range(10)] == theirs
    assert records.read_sorted(np.arange(10)) == theirs


def test_a_block_is_the_records_one_by_one(made):
    records = open_records(made)
    for start in range(11):
        for stop in range(start, 11):
            assert records.read_sorted(np.arange(start, stop)) == [records.read(i) for i in range(start, stop)]


def test_a_block_takes_one_read_for_each_shard(made, monkeypatch):
    records, calls, pread = open_records(made), [], os.pread
    monkeypatch.setattr(os, "pread", lambda *args: calls.append(args) or pread(*args))
    records.read_sorted(np.arange(10))

    assert len(calls) == 3


def test_threads_read_the_same(made):
    records = open_records(made)
    order = np.random.default_rng(0).integers(0, 10, 500).tolist()
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(records.read, order)) == [records.read(i) for i in order]


def test_describe_names_shard_record_and_offset(made):
    records = open_records(made)
    lengths = [(made / f"train-{k:05d}-of-00003.tfrecord").stat().st_size for k in range(3)]

    assert records.describe(0) == "train-00000-of-00003.tfrecord record 0 (offset 0)"
    assert records.describe(9).startswith("train-00002-of-00003.tfrecord record ")
    assert records.describe(-1) == records.describe(9)
    last = records.index[9]
    assert int(last["offset"]) + int(last["length"]) + 16 == lengths[2]


def test_the_fingerprint_is_of_the_content(made, copy, tmp_path):
    same, other = open_records(copy).fingerprint, tmp_path / "other"
    convert(made.parent / "train.rec", other, shards=3, seed=5, progress=False)

    assert open_records(made).fingerprint == same
    assert open_records(other).fingerprint != same


def test_every_flipped_byte_of_a_shard_is_noticed_and_named(copy):
    shard = copy / "train-00001-of-00003.tfrecord"
    data = shard.read_bytes()
    rows = open_records(copy).index
    last = rows[rows["shard"] == 1][-1]
    for at in range(int(last["offset"]), len(data), 7):
        shard.write_bytes(data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :])
        records = open_records(copy)
        position = int(np.flatnonzero(rows["shard"] == 1)[-1])
        for read, which in ((records.read, position), (records.read_sorted, np.arange(10))):
            with pytest.raises(FaceError, match=r"train-00001-of-00003\.tfrecord record \d+ \(offset"):
                read(which)


def test_a_shard_of_another_size_is_noticed_on_opening(copy):
    shard = copy / "train-00002-of-00003.tfrecord"
    data = shard.read_bytes()
    for size in (0, 1, len(data) - 1, len(data) + 1):
        shard.write_bytes((data + b"x")[:size])
        with pytest.raises(FaceError, match=r"train-00002-of-00003\.tfrecord' must have"):
            open_records(copy)
    shard.unlink()
    with pytest.raises(FaceError, match="missing"):
        open_records(copy)


def test_a_shard_cut_while_it_is_read_is_noticed(copy):
    records = open_records(copy)
    shard = copy / "train-00000-of-00003.tfrecord"
    last = int(np.flatnonzero(records.index["shard"] == 0)[-1])
    with open(shard, "r+b") as file:
        file.truncate(shard.stat().st_size - 5)

    with pytest.raises(FaceError, match="the file ends after"):
        records.read(last)


def test_an_index_cut_or_changed_anywhere_is_noticed(copy):
    index = copy / "index.npy"
    data = index.read_bytes()
    for at in range(len(data)):
        index.write_bytes(data[:at])
        with pytest.raises(FaceError, match=r"index\.npy"):
            open_records(copy)
    for at in range(len(data) - 180, len(data), 11):
        index.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        with pytest.raises(FaceError, match=r"index\.npy"):
            open_records(copy)


def test_an_index_whose_label_disagrees_with_the_shard_is_noticed(copy):
    records = open_records(copy)
    index = records.index.copy()
    index["label"][3] += 1
    records = Records(copy, records.files, index, [*records.class_names, "one more"])

    with pytest.raises(FaceError, match=r"record 3 .*label is \d, but the index says"):
        records.read(3)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"format_version": 99}, "version 99"),
        ({"num_images": 11}, "does not match meta"),
        ({"shards": "none"}, "not the meta.json of a complete"),
        ({"class_names": None}, "not the meta.json of a complete"),
    ],
)
def test_a_changed_meta_json_is_noticed(copy, change, match):
    meta = json.loads((copy / "meta.json").read_text())
    (copy / "meta.json").write_text(json.dumps(meta | change))

    with pytest.raises(FaceError, match=match):
        open_records(copy)


def write_lie(folder, change_rows=None, **meta_changes):
    """Changes rows of the index and keys of meta.json, and sets the hash and the number of records right."""
    meta, rows = json.loads((folder / "meta.json").read_text()), np.load(folder / "index.npy")
    rows = rows if change_rows is None else change_rows(rows)
    write_index(folder / "index.npy", rows)
    meta |= {"num_images": len(rows), "index": {"name": "index.npy", "sha256": hash_index(rows)}} | meta_changes
    (folder / "meta.json").write_text(json.dumps(meta))


def with_value(field, value, k=4):
    def change(rows):
        rows[field][k] = value
        return rows

    return change


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (with_value("label", 4), "record 4 has label 4, but there are only 4 classes"),
        (with_value("label", -1, 9), "record 9 has label -1"),
        (with_value("label", 2**63 - 1), "label 9223372036854775807"),
        (with_value("label", -(2**63)), "label -9223372036854775808"),
        (with_value("shard", 3, 0), "record 0 lies in shard 3, but there are only 3 shards"),
        (with_value("shard", 65535), "shard 65535"),
        (with_value("offset", 2**32 - 1), "record 4 ends at byte"),
        (with_value("length", 2**32 - 1), "record 4 ends at byte"),
        (with_value("length", 100_000, 0), "record 0 ends at byte"),
        (lambda rows: rows[:0], "lists no record"),
    ],
)
def test_an_index_that_lies_is_refused_on_opening(copy, change, match):
    write_lie(copy)
    assert len(open_records(copy)) == 10
    write_lie(copy, change)

    with pytest.raises(FaceError, match=match):
        open_records(copy)


def test_the_last_row_of_every_block_is_checked(copy, monkeypatch):
    monkeypatch.setattr(data_dir, "_CHECKED_ROWS", 3)
    assert len(open_records(copy)) == 10
    for k in range(10):
        write_lie(copy, with_value("label", 4, k))
        with pytest.raises(FaceError, match=f"record {k} has label 4"):
            open_records(copy)
        write_lie(copy, with_value("label", 0, k))


WRONG = [
    None,
    True,
    -1,
    2**64 - 1,
    0.5,
    float("inf"),
    "",
    "../x",
    "/etc/passwd",
    "x" * 300,
    "\ud800",
    [],
    [1],
    [[]],
    {},
    {"a": 1},
]


@pytest.mark.parametrize(
    "path",
    [
        *(("num_images",), ("class_names",), ("class_names", 1), ("index",), ("index", "sha256")),
        *(("shards",), ("shards", 1), ("shards", 1, "name"), ("shards", 1, "bytes")),
        *(("image_size",), ("image_size", 0), ("source",), ("source", "options"), ("num_bad",), ("format_version",)),
    ],
    ids=str,
)
def test_every_key_of_meta_json_may_hold_anything(copy, path):
    """Each wrong value is one line, or says nothing that is used."""
    good = json.loads((copy / "meta.json").read_text())
    for wrong in WRONG:
        meta = json.loads(json.dumps(good))
        *parents, last = path
        inner = meta
        for key in parents:
            inner = inner[key]
        inner[last] = wrong
        (copy / "meta.json").write_text(json.dumps(meta))
        try:
            source = open_source(copy)
            assert [len(source), len(source.labels)] == [10, 10]
            convert(copy, copy.parent / "again", progress=False)
            shutil.rmtree(copy.parent / "again")
        except FaceError as error:
            assert "\n" not in str(error) and len(str(error)) < 700
        del inner[last]
        (copy / "meta.json").write_text(json.dumps(meta))
        try:
            open_source(copy)
        except FaceError as error:
            assert "\n" not in str(error)


def test_a_folder_without_meta_json_is_not_a_finished_directory(copy):
    (copy / "meta.json").unlink()
    assert not open_records(copy).is_data_dir  # its shards are still TFRecords

    with pytest.raises(FaceError, match="There are no training data"):
        open_records(copy / "nowhere")


# ------------------------------------------------------------------------------------ older layouts


def bytes_feature(tf, value):
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))


def int_feature(tf, value):
    return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))


def write_older(path, examples):
    """Writes dicts of bytes and int with TensorFlow's own writer."""
    import tensorflow as tf

    offsets, at = [], 0
    with tf.io.TFRecordWriter(str(path)) as writer:
        for example in examples:
            features = {
                key: (bytes_feature if isinstance(value, bytes) else int_feature)(tf, value)
                for key, value in example.items()
            }
            data = tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()
            writer.write(data)
            offsets.append(at)
            at += len(data) + 16
    return offsets


FLAT = np.arange(112 * 112 * 3, dtype=np.uint32).astype(np.uint8).reshape(112, 112, 3)  # all channels differ
LAYOUTS = {
    "auroua": lambda k: {"image_raw": jpeg(k), "label": k},
    "auroua_old": lambda k: {"image_raw": (pixels(k)[..., ::-1]).tobytes(), "label": k},
    "leonfaith": lambda k: {"image": pixels(k).tobytes(), "label": k},
    "s3": lambda k: {"height": 112, "width": 112, "depth": 3, "label": k, "image_raw": jpeg(k)},
    "peteryux": lambda k: {"image/source_id": k, "image/filename": b"%d.jpg" % k, "image/encoded": jpeg(k)},
    "peteryux_names": lambda k: {"image/source_id": k, "image/filename": b"images/%d.jpg" % k},
    "peteryux_paths": lambda k: {"image/source_id": k, "image/img_path": b"images/%d.jpg" % k},
    "distillation": lambda k: {"image_names": b"images/%d.jpg" % k, "image_classes": k, "embeddings": b"\0" * 8},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_older_layout_gives_rgb_pixels_or_the_bytes_as_they_are(tmp_path, layout):
    (tmp_path / "images").mkdir()
    for k in range(4):
        (tmp_path / "images" / f"{k}.jpg").write_bytes(jpeg(k))
    head = [{"classes": 4, "emb_shape": 2, "total": 4, "use_fp16": 0}] if layout == "distillation" else []
    write_older(tmp_path / "old.tfrecord", head + [LAYOUTS[layout](k) for k in range(4)])
    records = open_records(tmp_path / "old.tfrecord")

    assert (len(records), records.num_classes, records.labels.tolist()) == (4, 4, [0, 1, 2, 3])
    assert records.read_sorted(np.arange(4))[2][1] == 2
    for k in range(4):
        image, label = records.read(k)
        assert label == k
        if layout in ("auroua_old", "leonfaith"):
            np.testing.assert_array_equal(image, pixels(k))
        else:
            assert image == jpeg(k)


def test_raw_pixels_with_height_and_width_need_not_be_square(tmp_path):
    image = np.arange(6 * 4 * 3, dtype=np.uint8).reshape(6, 4, 3)
    write_older(tmp_path / "a.tfrecord", [{"image_raw": image.tobytes(), "label": 0, "height": 6, "width": 4}])

    np.testing.assert_array_equal(open_records(tmp_path / "a.tfrecord").read(0)[0], image[..., ::-1])


def test_labels_with_gaps_become_contiguous_and_keep_their_names(tmp_path):
    write_older(tmp_path / "b.tfrecords", [{"image_raw": jpeg(k), "label": label} for k, label in enumerate([7, 3, 7])])
    write_older(tmp_path / "a.tfrecords", [{"image_raw": jpeg(9), "label": 20_000_000}])
    records = open_records(tmp_path)

    assert (records.labels.tolist(), records.class_names) == ([2, 1, 0, 1], ["3", "7", "20000000"])
    assert records.read(0) == (jpeg(9), 2)
    assert records.describe(2) == "b.tfrecords record 1 (offset " + records.describe(2).rsplit(" ", 1)[1]


@pytest.mark.parametrize("from_index_file", [True, False])
def test_a_tface_set_takes_labels_from_its_index_text(tmp_path, from_index_file):
    folder = tmp_path / "TFR-X"
    folder.mkdir()
    places = [
        (s, o)
        for s in (0, 1)
        for o in write_older(folder / f"TFR-X-{s:05d}.tfrecord", [{"image": jpeg(s + k)} for k in (0, 10)])
    ]
    lines = [f"TFR-X\t{s}\t{o}\t{label}\n" for (s, o), label in zip(places, [1, 0, 1, 2], strict=True)]
    (tmp_path / "TFR-X.txt").write_text("".join(reversed(lines)))
    records = open_records(tmp_path / "TFR-X.txt" if from_index_file else folder)

    assert [records.read(i) for i in range(4)] == [(jpeg(0), 1), (jpeg(10), 0), (jpeg(1), 1), (jpeg(11), 2)]
    (tmp_path / "TFR-X.txt").write_text("TFR-X\t0\t5\t0\n")
    with pytest.raises(FaceError, match="no record begins"):
        open_records(tmp_path / "TFR-X.txt")
    (tmp_path / "TFR-X.txt").unlink()
    with pytest.raises(FaceError, match="index text file"):
        open_records(folder)


@pytest.mark.parametrize(
    ("example", "match"),
    [
        ({"picture": b"x", "label": 1}, "picture"),
        ({"image_raw": b"x", "label": b"y"}, "not one int64"),
        ({"image_raw": b"x", "label": -1}, "must be 0 or greater"),
    ],
)
def test_records_of_no_known_layout_are_named(tmp_path, example, match):
    write_older(tmp_path / "odd.tfrecord", [example])

    with pytest.raises(FaceError, match=match):
        open_records(tmp_path / "odd.tfrecord")


def test_a_record_with_neither_image_nor_pixels_is_named(tmp_path):
    write_older(tmp_path / "odd.tfrecord", [{"image_raw": b"no image", "label": 0}])

    with pytest.raises(FaceError, match=r"odd\.tfrecord record 0 .*neither JPEG nor PNG nor raw"):
        open_records(tmp_path / "odd.tfrecord").read(0)


def test_a_missing_image_file_of_a_path_layout_is_named(tmp_path):
    write_older(tmp_path / "p.tfrecord", [{"image/source_id": 0, "image/filename": b"gone.jpg"}])

    with pytest.raises(FaceError, match=r"p\.tfrecord record 0 .*gone\.jpg"):
        open_records(tmp_path / "p.tfrecord").read(0)


def test_an_older_file_above_4_gib_is_read_beyond_it(tmp_path):
    from facelib.data.readers.open_records import _build
    from facelib.data.tfrecord import encode_image_example, frame
    from facelib.data.tfrecord_layouts import LAYOUTS as KNOWN

    payload = encode_image_example(jpeg(1), 0)
    far = 2**32 + 4096
    with open(tmp_path / "big.tfrecord", "wb") as file:  # a sparse file
        for offset in (0, far):
            file.seek(offset)
            file.write(frame(payload))
    offsets, sizes = np.array([0, far]), np.array([len(payload)] * 2)
    records = _build(Path("big"), [tmp_path / "big.tfrecord"], [(0, offsets, sizes, np.zeros(2, np.int64))], KNOWN[0])

    assert [records.read(i) for i in (0, 1)] == [(jpeg(1), 0)] * 2
    assert records.describe(1) == f"big.tfrecord record 1 (offset {far})"
    assert records.read_sorted(np.arange(2)) == [(jpeg(1), 0)] * 2


def test_skip_bad_keeps_the_records_before_the_end_of_a_cut_file(tmp_path):
    file = tmp_path / "a.tfrecord"
    offsets = write_older(file, [{"image_raw": jpeg(k), "label": k} for k in range(3)])
    file.write_bytes(file.read_bytes()[:-4])
    source = open_source(file, skip_bad=True)

    assert [source.read(i) for i in range(len(source))] == [jpeg(0), jpeg(1)]
    assert f"record 2 (offset {offsets[2]}" in source.bad[0]
    with pytest.raises(FaceError, match="ends inside"):
        open_source(file)
