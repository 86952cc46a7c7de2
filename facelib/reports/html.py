"""Renders the templates of templates/ to HTML pages, and the types of what they show: figures, tables, notes.

A page is one file that needs no network. It is readable on a telephone, light or dark as the reader's system is. All
text is escaped by jinja2, which is imported when the first page is rendered.
"""

import base64
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from facelib.figure_style import Drawing

_TEMPLATES = Path(__file__).with_name("templates")
_MAX_OPEN_ROWS = 12


@dataclass(frozen=True)
class Figure:
    """A plot in two colourings; the browser shows the one for the reader's system.

    Attributes:
        alt: alternative text.
        caption: text below the plot.
        light: PNG bytes.
        dark: PNG bytes.
    """

    alt: str
    caption: str
    light: bytes
    dark: bytes


@dataclass(frozen=True)
class Note:
    """Small print in a cell, on a line of its own.

    Attributes:
        text: what it says.
        kind: 'good' or 'bad' for its colour, 'wrap' for long text, else ''.
    """

    text: str
    kind: str = ""


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: what it says.
        notes: small print below the text.
        is_name: whether the text is a file name, which may break at its dots, slashes and underscores.
        faces: (name, JPEG bytes) of small pictures before the text.
    """

    text: str
    notes: tuple[Note, ...] = ()
    is_name: bool = False
    faces: tuple[tuple[str, bytes], ...] = ()


@dataclass(frozen=True)
class TableRow:
    """A row of a table.

    Attributes:
        cells: one for each head.
        is_continued: whether it belongs to the artefact of the row above.
        is_total: whether it sums up the rows above.
    """

    cells: list[Cell]
    is_continued: bool = False
    is_total: bool = False

    @property
    def look(self) -> str:
        """Its CSS classes."""
        return " ".join(["continued"] * self.is_continued + ["total"] * self.is_total)


@dataclass(frozen=True)
class Table:
    """A table, which scrolls sideways by itself.

    Attributes:
        heads: names of the columns.
        rows: from the top.
        note: text below the table.
        title: what the reader clicks on to open it.
        num_left: how many leading columns are flush left.
    """

    heads: list[str]
    rows: list[TableRow]
    note: str = ""
    title: str = ""
    num_left: int = 1

    @property
    def is_open(self) -> bool:
        """Whether the table is short enough to be open from the start."""
        return len(self.rows) <= _MAX_OPEN_ROWS


@dataclass(frozen=True)
class MatrixCell:
    """A square of a matrix.

    Attributes:
        text: what stands in it.
        strength: of its colour, 0 to 1.
        title: what the browser shows when the pointer is on it.
    """

    text: str
    strength: float
    title: str = ""


@dataclass(frozen=True)
class Matrix:
    """A square table with the same names at its left and below, as coloured squares.

    Attributes:
        title: what the reader clicks on to open it.
        names: (whole name, the name as it is shown), K.
        rows: K rows of K cells.
        note: text below.
    """

    title: str
    names: list[tuple[str, str]]
    rows: list[list[MatrixCell]]
    note: str


def notes(*texts: str, kind: str = "") -> tuple[Note, ...]:
    """A note for each text that is not empty."""
    return tuple(Note(text, kind) for text in texts if text)


def draw_figure(drawing: Drawing, where: str = "") -> Figure:
    """Draws a figure for both colourings. `where` is added to its name."""
    key, caption, draw = drawing
    return Figure(f"{key} {where}".strip() + f": {caption}", caption, draw("light"), draw("dark"))


def render(template: str, **values: Any) -> str:
    """The HTML of a page.

    Args:
        template: name of a file in templates/.
        values: what the template names; text is escaped.
    """
    return _environment().get_template(template).render(values)


@cache
def _environment():
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters.update(breakable=_breakable, data_url=_data_url)
    return environment


def _breakable(text: str):
    """Escaped text that may break at its dots, slashes and underscores."""
    from markupsafe import Markup, escape

    text = escape(text)
    for old, new in (("_", "_<wbr>"), ("/", "/<wbr>"), (".", "<wbr>.")):  # "<wbr>" has no slash, dot or underscore
        text = text.replace(old, Markup(new))
    return text


def _data_url(image: bytes, kind: str) -> str:
    """An image as an address: data:image/png;base64,..."""
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"
