"""Changes to bytes, texts and JSON values, as damage and as malice make them. Each draws from the given generator."""

import random
import struct

NUMBERS = (
    0,
    1,
    -1,
    2,
    3,
    7,
    127,
    128,
    255,
    256,
    65535,
    65536,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**32,
    2**63 - 1,
    2**63,
    2**64 - 1,
)
TOKENS = (
    b"\0",
    b"\xff",
    b"\n",
    b"\r\n",
    b"..",
    b"/",
    b"../../",
    b"'",
    b'"',
    b"[",
    b"{",
    b"}",
    b"=",
    b"\xef\xbb\xbf",
    b"\xff\xfe",
    b"nan",
    b"-inf",
    b"1e400",
    b"null",
    b"true",
    b"\xed\xa0\x80",
    b"%s",
    b"$_$",
    b"\x1b[2J",
)
VALUES = (
    None,
    True,
    False,
    0,
    -1,
    1.5,
    1e308,
    float("nan"),
    float("inf"),
    2**31,
    2**63,
    2**64,
    10**30,
    "",
    "x",
    "../x",
    "a\nb",
    "\0",
    "\ud800",
    "x" * 300,
    [],
    {},
    [[]],
    [None],
    [0, 0],
    {"a": 1},
    {"": {}},
)


def mutate_bytes(data: bytes, draw: random.Random) -> bytes:
    """One to eight changes: bits, bytes, numbers of any width, blocks removed, doubled or moved, tokens, a cut."""
    out = bytearray(data)
    for _ in range(draw.choice((1, 1, 1, 2, 3, 8))):
        at = draw.randrange(len(out) + 1) if draw.random() < 0.5 else draw.randrange(min(len(out), 128) + 1)
        size = draw.choice((1, 2, 4, 8, 16, 64, 512))
        kind = draw.randrange(9)
        if kind == 0 and at < len(out):
            out[at] ^= 1 << draw.randrange(8)
        elif kind == 1 and at < len(out):
            out[at] = draw.randrange(256)
        elif kind == 2:
            code = draw.choice("BHIQ")
            number = struct.pack(draw.choice("<>") + code, draw.choice(NUMBERS) % 256 ** struct.calcsize("<" + code))
            out[at : at + len(number)] = number
        elif kind == 3:
            del out[at : at + size]
        elif kind == 4:
            out[at:at] = out[at : at + size]
        elif kind == 5:
            other = draw.randrange(len(out) + 1)
            out[at : at + size] = out[other : other + size]
        elif kind == 6:
            out[at:at] = draw.choice(TOKENS) * draw.choice((1, 1, 2, 50))
        elif kind == 7:
            out[at : at + size] = draw.randbytes(size)
        elif draw.random() < 0.4:
            del out[at:]
    return bytes(out)


def mutate_text(data: bytes, draw: random.Random) -> bytes:
    """Lines removed, doubled and swapped, words replaced, deep brackets, long numbers, another encoding, or bytes."""
    kind = draw.randrange(9)
    lines = data.split(b"\n")
    at = draw.randrange(len(lines))
    if kind == 0:
        del lines[at]
    elif kind == 1:
        lines.insert(at, draw.choice(lines))
    elif kind == 2:
        other = draw.randrange(len(lines))
        lines[at], lines[other] = lines[other], lines[at]
    elif kind == 3:
        words = lines[at].split(b" ")
        words[draw.randrange(len(words))] = draw.choice((*TOKENS, b"9" * 5000, str(draw.choice(NUMBERS)).encode()))
        lines[at] = b" ".join(words)
    elif kind == 4:
        bracket = draw.choice((b"[", b"{", b'{"a":', b"[[", b"a=[", b'a={"b"='))
        lines[at] += bracket * draw.choice((1, 3, 60_000))
    elif kind == 5:
        text = data.decode("utf-8", "replace")
        return text.encode(draw.choice(("utf-16", "utf-16-le", "utf-8-sig", "gbk", "utf-32")), "replace")
    elif kind == 6:
        return data.replace(b"\n", draw.choice((b"\r", b"\r\n", b"\n\n", b"\0", b"\t")))
    else:
        return mutate_bytes(data, draw)
    return b"\n".join(lines)


def mutate_value(value, draw: random.Random):
    """One change somewhere in a JSON value: another value, another type, a key or an element less or more."""
    if isinstance(value, dict) and value and draw.random() < 0.9:
        key, value = draw.choice(list(value)), dict(value)
        kind = draw.random()
        if kind < 0.12:
            del value[key]
        elif kind < 0.18:
            value[draw.choice(("x", "", "__class__", key + " "))] = value[key]
        else:
            value[key] = mutate_value(value[key], draw)
        return value
    if isinstance(value, list) and value and draw.random() < 0.8:
        at, value = draw.randrange(len(value)), list(value)
        kind = draw.random()
        if kind < 0.15:
            del value[at]
        elif kind < 0.3:
            value.insert(at, draw.choice(value))
        else:
            value[at] = mutate_value(value[at], draw)
        return value
    if isinstance(value, int | float) and not isinstance(value, bool) and draw.random() < 0.6:
        return draw.choice((value + 1, value - 1, -value, value * 1000, float(value), str(value), draw.choice(NUMBERS)))
    if isinstance(value, str) and draw.random() < 0.5:
        return draw.choice(
            (value[:-1], value + "x", value * 2, value.upper(), "../" + value, value + "\n", value + "\ud800")
        )
    return draw.choice(VALUES)
