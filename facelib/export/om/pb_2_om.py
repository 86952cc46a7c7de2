"""Convert a graph for Ascend: optimized.pb -> model.om (+ model.om.json).

./om/pb_2_om.sh runs/demo/export/optimized.pb --soc_version Ascend310P3

The script checks the graph and prints the command for atc, Huawei's converter. If atc is on PATH,
the script runs it. See docs/ascend.md.
"""

import argparse
import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from facelib.child_processes import ends_with_parent
from facelib.cli import add_io_flags, choose_io, next_step, run_cli, script_parser
from facelib.errors import FaceError
from facelib.export.graph_input import load_sized
from facelib.export.int8_graph import has_fake_quant
from facelib.export.om.graph_rules import asks_shapes, find_unknown_ops, fix_shapes, input_shape
from facelib.export.parity import check_parity, parity_faces
from facelib.files import make_folder, require_file
from facelib.model_input import PIXEL_SCALINGS, Io, to_model_input
from facelib.runtimes.frozen_graph import MAX_LISTED, load_graph, node_of, open_graph, prune, read_graph, save_graph
from facelib.sidecar import check_sidecar, keep_flags, write_sidecar
from facelib.tensorflow_env import quiet_tensorflow

_NEUTRAL = {"mean_chn": 0.0, "min_chn": 0.0, "var_reci_chn": 1.0}

# Source: CANN manual, ATC, --precision_mode and --op_select_implmode.
PRECISION_MODES = ("allow_fp32_to_fp16", "force_fp16", "force_fp32", "cube_fp16in_fp32out", "must_keep_origin_dtype",
                   "allow_mix_precision", "allow_mix_precision_fp16", "allow_mix_precision_bf16")  # fmt: skip
IMPL_MODES = ("high_precision", "high_performance", "high_precision_for_all", "high_performance_for_all")


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = script_parser(__doc__, prog="pb_2_om.sh")
    add = parser.add_argument
    add("model", type=Path, metavar="IN.pb", help="optimised or frozen graph")
    add("out", type=Path, nargs="?", metavar="OUT", help="path of the model (default: model.om beside IN.pb)")
    add = parser.add_argument_group("options for atc").add_argument
    add(
        "--soc_version",
        default="Ascend310",
        help="name of the chip: 'Ascend' and the name that `npu-smi info` shows (default: %(default)s)",
    )
    add(
        "--precision_mode",
        choices=PRECISION_MODES,
        default=PRECISION_MODES[0],
        help="precision of the computation (default: %(default)s)",
    )
    add(
        "--op_select_implmode",
        choices=IMPL_MODES,
        default=IMPL_MODES[0],
        help="fast or precise implementation of the operations (default: %(default)s)",
    )
    add("--output_type", choices=("FP32", "FP16"), help="type of the embedding (default: atc's choice)")
    add(
        "--insert_op_conf",
        type=Path,
        metavar="CFG",
        help="AIPP configuration; with it, the model takes uint8 pixels (see om/aipp.cfg)",
    )
    add("--fusion_switch_file", type=Path, metavar="CFG", help="file that turns fusion rules off")
    add_io_flags(parser)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    out = args.out or args.model.parent / "model.om"
    out = out if out.suffix == ".om" else out.with_name(out.name + ".om")
    if args.model.is_dir() and (args.model / "saved_model.pb").is_file():
        raise FaceError(
            f"atc needs a frozen GraphDef. '{args.model}' is a SavedModel: freeze the Keras model instead (python "
            "h5_2_pb.py MODEL.h5)."
        )
    require_file(args.model, "frozen graph")
    sidecar = check_sidecar(args.model)
    io = choose_io(sidecar, args, needs_flags=False)
    if args.fusion_switch_file:
        require_file(args.fusion_switch_file, "fusion switch file")
    if args.insert_op_conf:
        read_aipp(args.insert_op_conf)
    quiet_tensorflow()
    is_said = sidecar is not None or any(getattr(args, name) is not None for name in ("color", "pixels", "crop"))
    graph, io = load_sized(args.model, io, is_open_allowed=is_said)
    fed = io_with_aipp(io, args.insert_op_conf) if args.insert_op_conf and is_said else io
    if has_fake_quant(graph):
        raise FaceError(
            f"atc needs a float net. '{args.model}' has the fake quantisation of quantize_aware.py. Convert the graph "
            "of the embedder.h5 that quantize_aware.py started from."
        )
    shape = input_shape(graph, io.input, args.model)
    if is_said or not args.insert_op_conf:
        sidecar = keep_flags(args.model, "frozen_pb", io, sidecar)
    source = make_static(args.model, graph, io, out, sidecar is not None)
    report_ops(graph if source == args.model else load_graph(source), io.output)
    command = atc_command(source, out, io, shape, args)
    print(f"the input is fixed to one face by --input_shape\n\n{shlex.join(command)}\n", flush=True)
    if shutil.which("atc") is None:
        raise FaceError(
            "atc is not on PATH, so no model was made. Run the command line above on a machine with CANN, then copy "
            "the model to the device."
        )
    run_atc(command, out)
    if sidecar:
        names = ("soc_version", "precision_mode", "op_select_implmode", "output_type")
        write_sidecar(out, kind="om", made_from=args.model, io=fed, atc={name: getattr(args, name) for name in names})
    hint = next_step("python", "om/image2bin.py", "FILE.bin", "DIR", "--model", out)
    print(f"wrote {out} ({out.stat().st_size / 2**20:.2f} MiB){hint}")
    return 0


