"""The look of every figure: axes, colours, dashes, legends, PNG bytes.

`theme` is 'light' or 'dark'. Text stays readable on a telephone, where a figure is 340 pixels wide. Colour-blind
readers can tell the colours apart, and lines also differ in dashes and markers. matplotlib is imported with the first
figure.
"""

import io
import itertools
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

# A figure of a page: (name for its alt text, caption, theme -> PNG bytes).
Drawing = tuple[str, str, Callable[[str], bytes]]


@dataclass(frozen=True)
class Theme:
    """Colours for a light or a dark background, as '#rrggbb'.

    Attributes:
        ground: the background.
        text: titles, labels and thin marks.
        grid: grid lines.
        series: of the lines; the palette of Okabe and Ito, lightened for the dark background.
        genuine: genuine pairs.
        impostor: impostor pairs.
    """

    ground: str
    text: str
    grid: str
    series: tuple[str, ...]
    genuine: str
    impostor: str


_THEMES = {
    "light": Theme("#ffffff", "#24292f", "#d8dee4",
                   ("#0072b2", "#d55e00", "#009e73", "#aa4499", "#e69f00", "#56b4e9", "#444444"),
                   "#0072b2", "#e69f00"),
    "dark": Theme("#161b22", "#d1d7de", "#30363d",
                  ("#56b4e9", "#ff8c42", "#2fc79b", "#e09ac4", "#f0c808", "#9ecae1", "#c0c0c0"),
                  "#56b4e9", "#f0a830"),
}  # fmt: skip
# With seven colours and six dashes, no pair of them is repeated before the 43rd line.
DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)), (0, (3, 3)), (0, (9, 2)))
MARKERS = "os^Dv<>P"
HEIGHT = 3.0  # inches
_WIDTH = 4.6  # inches
_DPI = 160
_LEGEND_ROW = 0.19  # inches
_LEGEND_LETTERS = 26  # of a label, where two stand in a row


@dataclass(frozen=True)
class Style:
    """How one of several lines is drawn.

    Attributes:
        color: '#rrggbb'.
        dashes: matplotlib's linestyle.
        marker: matplotlib's marker.
    """

    color: str
    dashes: Any
    marker: str


def begin(theme: str, height: float = HEIGHT, rows: int = 1):
    """Begins a figure.

    Args:
        theme: 'light' or 'dark'.
        height: inches, without the legend.
        rows: number of axes, one below the other.

    Returns:
        (figure, its axes from the top, its Theme).
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    colours = _THEMES[theme]
    figure = Figure(figsize=(_WIDTH, height), dpi=_DPI, layout="constrained", facecolor=colours.ground)
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, 1, sharex=True, squeeze=False)[:, 0]
    for ax in axes:
        ax.set_facecolor(colours.ground)
        ax.grid(True, color=colours.grid, linewidth=0.7)
        ax.set_axisbelow(True)
        ax.tick_params(colors=colours.text, labelsize=9, length=3)
        ax.tick_params(which="minor", color=colours.grid, length=2)
        for name, spine in ax.spines.items():
            spine.set_visible(name in ("left", "bottom"))
            spine.set_color(colours.grid)
    return figure, axes, colours


def styles(colours: Theme) -> Iterator[Style]:
    """Endless styles: colours, dashes and markers, each repeated in turn."""
    for color, dashes, marker in zip(*map(itertools.cycle, (colours.series, DASHES, MARKERS)), strict=False):
        yield Style(color, dashes, marker)


def label(ax, colours: Theme, x: str | None = None, y: str | None = None) -> None:
    """Names the axes."""
    if x:
        ax.set_xlabel(x, color=colours.text, fontsize=10)
    if y:
        ax.set_ylabel(y, color=colours.text, fontsize=10)


def legend_below(figure, ax, colours: Theme) -> None:
    """Puts a legend below the plot, where it hides nothing. The figure gets higher by the rows of the legend."""
    handles, labels = ax.get_legend_handles_labels()
    if not labels:
        return
    columns = 2 if max(map(len, labels)) <= _LEGEND_LETTERS and len(labels) > 1 else 1
    labels = ["\n".join(textwrap.wrap(text, 2 * _LEGEND_LETTERS)) or text for text in labels]
    rows = sum(text.count("\n") + 1 for text in labels[::columns])
    figure.set_figheight(figure.get_figheight() + 0.12 + _LEGEND_ROW * rows)
    figure.legend(
        handles, labels, loc="outside lower center", ncols=columns, fontsize=8.5, labelcolor=colours.text,
        frameon=False, handlelength=3.2, borderaxespad=0.2, labelspacing=0.35,
    )  # fmt: skip


def finish(figure) -> bytes:
    """The figure as PNG bytes. Names are drawn as they are: `$` begins no formula, except in numbers on an axis."""
    from matplotlib.text import Text

    numbers = {text for ax in figure.axes for axis in (ax.xaxis, ax.yaxis) for text in axis.findobj(Text)}
    names = {ax_label for ax in figure.axes for ax_label in (ax.xaxis.label, ax.yaxis.label)}
    for text in set(figure.findobj(Text)) - numbers | names:
        text.set_parse_math(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", facecolor=figure.get_facecolor(), metadata={"Software": None})
    return buffer.getvalue()
