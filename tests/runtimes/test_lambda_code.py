"""A Lambda that normalises is recognised from the bytes of its code; nothing in them is run."""

import base64
import marshal

import pytest

from facelib.runtimes.lambda_code import norm_axis, read_code

# K.l2_normalize(x, axis=..) and tf.nn.l2_normalize(x, dim=1), as these versions of Python stored them.
STORED = {
    "2.7 axis=1": (
        "YwEAAAABAAAABAAAAEMAAQBzEwAAAHQAAGoBAHwAAGQBAGQCAIMBAVMoAwAAAE50BAAAAGF4aXNpAQAAACgCAAAAdAEAAABLdAwA"
        "AABsMl9ub3JtYWxpemUoAQAAAHQBAAAAeCgAAAAAKAAAAABzEQAAAC90bXAvYXJyaXZlL21rLnB5dAgAAAA8bGFtYmRhPgMAAAB0"
        "AAAAAA=="
    ),
    "2.7 dim": (
        "YwEAAAABAAAABAAAAEMAAQBzFgAAAHQAAGoBAGoCAHwAAGQBAGQCAIMBAVMoAwAAAE50AwAAAGRpbWkBAAAAKAMAAAB0AgAAAHRm"
        "dAIAAABubnQMAAAAbDJfbm9ybWFsaXplKAEAAAB0AQAAAHgoAAAAACgAAAAAcxEAAAAvdG1wL2Fycml2ZS9tay5weXQIAAAAPGxh"
        "bWJkYT4DAAAAdAAAAAA="
    ),
    "3.6 axis=-1": (
        "4wEAAAAAAAAAAQAAAAQAAABDAAAAcw4AAAB0AGoBfABkA2QCjQJTACkETukBAAAAKQHaBGF4aXPp/////ykC2gFL2gxsMl9ub3Jt"
        "YWxpemUpAdoBeKkAcgcAAAD6ES90bXAvYXJyaXZlL21rLnB52gg8bGFtYmRhPgMAAABzAAAAAA=="
    ),
    "3.8 axis=1": (
        "4wEAAAAAAAAAAAAAAAEAAAAEAAAAQwAAAHMOAAAAdABqAXwAZAFkAo0CUwCpA07pAQAAAKkB2gRheGlzqQLaAUvaDGwyX25vcm1h"
        "bGl6ZakB2gF4qQByCgAAAPoRL3RtcC9hcnJpdmUvbWsucHnaCDxsYW1iZGE+AwAAAPMAAAAA"
    ),
    "3.8 dim": (
        "4wEAAAAAAAAAAAAAAAEAAAAEAAAAQwAAAHMQAAAAdABqAWoCfABkAWQCjQJTACkDTukBAAAAKQHaA2RpbakD2gJ0ZtoCbm7aDGwy"
        "X25vcm1hbGl6ZakB2gF4qQByCQAAAPoRL3RtcC9hcnJpdmUvbWsucHnaCDxsYW1iZGE+AwAAAPMAAAAA"
    ),
    "3.12 axis=1": (
        "4wEAAAAAAAAAAAAAAAQAAAADAAAA8zAAAACXAHQAAAAAAAAAAABqAwAAAAAAAAAAAAAAAAAAAAAAAHwAZAGsAqsCAAAAAAAAUwCp"
        "A07pAQAAAKkB2gRheGlzqQLaAUvaDGwyX25vcm1hbGl6ZakB2gF4cwEAAAAg+hEvdG1wL2Fycml2ZS9tay5wefoIPGxhbWJkYT5y"
        "DAAAAAMAAABzEwAAAIAAjFGPXolemEGgQYhe0w0mgADzAAAAAA=="
    ),
    "3.12 dim": (
        "4wEAAAAAAAAAAAAAAAQAAAADAAAA80QAAACXAHQAAAAAAAAAAABqAgAAAAAAAAAAAAAAAAAAAAAAAGoFAAAAAAAAAAAAAAAAAAAA"
        "AAAAfABkAawCqwIAAAAAAABTACkDTukBAAAAKQHaA2RpbakD2gJ0ZtoCbm7aDGwyX25vcm1hbGl6ZakB2gF4cwEAAAAg+hEvdG1w"
        "L2Fycml2ZS9tay5wefoIPGxhbWJkYT5yCwAAAAMAAABzQwAAAIAA9AAAeQJ7AvcAAHkCfgLxAAB5An4C9wAAeQJLA/EAAHkCSwPw"
        "AABMA00D8AAAUwNUA/AAAHkCSwPzAAB5AlUDgADzAAAAAA=="
    ),
}


def stored(function):
    return base64.b64encode(marshal.dumps(function.__code__)).decode()


def axis_of(code, **more):
    return norm_axis({"function": [code, None, None], "function_type": "lambda", **more})


@pytest.mark.parametrize("name", STORED)
def test_the_code_of_old_and_new_pythons_is_read(name):
    assert axis_of(STORED[name]) == (-1 if "-1" in name else 1)


@pytest.mark.parametrize("function", [
    lambda x: K.l2_normalize(x, axis=1),  # noqa: F821
    lambda x: tf.nn.l2_normalize(x, [1], 1e-10),  # noqa: F821
    lambda x: tf.math.l2_normalize(x, axis=1, epsilon=1e-12),  # noqa: F821
])  # fmt: skip
def test_the_code_of_this_python_is_read(function):
    assert axis_of(stored(function)) in (1, -1)


def test_a_function_that_is_named_and_arguments_beside_it():
    assert norm_axis({"function": "l2_normalize", "function_type": "function", "arguments": {"axis": 1}}) == 1
    assert axis_of(stored(lambda x, axis: K.l2_normalize(x, axis)), arguments={"axis": 0}) is None  # noqa: F821
    code = {"class_name": "__lambda__", "config": {"code": STORED["3.12 axis=1"], "defaults": None, "closure": None}}
    assert norm_axis({"function": code}) == 1  # as Keras 3 stores it


@pytest.mark.parametrize("function", [
    lambda x: K.l2_normalize(x, axis=1) * 2,  # noqa: F821
    lambda x: K.l2_normalize(x, axis=1) + K.mean(x),  # noqa: F821
    lambda x: __import__("os").system("touch /tmp/x") or K.l2_normalize(x),  # noqa: F821
    lambda x: (lambda y: K.l2_normalize(y))(eval("x")),  # noqa: F821
    lambda x: x / 255.0,
])  # fmt: skip
def test_whatever_does_more_is_not_recognised(function):
    assert axis_of(stored(function)) is None


HUGE, DEEP = (base64.b64encode(data).decode() for data in (b"(\xff\xff\xff\x7f", b")\x01" * 3000))


@pytest.mark.parametrize("text", ["", "4wEA", "!!!", None, 7, "A" * 40_000, HUGE, DEEP])
def test_bytes_that_are_no_code_are_none(text):
    assert read_code(text) is None
