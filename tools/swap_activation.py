"""Replace the activation of a trained network by ReLU, ReLU6 or LeakyReLU: EMBEDDER.h5 -> OUT/embedder.h5.

python tools/swap_activation.py runs/ms1m/embedder.h5 runs/ms1m_relu --to relu --data data/ms1m --valid lfw.bin

PReLU gives a more accurate network, but the K210 does not support it, and ReLU is faster in int8. A copy of the network
starts with the same weights and learns to give the same embeddings as EMBEDDER.h5 on DATA. Labels are not used. Without
--data the copy is not trained: use it to start a training with train.py --init-from. To resume, run the same command
again.
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
from facelib.evaluation.results import report_path
from facelib.evaluation.verification_sets import find_sets, named_images
from facelib.reports.training_plots import write_training_plots
from facelib.training.self_distillation import (
    Change,
    ChangeModel,
    add_flags,
    check_flags,
    distil_copy,
    write_untrained,
)
from facelib.training.stop_signals import exit_code

ACTIVATIONS = ("relu", "leaky_relu", "relu6")


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = script_parser(__doc__)
    parser.add_argument("--to", choices=ACTIVATIONS, required=True, help="new activation; leaky_relu has slope 0.1")
    add_flags(parser, learning_rate=1e-3, data_help="training faces, as for train.py")
    args = parser.parse_args(argv)
    check_flags(args)
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    # The recipes of existing runs have this name: another one would refuse to resume them.
    change = Change(f"{args.to}_twin", swap_to(args.to), {"activation": args.to}, args.to)
    if args.data is None:
        return write_untrained(args, change)
    sets = find_sets(args.valid) if args.valid else []
    check_sets(sets)
    evaluate = partial(evaluate_sets, sets=sets) if sets else None
    stopped_by = distil_copy(args, change, TrainingData.of_recipe, evaluate, write_training_plots, named_images(sets))
    if stopped_by is None:
        best, report = args.out / "embedder.h5", report_path(args.model)
        gate = ("evaluate_data.py", best, "--against", report) if report.is_file() else ("h5_2_pb.py", best)
        print(f"wrote {best}")
        print_next("python", *gate)
    return exit_code(stopped_by)


def swap_to(activation: str) -> ChangeModel:
    """Returns the function that makes a copy with `activation`."""

    def swap(original, where: str, crops):
        from facelib.models.swap_activation import swap_activations

        copy, num_swapped = swap_activations(original, activation, where)
        print(f"{where}: {num_swapped} activations replaced by {activation}; {copy.count_params():,} parameters")
        return copy

    return swap


if __name__ == "__main__":
    run_cli(main)