def make_static(path: Path, graph, io: Io, out: Path, has_sidecar: bool) -> Path:
    """The graph file for atc: `path`, or a copy beside `out` that takes one face.

    The copy is for a graph that computes shapes, and for one whose file asks for the phase of training.

    Args:
        path: of the graph.
        graph: its GraphDef.
        io: names of its input and output.
        out: the .om to make.
        has_sidecar: whether the copy gets one too.

    Raises:
        FaceError: a shape that depends on more than the number of faces.
    """
    fixed = fix_shapes(graph, io.input, io.output, path)
    if not asks_shapes(graph, io.output) and graph == read_graph(path):
        return path
    copy = out.with_name(f"{out.stem}_batch1.pb")
    if copy.resolve() == path.resolve():
        raise FaceError(
            f"The script first writes the graph for one face, which would overwrite '{path}'. Choose a different OUT."
        )
    run_one = open_graph(fixed, copy, io.input, io.output)
    height, width = input_shape(graph, io.input, path)[1:3]
    pixels = to_model_input(parity_faces((height, width)), io)
    check_parity(
        f"'{copy}' and '{path}'", "frozen_pb", lambda faces: np.concatenate([run_one(face[None]) for face in faces]),
        open_graph(graph, path, io.input, io.output), pixels,
    )  # fmt: skip
    save_graph(fixed, copy)
    if has_sidecar:
        write_sidecar(copy, kind="batch1_pb", made_from=path, io=io)
    print(
        f"wrote {copy}: the graph for one face, {len(graph.node)} -> {len(fixed.node)} nodes, without computed shapes "
        "and training phases"
    )
    return copy


def report_ops(graph, output_name: str) -> None:
    """Prints the operations of the graph that atc's TensorFlow parser may not know."""
    graph = prune(graph, [node_of(output_name)])
    ops = sorted({node.op for node in graph.node})
    if not (unknown := find_unknown_ops(graph)):
        print(f"Ascend's TensorFlow parser knows all {len(ops)} kinds of operations in this graph: {', '.join(ops)}")
        return
    for op, names in unknown.items():
        more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
        print(f"warning: Ascend's parser may not know operation {op}: {', '.join(names[:MAX_LISTED])}{more}")
    print(
        "warning: atc may say 'No parser is registered'. The known operations are listed in "
        "facelib/export/om/graph_rules.py"
    )


def atc_command(graph: Path, out: Path, io: Io, shape: Sequence[int], args: argparse.Namespace) -> list[str]:
    """The command line of atc. Source: CANN manual, ATC, command-line options."""
    source, target = node_of(io.input), node_of(io.output)
    command = [
        "atc", f"--model={graph}", "--framework=3", f"--output={out.with_suffix('')}",
        f"--soc_version={args.soc_version}", f"--input_shape={source}:{','.join(map(str, shape))}",
        f"--out_nodes={target}:0", f"--precision_mode={args.precision_mode}",
        f"--op_select_implmode={args.op_select_implmode}",
    ]  # fmt: skip
    for name in ("output_type", "insert_op_conf", "fusion_switch_file"):
        if value := getattr(args, name):
            command.append(f"--{name}={value}")
    return command


