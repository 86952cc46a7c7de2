"""RecordIO against the file mxnet itself wrote, and against its own rules where that file has no example."""

import contextlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facelib.data.conversion.job import convert
from facelib.data.readers.mxnet_rec import (
    MAGIC,
    RecordFile,
    encode_record,
    face_payloads,
    pack,
    read_idx,
    unpack,
    write_rec,
)
from facelib.data.readers.sources import open_source
from facelib.errors import BadRecord, FaceError

FACES = Path(__file__).parents[3] / "shared" / "data" / "faces_mix"
needs_faces = pytest.mark.needs_data(FACES)
WORD = MAGIC.to_bytes(4, "little")
PIECES = st.lists(st.one_of(st.just(WORD), st.binary(max_size=9)), max_size=8).map(b"".join)


def jpeg(value, size=112):
    return cv2.imencode(".jpg", np.full((size, size, 3), value, np.uint8))[1].tobytes()


def write_flat(path, labels):
    write_rec(path, [pack(jpeg(7 * k % 255), label, k) for k, label in enumerate(labels)])
    return path


@needs_faces
def test_the_file_mxnet_wrote_is_read_whole_with_and_without_its_idx(tmp_path):
    (tmp_path / "train.rec").symlink_to(FACES / "train.rec")
    with_idx, without = RecordFile(FACES / "train.rec"), RecordFile(tmp_path / "train.rec")

    np.testing.assert_array_equal(with_idx.keys, without.keys)
    np.testing.assert_array_equal(with_idx.offsets, without.offsets)
    np.testing.assert_array_equal(with_idx.labels, without.labels)
    assert len(with_idx) == 1 + 26_679 + 2_818
    header, image = unpack(with_idx.read(26_679))
    assert (header.labels, header.id, image[:2]) == ([2817.0], 26_679, b"\xff\xd8")


@needs_faces
def test_our_writer_gives_the_bytes_that_mxnet_wrote():
    file = RecordFile(FACES / "train.rec")
    with open(FACES / "train.rec", "rb") as original:
        start = original.read(int(file.offsets[100]))

    assert b"".join(encode_record(file.read(k)) for k in range(100)) == start


@needs_faces
def test_the_labels_of_the_images_are_those_of_the_identity_records():
    source, file = open_source(FACES), RecordFile(FACES / "train.rec")
    for label in range(0, 2818, 97):
        start, stop = unpack(file.read(26_680 + label))[0].labels
        np.testing.assert_array_equal(np.flatnonzero(source.labels == label), np.arange(start - 1, stop - 1))


@given(st.lists(PIECES, min_size=1, max_size=5))
@settings(max_examples=150, deadline=None)
def test_payloads_with_the_magic_word_come_back(tmp_path_factory, payloads):
    path = tmp_path_factory.mktemp("rec") / "any.rec"
    write_rec(path, payloads)
    data = path.read_bytes()
    file = RecordFile(path)
    path.with_suffix(".idx").unlink()
    scanned = RecordFile(path)

    assert [file.read(k) for k in range(len(payloads))] == payloads
    np.testing.assert_array_equal(file.offsets, scanned.offsets)
    starts = [at for at in range(0, len(data), 4) if data[at : at + 4] == WORD]
    assert len(starts) >= len(
        payloads
    )  # the magic word stands at part starts only: what a resynchronising reader needs
    assert all(int.from_bytes(data[at + 4 : at + 8], "little") >> 29 <= 3 for at in starts)


def test_a_magic_word_in_an_image_makes_parts_and_the_label_is_still_found(tmp_path):
    images = [jpeg(3), jpeg(4)[:-2] + bytes(-(len(jpeg(4)) - 2) % 4) + WORD * 2 + b"\xff\xd9"]
    write_rec(tmp_path / "a.rec", [pack(image, k + 5.0, k) for k, image in enumerate(images)])
    source = open_source(tmp_path / "a.rec")

    assert source.labels.tolist() == [5, 6]
    assert [source.read(i) for i in range(2)] == images
    # the parts of a label that is itself the magic word
    strange = float(np.frombuffer(WORD, "<f4")[0])
    write_rec(tmp_path / "b.rec", [pack(images[0], strange, 0)])
    np.testing.assert_array_equal(RecordFile(tmp_path / "b.rec").labels, np.float32([strange]))


