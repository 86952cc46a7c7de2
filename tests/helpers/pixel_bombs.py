"""Small files whose headers claim 900 million pixels, written byte by byte from the formats."""

import struct

SIDE = 30_000


def tiff(order, width, height, kind="I", is_big=False):
    code = {"H": 3, "I": 4, "Q": 16}[kind]
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + ("HHHQ" if is_big else "HI"), *(
        (43, 8, 0, 16) if is_big else (42, 8)))  # fmt: skip
    entries = b""
    for tag, value in ((256, width), (257, height)):
        packed = struct.pack(order + kind, value).ljust(8 if is_big else 4, b"\0")
        entries += struct.pack(order + ("HHQ" if is_big else "HHI"), tag, code, 1) + packed
    return head + struct.pack(order + ("Q" if is_big else "H"), 2) + entries + bytes(8)


def webp(chunk):
    return b"RIFF" + struct.pack("<I", len(chunk) + 4) + b"WEBP" + chunk


def bombs():
    side = SIDE - 1
    return {
        "bmp": b"BM" + bytes(12) + struct.pack("<IiiHHI", 40, SIDE, -SIDE, 1, 8, 1) + bytes(1200),
        "gif": b"GIF89a" + struct.pack("<HHBBB", SIDE, SIDE, 0x80, 0, 0) + bytes(40),
        "webp": webp(b"VP8X\x0a\0\0\0\x02\0\0\0" + side.to_bytes(3, "little") * 2 + bytes(40)),
        "lossless webp": webp(b"VP8L\x20\0\0\0\x2f" + struct.pack("<I", 16_382 | 16_382 << 14) + bytes(40)),
        "lossy webp": webp(b"VP8 \x20\0\0\0\0\0\0\x9d\x01\x2a" + struct.pack("<HH", 16_383, 16_383) + bytes(40)),
        "ppm": b"P6\n# a comment\n30000\t30000\n255\n" + bytes(40),
        "avif": b"\0\0\0\x20ftypavif" + bytes(16) + b"\0\0\0\x14ispe\0\0\0\0" + struct.pack(">II", SIDE, SIDE),
        "jp2": b"\0\0\0\x0cjP  \r\n\x87\n" + b"\xff\x4f\xff\x51\0\x2f\0\0" + struct.pack(">4I", SIDE, SIDE, 0, 0),
        **{
            f"tiff {order} {kind} {is_big}": tiff(order, SIDE, SIDE, kind, is_big)
            for order in "<>"
            for kind, is_big in (("H", False), ("I", False), ("Q", True), ("I", True))
        },
    }
