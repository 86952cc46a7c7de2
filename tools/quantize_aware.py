"""Train a net on as the int8 net it will be: EMBEDDER.h5 -> OUT/embedder.h5, for pb_2_tflite.py --mode int8.

python tools/quantize_aware.py runs/ms1m/embedder.h5 runs/ms1m_int8 --data data/ms1m --valid lfw.bin

For nets that lose accuracy when int8 ranges are merely measured. Weights and activations are rounded to int8 while the
net learns the embeddings of EMBEDDER.h5 on DATA, without labels. The figures of OUT are those of the rounded net. It
goes through h5_2_pb.py, optimize_pb.sh and pb_2_tflite.py like any other, and its int8 model needs no --calibration.
The same command again resumes.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dataset import TrainingData
from evaluate_data import check_sets, evaluate_sets
from facelib.cli import run_cli, script_parser
from facelib.errors import FaceError
from facelib.training.self_distillation import Change, Tools, add_flags, check_flags, distil_copy


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = script_parser(__doc__)
    data_help = "faces to learn on and to begin the ranges with, as train.py takes them; labels are not used"
    add_flags(parser, learning_rate=1e-4, data_help=data_help)
    args = parser.parse_args(argv)
    check_flags(args)
    if args.data is None:
        raise FaceError("A net learns to be int8 on faces. Pass --data DATA: the data directory of its training.")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    change = Change("int8", make_fake_quantized, {"quantize_aware": True})
    return distil_copy(args, change, Tools(TrainingData, make_head, check_sets, evaluate_sets))


def make_head(*args, **options):
    """`face_loss_k.make_head`, imported when TensorFlow is ready."""
    from face_loss_k import make_head

    return make_head(*args, **options)


def make_fake_quantized(original, where: str, crops):
    """The copy that rounds, its ranges as they are on `crops`."""
    from facelib.models.fake_quant_net import fake_quantized, observe

    copy = fake_quantized(original, where)
    observe(copy, crops)
    return copy


if __name__ == "__main__":
    run_cli(main)
