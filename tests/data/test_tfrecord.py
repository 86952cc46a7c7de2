"""TFRecord framing and tf.train.Example, against TensorFlow's own writer, reader and protobuf."""

import contextlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facelib.data.tfrecord import (
    check_frame,
    decode_example,
    encode_image_example,
    frame,
    image_of_frame,
    payload_of,
    scan,
)
from facelib.errors import BadRecord, FaceError
from tests.helpers.tf_example import encode_example

INT64 = st.integers(-(2**63), 2**63 - 1)
FEATURES = st.dictionaries(
    st.text(st.characters(codec="utf-8"), max_size=8),
    st.one_of(st.lists(st.binary(max_size=300), min_size=1, max_size=3), st.lists(INT64, min_size=1, max_size=5)),
    max_size=4,
)


def checked_payload(data, length):
    check_frame(data, length)
    return bytes(payload_of(data))


@given(FEATURES)
@settings(max_examples=200, deadline=None)
def test_an_example_comes_back_as_it_was_written(features):
    assert decode_example(encode_example(features)) == features


@given(FEATURES)
@settings(max_examples=50, deadline=None)
def test_tensorflow_parses_our_example_and_we_parse_its(features):
    import tensorflow as tf

    example = tf.train.Example.FromString(encode_example(features))
    found = {
        key: list(value.bytes_list.value or value.int64_list.value) for key, value in example.features.feature.items()
    }

    assert found == features
    assert decode_example(example.SerializeToString()) == features


def test_a_float_list_comes_back_from_tensorflow():
    import tensorflow as tf

    values = np.array([0.5, -3.25, 1e-20], np.float32)
    example = tf.train.Example.FromString(encode_example({"embedding": values}))

    np.testing.assert_array_equal(np.float32(example.features.feature["embedding"].float_list.value), values)
    np.testing.assert_array_equal(decode_example(example.SerializeToString())["embedding"], values)


@given(
    st.one_of(st.integers(0, 400), st.integers(16_200, 16_500), st.integers(2_097_000, 2_097_200)),
    st.integers(0, 2**40),
)
@settings(max_examples=150, deadline=None)
def test_our_record_is_an_example_and_its_image_is_found_without_parsing(size, label):
    image = b"\xff\xd8" + bytes(size)
    payload = encode_image_example(image, label)

    assert payload == encode_example({"image_raw": image, "label": label})
    assert image_of_frame(frame(payload), label) in (image, None)
    assert image_of_frame(frame(payload), label + 1) is None
    if 200 < size < 16_250 or 16_400 < size < 2_097_000:
        assert image_of_frame(frame(payload), label) == image


def test_tensorflow_reads_our_frames_and_we_scan_its_file(tmp_path):
    import tensorflow as tf

    payloads = [b"", b"x", bytes(range(256)) * 9]
    ours, theirs = tmp_path / "ours.tfrecord", tmp_path / "theirs.tfrecord"
    ours.write_bytes(b"".join(map(frame, payloads)))
    with tf.io.TFRecordWriter(str(theirs)) as writer:
        for payload in payloads:
            writer.write(payload)

    assert ours.read_bytes() == theirs.read_bytes()
    assert [item.numpy() for item in tf.data.TFRecordDataset(str(ours))] == payloads
    offsets, lengths = scan(theirs)
    data = theirs.read_bytes()
    found = [checked_payload(data[o : o + n + 16], n) for o, n in zip(offsets.tolist(), lengths.tolist(), strict=True)]
    assert found == payloads


def test_a_file_cut_at_any_byte_is_an_error_or_whole_records(tmp_path):
    data = b"".join(map(frame, [b"abc", b"", b"defgh"]))
    ends = {19, 35, 56}
    file = tmp_path / "cut.tfrecord"
    for size in range(len(data)):
        file.write_bytes(data[:size])
        if size in ends:
            assert len(scan(file)[0]) == sorted(ends).index(size) + 1
        else:
            with pytest.raises(FaceError, match=r"ends inside|empty"):
                scan(file)


def test_every_flipped_bit_of_a_frame_is_noticed():
    data = frame(b"some payload")
    for bit in range(len(data) * 8):
        broken = bytearray(data)
        broken[bit // 8] ^= 1 << bit % 8
        with pytest.raises(BadRecord):
            check_frame(bytes(broken), 12)


@given(st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_an_example_or_a_bad_record(data):
    with contextlib.suppress(BadRecord):
        decode_example(data)


def test_a_file_that_is_no_tfrecord_is_named(tmp_path):
    file = tmp_path / "photo.tfrecord"
    file.write_bytes(b"\xff\xd8\xff\xe0" * 20)

    with pytest.raises(
        FaceError, match=r"photo\.tfrecord' is not a TFRecord file: the header is wrong in record 0 \(offset 0"
    ):
        scan(file)
