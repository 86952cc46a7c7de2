"""The table of docs/targets.md, made from the list: `python -m tests.helpers.target_table` writes it anew."""

import re
from pathlib import Path

from facelib.evaluation.results import format_markdown_table
from facelib.export.targets import REFERENCE, TARGETS, Target

PAGE = Path(__file__).parents[2] / "docs" / "targets.md"
HEADS = ["artefact", "made by", "tested by", "runs in", "was run on", "takes", "lowest cosine", "environment"]


def render_page(text: str) -> str:
    """The page with its table made anew between its marks."""
    table = format_markdown_table([HEADS, *map(_row, TARGETS)], len(HEADS))
    return re.sub(r"(<!-- targets -->\n).*?(<!-- end -->)", lambda m: f"{m[1]}{table}\n{m[2]}", text, flags=re.S)


def _row(target: Target) -> list[str]:
    eats = target.eats
    scripts = [line.split()[0] for line in target.make], [line.split()[0] for line in target.test]
    made, tested = (", ".join(dict.fromkeys(each)) for each in scripts)
    name, make = target.name.removeprefix("export/"), f"make {target.environment}"
    return [
        name,
        made or ("train.py" if target.name == REFERENCE else "-"),
        tested,
        target.executor,
        target.ran_on,
        f"{eats.dtype}, {eats.layout.upper()}, {eats.pixels} pixels",
        _floor(target),
        make if target.environment else "-",
    ]


def _floor(target: Target) -> str:
    if target.min_mean_cosine is not None:
        return f"mean {target.min_mean_cosine:g}"
    return "-" if target.min_cosine is None else f"{target.min_cosine:g}"


if __name__ == "__main__":
    PAGE.write_text(render_page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