def run_atc(command: Sequence[str], out: Path) -> None:
    """Runs atc, with its output on the terminal.

    Raises:
        FaceError: atc failed, or wrote no model.
    """
    make_folder(out.parent)
    done = subprocess.run(command, check=False, preexec_fn=ends_with_parent())
    if done.returncode != 0 or not out.is_file():
        raise FaceError(
            f"atc failed (exit code {done.returncode}{'' if out.is_file() else f', no {out.name}'}): see its message "
            "above. docs/ascend.md lists common causes."
        )


if __name__ == "__main__":
    run_cli(main)


_SETTING = re.compile(r"^\s*(\w+)\s*:\s*\"?([\w.+-]+)\"?\s*$", re.MULTILINE)


def read_aipp(path: Path) -> dict[str, str]:
    """The settings of the only aipp_op in `path`, as text.

    Raises:
        FaceError: no such file, or not one static AIPP for 3-channel uint8 pixels.
    """
    path = require_file(path, "AIPP configuration")
    text = re.sub(r"#.*", "", path.read_text(encoding="utf-8", errors="replace"))
    settings = dict(_SETTING.findall(text))
    wanted = {"aipp_mode": "static", "input_format": "RGB888_U8", "csc_switch": "false"}
    for key, value in wanted.items():
        if settings.get(key, "false" if key == "csc_switch" else None) != value:
            raise FaceError(
                f"The device gets faces as RGB or BGR bytes, so an AIPP configuration must have {key}: {value}. "
                f"'{path}' has {settings.get(key, 'no such line')}. Start from om/aipp.cfg."
            )
    if len(re.findall(r"aipp_op\s*\{", text)) != 1:
        raise FaceError(
            f"An AIPP file for a net with one input must have exactly one aipp_op {{ }} block. '{path}' has no such "
            "block, or several such blocks. Write one block as in om/aipp.cfg."
        )
    return settings


def io_with_aipp(io: Io, path: Path) -> Io:
    """How to feed a net with AIPP in front of it: uint8 raw pixels, with R and B swapped if AIPP swaps them.

    Args:
        io: how the net itself is fed.
        path: the AIPP configuration.

    Raises:
        FaceError: the output of AIPP is not what the net takes.
    """
    settings = read_aipp(path)
    for key, size in (("src_image_size_h", io.size[0]), ("src_image_size_w", io.size[1])):
        if settings.get(key, str(size)) != str(size):
            raise FaceError(
                f"The AIPP file must have the input size of the net, {io.size[0]}x{io.size[1]}. '{path}' has "
                f"{key}: {settings[key]}. Correct this value."
            )
    if io.layout != "nhwc":
        raise FaceError(
            f"AIPP can be used only for nets with layout NHWC. Received: {io.layout}. Leave out --insert_op_conf."
        )
    means, deviations = (np.broadcast_to(value, 3) for value in PIXEL_SCALINGS[io.pixels])
    for channel in range(3):
        mean, low, factor = (float(settings.get(f"{key}_{channel}", value)) for key, value in _NEUTRAL.items())
        rgb = channel if io.colour == "rgb" else 2 - channel  # AIPP counts the channels that the net gets
        shift, scale = means[rgb], 1 / deviations[rgb]
        if abs(mean + low - shift) > 1e-3 or abs(factor / scale - 1) > 1e-3:
            why = (
                "the net scales pixels itself"
                if io.pixels == "raw"
                else f"the net needs pixels scaled as '{io.pixels}'"
            )
            raise FaceError(
                f"AIPP must compute the input of the net: {why}, so channel {channel} needs min_chn {shift:g} and "
                f"var_reci_chn {scale:.9g}. '{path}' has mean_chn {mean:g}, min_chn {low:g}, var_reci_chn "
                f"{factor:.9g}. Correct these values."
            )
    is_swapped = settings.get("rbuv_swap_switch", "false") == "true"
    colour = {"rgb": "bgr", "bgr": "rgb"}[io.colour] if is_swapped else io.colour
    return replace(io, dtype="uint8", pixels="raw", colour=colour)
