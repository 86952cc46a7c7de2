"""Give a trained net another activation: EMBEDDER.h5 -> OUT/embedder.h5, its ReLU, ReLU6 or LeakyReLU twin.

python tools/swap_activation.py runs/ms1m/embedder.h5 runs/ms1m_relu --to relu --data data/ms1m --valid lfw.bin

PReLU is more accurate to train with; a K210 has none, and an int8 ReLU is faster. The twin begins with the same weights
and learns the embeddings of EMBEDDER.h5 on DATA, without labels. Without --data the activations are swapped and nothing
is learned: a start for train.py --init-from. The same command again resumes.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dataset import TrainingData
from evaluate_data import check_sets, evaluate_sets
from facelib.cli import run_cli, script_parser
from facelib.training.self_distillation import Change, Tools, add_flags, check_flags, distil_copy, write_untrained

ACTIVATIONS = ("relu", "leaky_relu", "relu6")


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = script_parser(__doc__)
    parser.add_argument("--to", choices=ACTIVATIONS, required=True, help="leaky_relu has slope 0.1")
    data_help = "faces to learn on, as train.py takes them; labels are not used"
    add_flags(parser, learning_rate=1e-3, data_help=data_help)
    args = parser.parse_args(argv)
    check_flags(args)
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    change = Change(f"{args.to}_twin", make_twin(args.to), {"activation": args.to}, args.to)
    if args.data is None:
        return write_untrained(args, change)
    return distil_copy(args, change, Tools(TrainingData, make_head, check_sets, evaluate_sets))


def make_head(*args, **options):
    """`face_loss_k.make_head`, imported when TensorFlow is ready."""
    from face_loss_k import make_head

    return make_head(*args, **options)


def make_twin(activation: str):
    """(model, its path, crops) -> the same net with `activation`, as `Change.make` wants it."""

    def make(original, where: str, crops):
        from facelib.models.swap_activation import swap_activations

        twin, num_swapped = swap_activations(original, activation, where)
        print(f"{num_swapped} activations of {where} are {activation} now; {twin.count_params():,} parameters")
        return twin

    return make


if __name__ == "__main__":
    run_cli(main)
