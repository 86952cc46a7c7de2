"""Import a trained face net from a different system: IN -> OUT.h5 (+ OUT.h5.json).

python import_model.py w600k_mbf.onnx runs/pretrained/embedder.h5 --licence non-commercial

The format of IN is recognised by its content. The layers of the net are rebuilt, and the result is compared with the
original if the original can be run. OUT.h5 is like a model of train.py: its input is raw RGB pixels. Export it with
h5_2_pb.py, optimize_pb.sh and pb_2_tflite.py, or start a training from it with train.py --init-from. If the file
contains code, the code is not run.
"""

import facelib  # noqa: F401  first: from here on Ctrl-C ends the script without a traceback

# isort: split
import argparse
from collections.abc import Sequence
from pathlib import Path

from facelib.cli import add_pixel_flags, next_step, run_cli, script_parser
from facelib.files import check_out_file, read_json
from facelib.importing.job import Imported, Job
from facelib.importing.kinds import NAMED, find_kind, read


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = script_parser(__doc__)
    parser.add_argument("model", type=Path, metavar="IN", help=f"trained face net: {NAMED}")
    parser.add_argument("out", type=Path, metavar="OUT.h5")
    faces_help = (
        "training crops, needed only to train the net further: 256 crops restore the statistics of folded batch "
        "normalisation. The outputs stay the same, but without these crops the training loss starts too high"
    )
    parser.add_argument("--faces", type=Path, metavar="DATA", help=faces_help)
    parser.add_argument(
        "--licence", metavar="NAME", help="licence of the weights, written into the sidecar, such as Apache-2.0"
    )
    parser.add_argument(
        "--training-data", metavar="NAME", help="training data of the weights, written into the sidecar, such as MS1M"
    )
    parser.add_argument(
        "--structure",
        type=Path,
        metavar="JSON",
        help="for an .h5 with weights only: the JSON file of its net, written by net.to_json()",
    )
    as_help = (
        "name of the net, for an .h5 with weights only: mobilefacenet, mobilenet or iresnet50, as bubbliiiing built "
        "them"
    )
    parser.add_argument("--as", dest="known_as", metavar="NAME", help=as_help)
    add_pixel_flags(parser.add_argument_group("pixel scaling of the input of IN, if the layers of IN do not show it"))
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    check_out_file(args.out)
    find_kind(args.model)
    imported = read(
        Job(
            args.model,
            build_ours,
            pixels=args.pixels,
            colour=args.color,
            layout=args.layout,
            size=args.crop,
            faces=args.faces,
            structure=args.structure,
            known_as=args.known_as,
        )
    )
    from facelib.importing.finish import check_outputs, write

    difference = check_outputs(imported, args.model)
    keep_classes(imported, args.out.parent)
    write(imported, args.out, args.model, difference, args.fit, licence=args.licence, training_data=args.training_data)
    print_result(args, imported, difference)
    return 0


def keep_classes(imported: Imported, folder: Path) -> None:
    """Names the class centres of a margin head, for --init-from: '0', '1', .. in a new classes.json.

    In a folder whose classes.json names other identities the centres are left out.
    """
    from facelib.training.init_from import CLASSES, write_classes

    if imported.centres is None:
        return
    count, note = len(imported.centres), folder / CLASSES
    names = [str(number) for number in range(count)]
    if note.exists() and read_json(note, "list of classes").get("class_names") != names:
        imported.centres = None
        imported.lines.append(f"its {count:,} class centres were left out: '{note}' lists different identities")
        return
    folder.mkdir(parents=True, exist_ok=True)
    write_classes(folder, names)
    imported.lines.append(f"its {count:,} class centres were kept: identities '0' to '{count - 1}' in {note}")


def build_ours(name: str, **options):
    """Builds a backbone with random weights. The options are those of its builder."""
    from facelib.models.registry import IRESNETS
    from iresnet import iresnet
    from mobilefacenet import mbf, mobilefacenet

    if name in IRESNETS:
        return iresnet(int(name.removeprefix("iresnet")), **options)
    return (mbf if name == "mbf" else mobilefacenet)(**options)


def print_result(args: argparse.Namespace, imported: Imported, difference: float | None) -> None:
    from facelib.importing.finish import NUM_FACES, model_table

    how = "from --pixels" if args.pixels else "guessed from its layers; if this is wrong, use --pixels"
    print(f"{imported.what}, {imported.model.count_params():,} parameters")
    print(f"pixels: {imported.pixels} ({how})")
    for line in imported.lines:
        print(line)
    if difference is not None:
        print(f"outputs agree within {difference:.1e} on {NUM_FACES} faces")
    how = f", with --init-from {args.out}" if imported.table or imported.centres is not None else ""
    print(f"to train it further{how}, use this in the recipe:\n{model_table(imported, args.out)}")
    print(f"wrote {args.out}{next_step('python', 'evaluate_data.py', args.out)}")


if __name__ == "__main__":
    run_cli(main)