@pytest.mark.parametrize("label", [4.0, [4.0], [4.0, 9.0, 9.0]])
def test_scalar_and_array_labels_give_the_class(tmp_path, label):
    write_rec(tmp_path / "a.rec", [pack(jpeg(1), 2.0, 0), pack(jpeg(2), label, 1)])

    assert open_source(tmp_path / "a.rec").labels.tolist() == [2, 4]
    assert open_source(tmp_path / "a.rec").read(1) == jpeg(2)


def test_the_insightface_layout_leaves_header_and_identity_records_out(tmp_path):
    images = [jpeg(20 * k) for k in range(5)]
    write_rec(tmp_path / "train.rec", face_payloads(images, [0, 0, 1, 2, 2]))
    source = open_source(tmp_path)

    assert source.kind == "InsightFace RecordIO"
    assert source.labels.tolist() == [0, 0, 1, 2, 2]
    assert [source.read(i) for i in range(5)] == images
    assert source.describe(1).startswith("train.rec record 2 ")


def test_a_shuffled_im2rec_file_is_read_by_key(tmp_path):
    path = write_flat(tmp_path / "train.rec", [3, 1, 2, 1])
    keys, offsets = read_idx(path.with_suffix(".idx"))
    shuffled = {10: offsets[2], 7: offsets[0], 8: offsets[1], 99: offsets[3]}
    path.with_suffix(".idx").write_text("".join(f"{key}\t{offset}\n" for key, offset in shuffled.items()))

    assert keys.tolist() == [0, 1, 2, 3]
    assert open_source(path).labels.tolist() == [3, 1, 2, 1]
    assert open_source(path).describe(2).startswith("train.rec record 10 ")


@pytest.mark.parametrize("has_idx", [True, False])
def test_a_rec_cut_at_any_byte_is_an_error(tmp_path, has_idx):
    path = tmp_path / "train.rec"
    write_rec(path, face_payloads([b"\xff\xd8" + bytes(5), b"\xff\xd8" + WORD * 3 + bytes(3)], [0, 1]))
    data = path.read_bytes()
    if not has_idx:
        path.with_suffix(".idx").unlink()
    last_image_end = int(RecordFile(path).offsets[3])
    for size in range(len(data)):
        path.write_bytes(data[:size])
        if not has_idx and size >= last_image_end and size % 4 == 0:
            continue  # only identity records are lost, which nothing needs
        with pytest.raises(FaceError):
            open_source(path)


def test_an_idx_cut_at_any_byte_is_an_error_or_loses_no_image(tmp_path):
    path = tmp_path / "train.rec"
    write_rec(path, face_payloads([jpeg(1), jpeg(2)], [0, 1]))
    idx = path.with_suffix(".idx")
    text = idx.read_bytes()
    for size in range(len(text)):
        idx.write_bytes(text[:size])
        try:
            source = open_source(path)
        except FaceError:
            continue
        assert [source.read(i) for i in range(len(source))] == [jpeg(1), jpeg(2)]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("0\t0\n1\t999999\n", "outside the file"),
        ("0\t0\n1\t2\n", "between its words"),
        ("0\t0\n1\t4\n", "no record begins there|overlaps"),
        ("0\t0\n1\tx\n", "integers"),
        ("0\t0\n0\t40\n", "repeated"),
        ("0\t0\n1\t0\n", "repeats"),
        ("0\t0\n", "does not list"),
        ("", "empty"),
    ],
)
def test_an_idx_that_disagrees_with_its_rec_is_named(tmp_path, text, match):
    path = write_flat(tmp_path / "a.rec", [0, 1])
    path.with_suffix(".idx").write_text(text)

    with pytest.raises(FaceError, match=match):
        open_source(path)


@pytest.mark.parametrize("label", [-1.0, 0.5, float("nan"), float("inf"), 2.0**24])
def test_labels_that_are_no_class_are_refused_with_their_record(tmp_path, label):
    with pytest.raises(FaceError, match=r"a\.rec record 1 .* has"):
        open_source(write_flat(tmp_path / "a.rec", [0, label, 1]))


def test_a_label_beyond_the_identities_of_record_0_is_refused(tmp_path):
    payloads = face_payloads([jpeg(1), jpeg(2)], [0, 1])
    payloads[2] = pack(jpeg(2), 2.0, 2)
    write_rec(tmp_path / "train.rec", payloads)

    with pytest.raises(FaceError, match=r"record 2 .* has 2; 1 records have"):
        open_source(tmp_path)


