"""The error of quantisation by layer: how it is said and drawn. Each converter has its own way to measure it."""

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class LayerError:
    """The quantisation error of one operation of an int8 model.

    Attributes:
        layer: 'stem_conv', ...
        operation: 'CONV_2D', ...
        cosine: of its output to the float model's, mean over crops. The errors of all layers before it are included.
        lost: how much lower `cosine` is than the lowest cosine of its inputs: the error of this operation.
    """

    layer: str
    operation: str
    cosine: float
    lost: float

    def as_dict(self) -> dict:
        return asdict(self)


def worst(errors: Sequence[LayerError], count: int = 5) -> list[LayerError]:
    """The `count` operations with the largest error, the worst first."""
    return sorted(errors, key=lambda error: -error.lost)[:count]


def describe_worst(errors: Sequence[LayerError]) -> str:
    """One line for each of the operations with the largest error."""
    return "\n".join(f"  {e.layer} ({e.operation}) -{e.lost:.4f}, cosine {e.cosine:.4f}" for e in worst(errors))


def draw(errors: Sequence[LayerError], theme: str = "light") -> bytes:
    """A PNG: cosine by layer. The layers that lose most have marks, which the legend names."""
    from facelib import figure_style

    canvas, (ax,), colours = figure_style.begin(theme)
    cosines = [error.cosine for error in errors]
    ax.plot(range(1, len(errors) + 1), cosines, color=colours.series[0], linewidth=1.2)
    places = {id(error): place for place, error in enumerate(errors, start=1)}
    looks = itertools.islice(figure_style.styles(colours), 1, None)  # the first is that of the line
    for error, style in zip(worst(errors), looks, strict=False):
        ax.plot(
            places[id(error)], error.cosine, style.marker, color=style.color, markersize=6,
            label=f"{error.layer} -{error.lost:.4f}",
        )  # fmt: skip
    ax.set_ylim(min(cosines) - 0.1 * (1.001 - min(cosines)), 1.0005)
    figure_style.label(ax, colours, "operation, in order", "cosine to the float model")
    figure_style.legend_below(canvas, ax, colours)
    return figure_style.finish(canvas)
