"""Make a verification set (.bin) from a folder of identity folders, with random pairs or with the pairs of a pairs.txt.

    python make_bin.py FOLDERS valid_dataset/mine.bin --num-pairs 6000
    python make_bin.py lfw_aligned valid_dataset/lfw.bin --pairs pairs.txt
    python make_bin.py rfw_aligned valid_dataset/rfw.bin --pairs RFW/txts

A pair list must have the format of LFW, or of CALFW and CPLFW. The folder 'txts' of RFW has one list for each group of
people: each list and the crops in FOLDERS/GROUP become one rfw_GROUP.bin.

Half of the random pairs are genuine. The pairs are in 10 blocks for 10-fold evaluation: no identity is in two blocks,
and no pair occurs twice. Images are aligned 112x112 JPEG or PNG; their bytes are not changed.
"""

import facelib  # noqa: F401  first: from here on Ctrl-C ends the script without a traceback

# isort: split
import argparse
from collections.abc import Sequence
from pathlib import Path

from facelib.cli import add_encoding_flag, print_next, print_notes, run_cli, script_parser
from facelib.errors import FaceError

FOLDS = 10


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    from facelib.data.verification.bins import write_bin

    check_out(args.out)
    is_group_folder = bool(args.pairs) and args.pairs.is_dir()
    made = {}
    if is_group_folder:
        from facelib.data.verification.listed_pairs import find_group_lists

        for group, file in find_group_lists(args.pairs):
            out = args.out.with_name(f"{args.out.stem}_{group}.bin")
            made[out] = listed_pairs(args.folders / group, file, args.image_size, args.encoding)
    elif args.pairs:
        made[args.out] = listed_pairs(args.folders, args.pairs, args.image_size, args.encoding)
    else:
        made[args.out] = drawn_pairs(args.folders, args.num_pairs, args.seed, args.image_size)
    for out, (images, is_same) in made.items():
        write_bin(out, images, is_same)
        genuine = sum(map(bool, is_same))
        print(f"wrote {out}: {len(is_same):,} pairs, {genuine:,} genuine, {len(set(images)):,} different images")
    print_next("python", "evaluate_data.py", "MODEL.h5", "--valid", args.out.parent if is_group_folder else args.out)
    return 0


def check_out(out: Path) -> None:
    """Checks the name of the verification set.

    Raises:
        FaceError: not a .bin, or a folder.
    """
    if out.suffix != ".bin":
        raise FaceError(f"The name of a verification set must be NAME.bin; tables show NAME. Received: '{out}'.")
    if out.is_dir():
        raise FaceError(f"OUT must be a new file. '{out}' is a folder: choose a different name.")


def drawn_pairs(folders: Path, num_pairs: int | None, seed: int, image_size: tuple[int, int]):
    """Draws pairs from a tree of identity folders: (encoded images [2P], is_same bool [P]).

    Args:
        folders: the tree.
        num_pairs: P; None for as many as possible, up to the 6,000 of LFW.
        seed: of the choice.
        image_size: (height, width) in pixels that every image must have.
    """
    import numpy as np

    from facelib.data.readers.folder_source import FolderSource
    from facelib.data.verification.pair_lists import sample_pairs
    from facelib.errors import BadRecord
    from facelib.image_decoding import check_image

    if not folders.is_dir():
        raise FaceError(
            f"FOLDERS must be a folder of identity folders. There is no folder '{folders}'. Check the path."
        )
    source = FolderSource(folders)
    if num_pairs is None:
        num_pairs = most_pairs(source.labels, seed)
    idx, is_same = sample_pairs(source.labels, num_pairs, seed, FOLDS)
    read = {}
    for i in np.unique(idx).tolist():
        try:
            read[i] = source.read(i)
            check_image(read[i], image_size)
        except BadRecord as error:
            raise FaceError(f"{source.describe(i)}: {error}. Replace or remove this image.") from error
    print_notes(source.notes)
    return [read[i] for i in idx.tolist()], is_same


def most_pairs(labels, seed: int) -> int:
    """The largest number of pairs up to LFW's 6,000 that `sample_pairs` can draw from these labels."""
    from facelib.data.verification.pair_lists import sample_pairs

    step = 2 * FOLDS
    low, high = 1, 6000 // step
    try:
        sample_pairs(labels, high * step, seed, FOLDS)
        return high * step
    except FaceError:
        while low < high:  # low: possible or 1; high: impossible
            middle = (low + high) // 2
            try:
                sample_pairs(labels, middle * step, seed, FOLDS)
                low = middle + 1
            except FaceError:
                high = middle
        return max(1, low - 1) * step


def listed_pairs(folders: Path, pairs_txt: Path, image_size: tuple[int, int], encoding: str | None = None):
    """Reads the pairs of a list, fold by fold: (encoded images [2P], is_same bool [P])."""
    from facelib.data.verification.listed_pairs import find_shot, read_pairs_txt
    from facelib.errors import BadRecord
    from facelib.files import read_image_file
    from facelib.image_decoding import check_image

    if not folders.is_dir():
        raise FaceError(
            f"FOLDERS must be a folder of identity folders. There is no folder '{folders}'. Check the path."
        )
    pairs, is_same, notes = read_pairs_txt(pairs_txt, encoding)
    print_notes(notes)
    read = {}
    for shot in dict.fromkeys(shot for pair in pairs for shot in pair):
        file = find_shot(folders, shot)
        try:
            read[shot] = read_image_file(file)
            check_image(read[shot], image_size)
        except BadRecord as error:
            raise FaceError(f"'{file}': {error}. Replace or remove this image.") from error
    return [read[shot] for pair in pairs for shot in pair], is_same


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = script_parser(__doc__)
    parser.add_argument("folders", type=Path, help="folder of identity folders of aligned faces")
    parser.add_argument("out", type=Path, help=".bin to make")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--pairs", type=Path, metavar="TXT", help="pair list to use, or the folder of RFW's lists")
    which.add_argument(
        "--num-pairs",
        type=int,
        metavar="N",
        help="draw N pairs, a multiple of 20 (default: as many as possible, up to 6000)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the random pairs (default: %(default)s)")
    parser.add_argument(
        "--image-size",
        type=size,
        default=(112, 112),
        metavar="H,W",
        help="size of the images in pixels (default: 112,112)",
    )
    add_encoding_flag(parser)
    return parser.parse_args(argv)


def size(text: str) -> tuple[int, int]:
    """'112,112' -> (112, 112)."""
    height, width = (int(value) for value in text.split(","))
    return height, width


if __name__ == "__main__":
    run_cli(main)
