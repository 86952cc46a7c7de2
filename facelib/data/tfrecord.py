"""TFRecord files and the tf.train.Example messages in them, without TensorFlow.

A TFRecord frame is `uint64 length | uint32 crc(length) | payload | uint32 crc(payload)`, little-endian; each crc is the
CRC-32C rotated right by 15 bits plus 0xa282ead8. A tf.train.Example is the protobuf message
`features{ map<string, bytes_list | float_list | int64_list> }`.

Source: tensorflow/core/lib/io/record_writer.h and tensorflow/core/example/{example,feature}.proto.
"""

import mmap
import struct
from array import array
from functools import cache
from pathlib import Path

import numpy as np
from crc32c import crc32c

from facelib.errors import BadRecord, FaceError
from facelib.files import require_file

FRAME_BYTES = 16  # what a frame adds to its payload
_HEAD = struct.Struct("<QI")
_CRC = struct.Struct("<I")
# How TensorFlow compresses a whole file; a length that begins so would be odd, and its checksum is looked at first.
_COMPRESSED = {b"\x1f\x8b": "gzip", b"\x78\x01": "zlib", b"\x78\x9c": "zlib", b"\x78\xda": "zlib"}
_IMAGE_KEY = b"\n\timage_raw\x12"

Feature = list[bytes] | list[int] | np.ndarray


def masked_crc(data: bytes | memoryview) -> int:
    """CRC-32C of `data` in the masked form that TFRecord stores."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def frame(payload: bytes) -> bytes:
    """One TFRecord frame around `payload`."""
    size = struct.pack("<Q", len(payload))
    return b"".join((size, _CRC.pack(masked_crc(size)), payload, _CRC.pack(masked_crc(payload))))


def check_frame(data: bytes, length: int) -> None:
    """Verifies both checksums of a frame, and its length.

    Args:
        data: the frame.
        length: bytes of the payload, as the index says.

    Raises:
        BadRecord: cut short, another length, or a checksum that fails.
    """
    if len(data) != length + FRAME_BYTES:
        raise BadRecord(f"the file ends after {len(data)} of its {length + FRAME_BYTES} bytes")
    size, size_crc = _HEAD.unpack_from(data)
    crc = crc32c(data[:8])  # masked_crc written out: this runs once a record and epoch
    if ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF != size_crc:
        raise BadRecord("the checksum of its length fails: the bytes changed, or the index points to a wrong place")
    if size != length:
        raise BadRecord(f"it has {size} bytes, but the index says {length}")
    crc = crc32c(memoryview(data)[12:-4])
    if ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF != _CRC.unpack_from(data, length + 12)[0]:
        raise BadRecord("its checksum fails: the bytes changed after they were written")


def payload_of(data: bytes) -> memoryview:
    """The payload of a frame, without a check."""
    return memoryview(data)[12:-4]


def map_file(path: Path) -> mmap.mmap:
    """A read-only memory map of a file.

    Raises:
        FaceError: the file is missing or empty.
    """
    with open(require_file(path, "record file"), "rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def scan(path: Path, bad: list[str] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Walks the frames of a TFRecord file and verifies the checksum of each length.

    The checksum of a payload is verified when the record is read. Behind a wrong length the rest of the file is lost.

    Args:
        path: the file.
        bad: a list that gets a line instead of an error when the end of the file is lost.

    Returns:
        offsets: int64 [N], of the frames.
        lengths: int64 [N], bytes of the payloads.

    Raises:
        FaceError: not a TFRecord, or cut short. Names the record and the byte.
    """
    offsets, lengths = array("q"), array("q")
    with map_file(path) as data:
        position, end = 0, len(data)
        while position < end:
            length, problem = 0, ""
            if position + FRAME_BYTES <= end:
                length, crc = _HEAD.unpack_from(data, position)
                if masked_crc(data[position : position + 8]) != crc:
                    problem = "is damaged in" if offsets else "is not a TFRecord file: the header is wrong in"
            if not problem and position + FRAME_BYTES + length > end:
                problem = "ends inside"
            if problem and not offsets and (method := _COMPRESSED.get(data[:2])):
                raise FaceError(
                    f"TFRecord files must not be compressed. '{path}' is compressed with {method}. Unpack the file: "
                    f"{'gzip -dc FILE > NAME.tfrecord' if method == 'gzip' else 'write it again without compression'}."
                )
            if problem:
                where = f"'{path}' {problem} record {len(offsets)} (offset {position}, the file has {end} bytes)"
                if bad is None or not offsets:
                    raise FaceError(
                        f"A TFRecord file must consist of complete records. {where}. Make the file again, or copy it "
                        "again."
                    )
                bad.append(f"{where}: the rest of the file is not read")
                break
            offsets.append(position)
            lengths.append(length)
            position += FRAME_BYTES + length
    return np.frombuffer(offsets, np.int64), np.frombuffer(lengths, np.int64)


