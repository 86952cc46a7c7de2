"""Writes any tf.train.Example by hand, as the TFRecords of older systems hold it."""

import numpy as np

from facelib.data.tfrecord import varint


def _delimited(tag, *parts):
    return b"".join((tag, varint(sum(map(len, parts))), *parts))


def encode_example(features):
    """A tf.train.Example. Values: bytes or list of bytes, int or list of int, float32 array (a float_list)."""
    entries = []
    for key, value in features.items():
        if isinstance(value, np.ndarray):
            body = _delimited(b"\x12", _delimited(b"\n", value.astype("<f4").tobytes()))
        else:
            values = [value] if isinstance(value, bytes | int) else list(value)
            if values and isinstance(values[0], bytes):
                body = _delimited(b"\n", *(_delimited(b"\n", item) for item in values))
            else:
                body = _delimited(b"\x1a", _delimited(b"\n", *map(varint, values)))
        entries.append(_delimited(b"\n", _delimited(b"\n", key.encode()), _delimited(b"\x12", body)))
    return _delimited(b"\n", *entries)
