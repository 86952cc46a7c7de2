"""Structure-aware changes of whole inputs.

An input is a folder, {relative path: content}. A change keeps what a checksum would catch at once: hashes, CRCs and
counts are set right again, so that the change reaches the code behind them.
"""

import hashlib
import io
import json
import pickle
import pickletools
import random
import struct
import zipfile
from itertools import pairwise

import numpy as np

from facelib.data.record_reader import INDEX_DTYPE
from facelib.data.tfrecord import FRAME_BYTES, frame
from facelib.data.verification.bin_pickle import load_pickle
from tests.fuzz.mutators import NUMBERS, VALUES, mutate_bytes, mutate_text, mutate_value
from tests.helpers.tf_example import encode_example

Tree = dict[str, bytes]


def any_file(change=mutate_bytes, *suffixes: str):
    """Changes one file, of those that end so; sometimes one is missing or is the copy of another."""

    def changed(tree: Tree, draw: random.Random) -> Tree:
        names = [name for name in tree if name.endswith(suffixes or "")]
        name, tree = draw.choice(names), dict(tree)
        kind = draw.random()
        if kind < 0.02:
            del tree[name]
        elif kind < 0.04:
            tree[name] = tree[draw.choice(list(tree))]
        elif kind < 0.05:
            tree[name] = b""
        else:
            tree[name] = change(tree[name], draw)
        return tree

    return changed


def either(*changes):
    """One of several changes, now and then two."""

    def changed(tree: Tree, draw: random.Random) -> Tree:
        for _ in range(draw.choice((1, 1, 1, 2))):
            tree = draw.choice(changes)(tree, draw)
        return tree

    return changed