# ------------------------------------------------------------------------------------- tf.train.Example


def varint(value: int) -> bytes:
    """Protobuf's base-128 integer. Negative int64 values take ten bytes, as protobuf writes them."""
    value &= 0xFFFFFFFFFFFFFFFF
    if value < 0x80:
        return bytes((value,))
    if value < 0x4000:
        return bytes((value & 0x7F | 0x80, value >> 7))
    if value < 0x200000:
        return bytes((value & 0x7F | 0x80, value >> 7 & 0x7F | 0x80, value >> 14))
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


@cache
def _example_class():
    """tf.train.Example as a class of the protobuf library, without TensorFlow.

    It has a descriptor pool of its own, so that TensorFlow may define the same message in the same process.
    """
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="facelib", syntax="proto3")
    for message, fields in _EXAMPLE_PROTO.items():
        described = file.message_type.add(name=message)
        for number, (name, kind, is_repeated) in enumerate(fields, 1):
            field = described.field.add(name=name, number=number)
            field.label = kinds.LABEL_REPEATED if is_repeated else kinds.LABEL_OPTIONAL
            if kind in _EXAMPLE_PROTO:
                field.type, field.type_name = kinds.TYPE_MESSAGE, f".facelib.{kind}"
            else:
                field.type = getattr(kinds, f"TYPE_{kind}")
            if message == "Feature":
                field.oneof_index = 0
        if message == "Feature":
            described.oneof_decl.add(name="kind")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("facelib.Example"))


# tensorflow/core/example/{example,feature}.proto: message -> (field, type, is it repeated), numbered from 1. The map of
# features is written as what it is on the wire, repeated entries.
_EXAMPLE_PROTO = {
    "BytesList": [("value", "BYTES", True)],
    "FloatList": [("value", "FLOAT", True)],
    "Int64List": [("value", "INT64", True)],
    "Feature": [
        ("bytes_list", "BytesList", False),
        ("float_list", "FloatList", False),
        ("int64_list", "Int64List", False),
    ],
    "Entry": [("key", "STRING", False), ("value", "Feature", False)],
    "Features": [("feature", "Entry", True)],
    "Example": [("features", "Features", False)],
}


def decode_example(payload: bytes | memoryview) -> dict[str, Feature]:
    """The features of a tf.train.Example by their keys: lists of bytes, lists of int, or float32 arrays.

    Raises:
        BadRecord: the payload is not a tf.train.Example.
    """
    from google.protobuf.message import DecodeError

    try:
        example = _example_class().FromString(payload)
    except DecodeError as error:
        raise BadRecord("it is not a tf.train.Example") from error
    features: dict[str, Feature] = {}
    for entry in example.features.feature:
        kind = entry.value.WhichOneof("kind")
        values = getattr(entry.value, kind).value if kind else ()
        features[entry.key] = np.array(values, np.float32) if kind == "float_list" else list(values)
    return features


# ------------------------------------------------------------- our own record: image_raw, then label


# What stands before the varint of a label, by the number of its bytes.
_LABEL_HEADS = [b"\n%c\n\x05label\x12%c\x1a%c\n%c" % (13 + n, 4 + n, 2 + n, n) for n in range(11)]


def _label_entry(label: int) -> bytes:
    value = varint(label)
    return _LABEL_HEADS[len(value)] + value


def encode_image_example(image: bytes, label: int) -> bytes:
    """A tf.train.Example with the features image_raw and label: the bytes that protobuf writes, in less time."""
    tail = _label_entry(label)
    size = len(image)
    size_bytes = varint(size)
    inner = size + 1 + len(size_bytes)
    inner_bytes = varint(inner)
    feature = inner + 1 + len(inner_bytes)
    feature_bytes = varint(feature)
    entry = feature + 12 + len(feature_bytes)
    entry_bytes = varint(entry)
    total = varint(entry + 1 + len(entry_bytes) + len(tail))
    head = b"\n%b\n%b%b%b\n%b\n%b" % (total, entry_bytes, _IMAGE_KEY, feature_bytes, inner_bytes, size_bytes)
    return b"".join((head, image, tail))


def image_of_frame(data: bytes, label: int) -> bytes | None:
    """The image in a frame of what `encode_image_example` wrote with this `label`; None for bytes of another form."""
    # Lengths of two varint bytes: images of 128 to 16,320 bytes.
    if data.startswith(_IMAGE_KEY, 18) and data[36] > 0x7F:
        start = 38
        stop = start + (data[36] & 0x7F | data[37] << 7)
    elif data.startswith(_IMAGE_KEY, 20) and data[40] > 0x7F and data[41] > 0x7F:  # three bytes: up to 2 MiB
        start = 43
        stop = start + (data[40] & 0x7F | (data[41] & 0x7F) << 7 | data[42] << 14)
    else:
        return None
    return data[start:stop] if data[stop:-4] == _label_entry(label) else None
