"""A stand-in for atc, Huawei's model converter, for tests. It checks flags and wraps the graph; it converts nothing.

Its .om is one line of JSON and the unchanged GraphDef. Only the stand-in msame can run it. Like the real atc it refuses
an unknown flag, a file that is no frozen graph, an input or output that the graph does not have, and a shape that is
not static. It reads the wire format itself, without TensorFlow and independent of the project.
"""

import json
import re
import sys
from pathlib import Path

MAGIC = b"STAND-IN OM, for no device "
FLOAT_MODES = ("force_fp32", "cube_fp16in_fp32out", "must_keep_origin_dtype")
KNOWN = {"model", "framework", "output", "soc_version", "input_shape", "out_nodes", "precision_mode",
         "op_select_implmode", "output_type", "insert_op_conf", "fusion_switch_file", "log"}  # fmt: skip


def fail(code, message):
    print(f"ATC run failed, Please check the detail log, Try 'atc --help' for more information\n{code}: {message}")
    sys.exit(255)


def fields(data):
    """(number, value) of the fields of a protobuf message; length-delimited ones as bytes."""
    at = 0

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(data):
        key = varint()
        kind = key & 7
        size = {0: 0, 1: 8, 2: None, 5: 4}[kind]
        if kind == 0:
            yield key >> 3, varint()
            continue
        size = varint() if size is None else size
        if at + size > len(data):
            raise IndexError("truncated")
        yield key >> 3, data[at : at + size]
        at += size


def nodes(graph):
    """{name: op} of a GraphDef: its field 1 is a NodeDef, whose field 1 is the name and field 2 the op."""
    found = {}
    for number, value in fields(graph):
        if number == 1:
            node = dict(field for field in fields(value) if field[0] in (1, 2))
            found[node[1].decode()] = node[2].decode()
    return found


def main(argv):
    flags = {}
    for word in argv:
        match = re.fullmatch(r"--(\w+)=(.+)", word)
        if match is None or match[1] not in KNOWN:
            fail("E10001", f"unknown command line flag '{word}'")
        flags[match[1]] = match[2]
    for name in ("model", "framework", "output", "soc_version"):
        if name not in flags:
            fail("E10004", f"Value for [--{name}] is empty.")
    if flags["framework"] != "3":
        fail("E10007", "[--framework] is to be 3, TensorFlow, here")
    print("ATC start working now, please wait for a moment.")
    model = Path(flags["model"]).read_bytes()
    try:
        ops = nodes(model)
    except (IndexError, KeyError, UnicodeDecodeError):
        fail("E19005", f"[{flags['model']}] is not a GraphDef")
    if not ops or any("Variable" in op or op == "VarHandleOp" for op in ops.values()):
        fail("E19005", f"[{flags['model']}] is not a frozen GraphDef")
    name, _, shape = flags.get("input_shape", "").partition(":")
    if ops.get(name) != "Placeholder":
        fail("E10016", f"Opname [{name}] specified in [--input_shape] is not found in the model.")
    dims = [int(size) for size in shape.split(",")]
    if min(dims) < 1:
        fail("E10011", f"[--input_shape] {shape} is not static")
    output = flags["out_nodes"].partition(":")[0]
    if output not in ops:
        fail("E10016", f"Opname [{output}] specified in [--out_nodes] is not found in the model.")
    is_half = flags.get("precision_mode", "force_fp16") not in FLOAT_MODES
    header = {"input": name, "shape": dims, "output": output, "is_half": is_half,
              "output_type": flags.get("output_type") or ("FP16" if is_half else "FP32"),
              "aipp": Path(flags["insert_op_conf"]).read_text() if "insert_op_conf" in flags else None}  # fmt: skip
    Path(flags["output"] + ".om").write_bytes(MAGIC + json.dumps(header).encode() + b"\n" + model)
    print("ATC run success, welcome to the next use.")


if __name__ == "__main__":
    main(sys.argv[1:])