def change_json(data: bytes, draw: random.Random) -> bytes:
    """A JSON file with one to three other values; or its text is changed."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return mutate_text(data, draw)
    if draw.random() < 0.15:
        return mutate_text(data, draw)
    for _ in range(draw.choice((1, 1, 2, 3))):
        value = mutate_value(value, draw)
    return json.dumps(value).encode()


def change_json_line(data: bytes, draw: random.Random) -> bytes:
    """JSON lines, one of which is changed."""
    lines = data.split(b"\n")
    at = draw.randrange(len(lines))
    lines[at] = change_json(lines[at], draw)
    return b"\n".join(lines)


def change_npy(data: bytes, draw: random.Random) -> bytes:
    """An .npy whose header says another shape, dtype or order; or whose bytes are changed."""
    if len(data) < 10 or draw.random() < 0.3:
        return mutate_bytes(data, draw)
    end = 10 + struct.unpack("<H", data[8:10])[0]
    number = str(draw.choice(NUMBERS)).encode()
    shapes = b"(%s,)" % number, b"(3, %s)" % number, b"()", b"(%s, %s)" % (number, number), b"(" * 3000
    descr = b"'<f2'", b"'<f4'", b"'|O'", b"'<U9'", b"'|V0'", b"[('a', '<i8')]", b"'" + b"x" * 200 + b"'", b"None"
    header = b"{'descr': %s, 'fortran_order': %s, 'shape': %s, }" % (
        draw.choice(descr),
        draw.choice((b"False", b"True", b"0")),
        draw.choice(shapes),
    )
    if draw.random() < 0.5:
        header = mutate_bytes(data[10:end].rstrip(), draw)
    header = header[:65000] + b"\n"
    return data[:8] + struct.pack("<H", len(header)) + header + data[end:]


def change_pickle(data: bytes, draw: random.Random) -> bytes:
    """Other values in the two lists, other opcodes, or other bytes."""
    kind = draw.random()
    if kind < 0.35:
        images, truths = map(list, load_pickle(data))  # never pickle.loads: a changed input may be code
        for _ in range(draw.choice((1, 1, 2))):
            target = draw.choice((images, truths))
            at = draw.randrange(len(target) + 1)
            made = draw.choice(
                (
                    *VALUES,
                    b"",
                    bytearray(9),
                    np.zeros((2, 3)),
                    np.zeros(3, np.uint8),
                    np.float32(1),
                    np.bool_(1),
                    {1},
                    range(9),
                    target,
                    mutate_bytes(bytes(images[0]) if isinstance(images[0], bytes) else b"x", draw),
                    np.array(["a"]),
                    np.array([None]),
                )
            )
            target[at : at + draw.randrange(2)] = [made]
        content = draw.choice(
            (
                (images, truths),
                [images, truths],
                (images, np.array(truths, object)),
                (truths, images),
                (images,),
                images,
            )
        )
        return pickle.dumps(content, protocol=draw.randrange(6))
    if kind < 0.7:
        try:
            starts = [at for _, _, at in pickletools.genops(data)] + [len(data)]
        except Exception:
            return mutate_bytes(data, draw)
        parts = [data[a:b] for a, b in pairwise(starts)]
        extra = (
            b"(",
            b"]",
            b"}",
            b")",
            b"0",
            b"1",
            b"2",
            b"a",
            b"e",
            b"t",
            b"l",
            b"s",
            b"u",
            b"b",
            b"R",
            b"\x81",
            b"\x85",
            b"\x86",
            b"\x94",
            b"h\0",
            b"j\xff\xff\xff\x7f",
            b"K\5",
            b"\x8a\x09" + b"\xff" * 9,
            b"cnumpy\nndarray\n",
            b"cnumpy\ndtype\n",
            b"Q",
            b"o",
            b"\x8f",
            b"cnumpy.core.multiarray\n_reconstruct\n",
            b"cnumpy.core.multiarray\nscalar\n",
            b"c_codecs\nencode\n",
            b"cos\nsystem\n",
            b"V\\ud800\n",
            b"I99999999999999999999\n",
            b"L5L\n",
            b"F1e999\n",
            b"B\xff\xff\xff\x7f",
            b"\x8e" + b"\xff" * 8,
            b"\x96" + b"\x7f" * 8,
        )
        for _ in range(draw.choice((1, 1, 2, 4, 9))):
            at = draw.randrange(len(parts) + 1)
            parts[at : at + draw.randrange(2)] = [
                draw.choice(extra) if draw.random() < 0.6 or not parts else draw.choice(parts)
            ]
        return b"".join(parts)
    return mutate_bytes(data, draw)


def split_frames(data: bytes) -> list[bytes]:
    """The payloads of a TFRecord, as far as they can be followed."""
    payloads, at = [], 0
    while at + FRAME_BYTES <= len(data):
        length = int.from_bytes(data[at : at + 8], "little")
        if at + FRAME_BYTES + length > len(data):
            break
        payloads.append(data[at + 12 : at + 12 + length])
        at += FRAME_BYTES + length
    return payloads


def change_frames(data: bytes, draw: random.Random) -> bytes:
    """TFRecord frames with right CRCs and changed Examples: values, keys of all layouts, bytes, order."""
    payloads = split_frames(data) or [b""]
    at, kind = draw.randrange(len(payloads)), draw.random()
    if kind < 0.4:
        payloads[at] = mutate_bytes(payloads[at], draw)
    elif kind < 0.5:
        payloads.insert(at, draw.choice(payloads))
    else:
        jpeg = payloads[at][payloads[at].find(b"\xff\xd8") :]
        values = (
            jpeg,
            mutate_bytes(jpeg, draw),
            b"",
            b"../x.tfrecord",
            b"x.jpg",
            b"/dev/zero",
            b"\0",
            bytes(112 * 112 * 3),
            bytes(7),
            [],
            [jpeg, jpeg],
            draw.choice(NUMBERS) % 2**64,
            [1, 2],
            [1] * 9,
            np.float32([1]),
        )
        keys = (
            "image_raw",
            "label",
            "image",
            "image/encoded",
            "image/source_id",
            "image/filename",
            "image_names",
            "image_classes",
            "classes",
            "total",
            "height",
            "width",
            "depth",
            "",
        )
        chosen = draw.sample(keys, draw.randrange(1, 6)) + draw.choice(([], ["image_raw", "label"]))
        payloads[at] = encode_example({key: draw.choice(values) for key in chosen})
        if draw.random() < 0.3:
            payloads = [payloads[at]] * len(payloads)
    return b"".join(map(frame, payloads))


def change_data_dir(tree: Tree, draw: random.Random) -> Tree:
    """An index, meta.json or shard that lies, with every hash, size and CRC set right again."""
    tree = dict(tree)
    shards = [name for name in tree if name.endswith(".tfrecord")]
    kind = draw.random()
    if kind < 0.35:
        head = len(tree["index.npy"]) % INDEX_DTYPE.itemsize  # np.save pads the header to 64 bytes
        head = 10 + struct.unpack("<H", tree["index.npy"][8:10])[0] if len(tree["index.npy"]) > 10 else head
        rows = np.frombuffer(tree["index.npy"][head:], INDEX_DTYPE).copy()
        for _ in range(draw.choice((1, 1, 3))):
            field = draw.choice(INDEX_DTYPE.names)
            number = draw.choice((*NUMBERS, int(rows[field][0]) + 1)) % 256 ** INDEX_DTYPE[field].itemsize
            where = draw.choice((slice(None), slice(0, 1), slice(-1, None)))
            rows[field][where] = np.array(number, np.uint64).astype(INDEX_DTYPE[field])
        if draw.random() < 0.2:
            rows = rows[:: draw.choice((-1, 2, 100))]
        tree["index.npy"] = tree["index.npy"][:head] + rows.tobytes()
    elif kind < 0.45:
        tree["index.npy"] = change_npy(tree["index.npy"], draw)
    elif kind < 0.7:
        name = draw.choice(shards)
        change = draw.choice((change_frames, change_frames, mutate_bytes))
        tree[name] = change(tree[name], draw)
    if kind > 0.6:
        tree["meta.json"] = change_json(tree["meta.json"], draw)
    return _set_right(tree) if draw.random() < 0.8 else tree


def _set_right(tree: Tree) -> Tree:
    try:
        meta = json.loads(tree["meta.json"])
        head = 10 + struct.unpack("<H", tree["index.npy"][8:10])[0]
        meta["index"]["sha256"] = hashlib.sha256(tree["index.npy"][head:]).hexdigest()
        for entry in meta["shards"]:
            if entry["name"] in tree:
                entry["bytes"] = len(tree[entry["name"]])
        return {**tree, "meta.json": json.dumps(meta).encode()}
    except (ValueError, KeyError, TypeError, RecursionError, struct.error):
        return tree


def change_rec(data: bytes, draw: random.Random) -> bytes:
    """RecordIO parts with other headers: flags, labels, ids, lengths; or other bytes."""
    if draw.random() < 0.4:
        return mutate_bytes(data, draw)
    out, starts, at = bytearray(data), [], 0
    while at + 8 <= len(data):
        starts.append(at)
        at += 8 + ((struct.unpack_from("<I", data, at + 4)[0] & (1 << 29) - 1) + 3) // 4 * 4
    for _ in range(draw.choice((1, 1, 2, 5))):
        at = draw.choice(starts or [0])
        field, code = draw.choice(
            ((0, "I"), (4, "I"), (8, "I"), (12, "f"), (12, "I"), (16, "Q"), (24, "Q"), (32, "f"), (36, "f"), (32, "I"))
        )
        number = (
            draw.choice((float("nan"), float("inf"), -1.0, 0.5, 1e30, 3e9))
            if code == "f"
            else draw.choice(NUMBERS) % 256 ** struct.calcsize(code)
        )
        packed = struct.pack("<" + code, number)
        out[at + field : at + field + len(packed)] = packed
    return bytes(out)


def change_gallery(tree: Tree, draw: random.Random) -> Tree:
    """Vectors and their description, with the hash set right again."""
    tree = dict(tree)
    if draw.random() < 0.5:
        tree["g.npy"] = change_npy(tree["g.npy"], draw)
    else:
        tree["g.npy.json"] = change_json(tree["g.npy.json"], draw)
    try:
        value = json.loads(tree["g.npy.json"])
        if draw.random() < 0.9:
            value["sha256"] = hashlib.sha256(tree["g.npy"]).hexdigest()
        tree["g.npy.json"] = json.dumps(value).encode()
    except (ValueError, TypeError, RecursionError):
        pass
    return tree


def change_zip(data: bytes, draw: random.Random) -> bytes:
    """An .npz with changed members, whose checksums are right; or other bytes."""
    if draw.random() < 0.4:
        return mutate_bytes(data, draw)
    out = io.BytesIO()
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w", draw.choice((0, 8))) as new:
            members = {name: old.read(name) for name in old.namelist()}
            name = draw.choice(list(members))
            change = mutate_bytes if draw.random() < 0.2 else change_npy
            members[name] = change(members[name], draw)
            if draw.random() < 0.1:
                members[draw.choice(("../x.npy", "state.json.npy", "a", "x" * 300))] = members.pop(name)
            for member, content in members.items():
                new.writestr(member, content)
    except Exception:
        return mutate_bytes(data, draw)
    return out.getvalue()


def change_proto(data: bytes, draw: random.Random) -> bytes:
    """Protocol buffers, as .pb and .onnx: one field of any depth changed, removed or doubled; lengths set right."""
    fields, at = [], 0
    while at < len(data):
        start, tag, at = at, *_varint(data, at)
        wire = tag & 7
        if wire == 0:
            _, at = _varint(data, at)
        elif wire in (1, 5):
            at += 8 if wire == 1 else 4
        elif wire == 2:
            size, at = _varint(data, at)
            at += size
        if wire not in (0, 1, 2, 5) or at > len(data) or not tag >> 3:
            return mutate_bytes(data, draw)
        fields.append(data[start:at])
    if not fields:
        return mutate_bytes(data, draw)
    k, kind = draw.randrange(len(fields)), draw.random()
    one = fields[k]
    tag, inside = _varint(one, 0)
    if kind < 0.08:
        del fields[k]
    elif kind < 0.16:
        fields.insert(draw.randrange(len(fields) + 1), one)
    elif kind < 0.2:
        fields[k] = draw.choice(fields)
    elif tag & 7 == 2:
        _, inside = _varint(one, inside)
        content = one[inside:]
        is_text = content.isascii() and draw.random() < 0.4
        content = mutate_text(content, draw) if is_text else change_proto(content, draw)
        fields[k] = _encode(tag) + _encode(len(content)) + content
    elif tag & 7 == 0:
        fields[k] = _encode(tag) + _encode(draw.choice(NUMBERS) % 2**64)
    else:
        fields[k] = one[:inside] + draw.randbytes(len(one) - inside)
    return b"".join(fields)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value, shift = 0, 0
    while at < len(data):
        value |= (data[at] & 127) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 128:
            break
    return value, at


def _encode(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes((*out, value))


def change_h5(data: bytes, draw: random.Random) -> bytes:
    """A Keras .h5 with another configuration, inside a valid HDF5 file; or other bytes."""
    if draw.random() < 0.5:
        return mutate_bytes(data, draw)
    import h5py

    out = io.BytesIO(data)
    with h5py.File(out, "r+") as file:
        attribute = draw.choice(list(file.attrs) or ["model_config"])
        text = file.attrs[attribute]
        file.attrs[attribute] = np.void(change_json(text.encode() if isinstance(text, str) else bytes(text), draw))
    return out.getvalue()
