"""Tables for the terminal and for Markdown files: aligned columns, one line a row."""

from collections.abc import Iterator, Sequence

Rows = Sequence[Sequence[str]]


def format_text_table(rows: Rows, num_left: int) -> str:
    """Columns between bars, with a rule under the first row.

    Args:
        rows: cells as text, equally many in each row; the first row holds the heads.
        num_left: how many leading columns are flush left; the others are flush right.
    """
    head, *body = (" | ".join(cells).rstrip() for cells in _aligned(rows, num_left))
    return "\n".join([head, "-+-".join("-" * width for width in _widths(rows)), *body])


def format_markdown_table(rows: Rows, num_left: int) -> str:
    """The same table in Markdown, aligned so that it reads well as plain text too. Arguments as above."""
    head, *body = ("| " + " | ".join(cells) + " |" for cells in _aligned(rows, num_left))
    rules = ["-" * (width + 1) + ("-" if i < num_left else ":") for i, width in enumerate(_widths(rows))]
    return "\n".join([head, "|" + "|".join(rules) + "|", *body])


def _widths(rows: Rows) -> list[int]:
    return [max(map(len, column)) for column in zip(*rows, strict=True)]


def _aligned(rows: Rows, num_left: int) -> Iterator[list[str]]:
    widths = _widths(rows)
    for row in rows:
        yield [
            cell.ljust(width) if i < num_left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
