"""Train a network for int8 (quantisation-aware training): EMBEDDER.h5 -> OUT/embedder.h5.

python tools/quantize_aware.py runs/ms1m/embedder.h5 runs/ms1m_int8 --data data/ms1m --valid lfw.bin

Use this script for networks that lose too much accuracy when pb_2_tflite.py --mode int8 measures the int8 ranges after
the training. A copy of the network learns to give the same embeddings as EMBEDDER.h5 on DATA. During this training, the
weights and activations of the copy are rounded to int8. Labels are not used. The verification results of OUT are those
of the rounded network. Export OUT like any other network: h5_2_pb.py, optimize_pb.sh, pb_2_tflite.py --mode int8, which
then needs no --calibration. Run the same command again to resume.

--target esp32s3 or esp32p4 trains for ESP-DL, whose scales are powers of two. After this training use pb_2_onnx.py
--layout nchw --pixels outside --batch 1, and then esp/onnx_2_espdl.py, which keeps the scales of the training.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import facelib  # noqa: F401  first: from here on Ctrl-C ends the script without a traceback

# isort: split
import argparse
from collections.abc import Sequence
from functools import partial

from dataset import TrainingData
from evaluate_data import check_sets, evaluate_sets
from facelib.cli import print_next, run_cli, script_parser
from facelib.errors import FaceError
from facelib.evaluation.results import report_path
from facelib.evaluation.verification_sets import find_sets, named_images
from facelib.reports.training_plots import write_training_plots
from facelib.training.self_distillation import Change, add_flags, check_flags, distil_copy
from facelib.training.stop_signals import exit_code


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = script_parser(__doc__)
    data_help = "training faces, as for train.py; they also set the first int8 ranges"
    add_flags(parser, learning_rate=1e-4, data_help=data_help)
    target_help = "target of the network: tflite, or a chip of ESP-DL (default: %(default)s)"
    parser.add_argument("--target", choices=("tflite", "esp32s3", "esp32p4"), default="tflite", help=target_help)
    args = parser.parse_args(argv)
    check_flags(args)
    if args.data is None:
        raise FaceError(
            "Training for int8 needs face data. Received no --data. Pass the data directory of the training: "
            "--data DATA."
        )
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    sets = find_sets(args.valid) if args.valid else []
    check_sets(sets)
    is_tflite = args.target == "tflite"
    name, notes = ("int8", {}) if is_tflite else (f"int8_{args.target}", {"target": args.target})
    change = Change(name, partial(make_fake_quantized, target=args.target), {"quantize_aware": True, **notes})
    evaluate = partial(evaluate_sets, sets=sets) if sets else None
    stopped_by = distil_copy(args, change, TrainingData.of_recipe, evaluate, write_training_plots, named_images(sets))
    if stopped_by is None:
        best, report = args.out / "embedder.h5", report_path(args.model)
        gate = ("evaluate_data.py", best, "--against", report) if report.is_file() else ("h5_2_pb.py", best)
        print(f"wrote {best}")
        print_next("python", *gate)
    return exit_code(stopped_by)


def make_fake_quantized(original, where: str, crops, target: str):
    """Makes the copy that rounds to the int8 of `target`, with the ranges of `crops`; see `ChangeModel`."""
    from facelib.models.fake_quant import TARGETS
    from facelib.models.fake_quant_net import equalise_layers, fake_quantized, observe

    copy = fake_quantized(original, where, target)
    if TARGETS[target].power_of_two:
        equalise_layers(copy, original, crops)
    observe(copy, crops)
    return copy


if __name__ == "__main__":
    run_cli(main)
