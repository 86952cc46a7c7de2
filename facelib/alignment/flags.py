"""The flags of every script that takes photos, --face and --min-quality, and the note about photos with several faces.

It imports nothing slow, so that --help answers at once.
"""

import argparse
from collections.abc import Mapping

FACE_RULES = ("central", "largest", "all")
MEANING = {"central": "the face that is large and near the middle", "largest": "the largest one", "all": "all of them"}
NAMED = 3  # photos that a note names


def add_face_flags(parser: argparse.ArgumentParser, rules: tuple[str, ...] = FACE_RULES, quality: bool = True) -> None:
    """Adds --face, and --min-quality where faces may be refused."""
    meaning = "; ".join(f"{rule}: {MEANING[rule]}" for rule in rules)
    parser.add_argument(
        "--face",
        choices=rules,
        default=rules[0],
        help=f"which face to use if a photo shows several. {meaning} (default: %(default)s)",
    )
    if quality:
        parser.add_argument(
            "--min-quality",
            type=_quality,
            default=0.0,
            metavar="Q",
            help=(
                "refuse faces whose quality is lower than this, from 0 to 1. The quality is the lowest of three "
                "scores: size, sharpness and pose (default: 0)"
            ),
        )


def several_note(several: Mapping[str, int], rule: str) -> list[str]:
    """The note about photos that show several faces; none if there is no such photo.

    Args:
        several: how many faces each of these photos shows.
        rule: which were taken.
    """
    if not several:
        return []
    named = [f"'{photo}' ({count})" for photo, count in sorted(several.items())[:NAMED]]
    others = " and ".join(f"--face {other}" for other in FACE_RULES if other != rule)
    if len(several) == 1:
        (photo, count), *_ = several.items()
        shown = f"'{photo}' shows {count} faces"
    else:
        shown = f"{len(several):,} photos show several faces, such as {', '.join(named)}"
    return [f"{shown}: {MEANING[rule]} {'were' if rule == 'all' else 'was'} used ({others} choose differently)"]


def _quality(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"a quality must be a number from 0 to 1. Received: {text}")
    return value