def test_a_header_record_that_float32_cannot_hold_is_refused(tmp_path):
    payloads = face_payloads([jpeg(1)], [0])
    payloads[0] = pack(b"", [2.0**24 + 2, 2.0**24 + 4], 0)
    write_rec(tmp_path / "train.rec", payloads)

    with pytest.raises(FaceError, match="the largest number that float32 holds exactly"):
        open_source(tmp_path)


@given(st.binary(max_size=60))
def test_any_payload_is_a_face_or_a_bad_record(data):
    with contextlib.suppress(BadRecord):
        unpack(data)


@pytest.mark.parametrize("has_idx", [True, False])
def test_skip_bad_saves_what_a_damaged_rec_still_holds(tmp_path, has_idx):
    path = tmp_path / "train.rec"
    images = [jpeg(10 * k) for k in range(6)]
    write_rec(path, face_payloads(images, [0, 0, 1, 1, 2, 2]))
    offsets = RecordFile(path).offsets
    data = bytearray(path.read_bytes())
    data[offsets[3] : offsets[3] + 8] = bytes(8)  # image 2 loses its record header
    path.write_bytes(data[: offsets[6] + 100])  # and the file ends within image 5
    if not has_idx:
        path.with_suffix(".idx").unlink()
    source = open_source(path, skip_bad=True)

    assert [source.read(i) for i in range(len(source))] == [images[k] for k in (0, 1, 3, 4)]
    assert source.labels.tolist() == [0, 0, 1, 2]
    assert (
        len(source.bad) == 2
        and f"offset {offsets[3]})" in source.bad[0]
        and f"offset {offsets[6]})" in "".join(source.bad)
    )


def test_skip_bad_leaves_labels_out_that_are_no_class(tmp_path):
    source = open_source(write_flat(tmp_path / "a.rec", [0, -1.0, 1]), skip_bad=True)

    assert source.labels.tolist() == [0, 1]
    assert source.bad == [f"a.rec record 1 (offset {RecordFile(tmp_path / 'a.rec').offsets[1]}): label -1"]


def test_blank_lines_of_an_idx_do_not_count(tmp_path):
    write_flat(tmp_path / "a.rec", [0, 1, 2])
    idx = tmp_path / "a.idx"
    lines = idx.read_text().splitlines()
    for text in ("\n".join(lines) + "\n\n", "\n\n" + "\n \n".join(lines), "\r\n".join([*lines, "", ""])):
        idx.write_text(text)
        assert read_idx(idx)[0].tolist() == [0, 1, 2] and len(open_source(tmp_path / "a.rec")) == 3
    idx.write_text("\n".join([*lines[:2], "2", lines[2].split()[1]]))
    with pytest.raises(FaceError, match="two integers per line"):
        read_idx(idx)


@pytest.mark.parametrize("flat", [True, False])
def test_a_rec_of_which_nothing_is_left_is_one_line(tmp_path, flat):
    if flat:
        write_flat(tmp_path / "train.rec", [0.5, 1.5])
    else:
        write_rec(tmp_path / "train.rec", face_payloads([jpeg(1), jpeg(2)], [0, 1]))
        lines = (tmp_path / "train.idx").read_text().splitlines()
        (tmp_path / "train.idx").write_text(lines[0] + "\n")

    with pytest.raises(FaceError) as caught:
        convert(tmp_path / "train.rec", tmp_path / "out", skip_bad=True, progress=False)
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "text", ["2,0,112", "2,-112,-112", "2,112," + "9" * 4_000, "2,112," + "9" * 5_000, "2", "\udcff"]
)
def test_a_property_file_of_no_size_is_not_used(tmp_path, text):
    write_rec(tmp_path / "train.rec", face_payloads([jpeg(1), jpeg(2)], [0, 1]))
    (tmp_path / "property").write_text(text, errors="surrogateescape")

    source = open_source(tmp_path)
    assert source.image_size is None and "was ignored" in source.notes[0]


def test_a_property_file_with_a_byte_order_mark_is_used(tmp_path):
    write_rec(tmp_path / "train.rec", face_payloads([jpeg(1), jpeg(2)], [0, 1]))
    (tmp_path / "property").write_text("2,112,112", encoding="utf-8-sig")

    source = open_source(tmp_path)
    assert source.image_size == (112, 112) and not source.notes
