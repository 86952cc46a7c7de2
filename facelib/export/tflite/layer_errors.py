"""The error of quantisation by layer: the cosine of each int8 operation to the same operation of the float model."""

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from facelib.runtimes.frozen_graph import layer_of
from facelib.runtimes.tflite import Watched


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


def layer_errors(full: bytes, quantised: bytes, pixels: np.ndarray) -> list[LayerError]:
    """The errors of all operations that both models have, in the order of execution.

    Args:
        full: the bytes of the float .tflite.
        quantised: the bytes of the int8 .tflite of the same graph.
        pixels: float32 [N, H, W, 3], as the graph takes them.
    """
    int8_net, float_net = Watched(quantised), Watched(full)
    by_name = {name: op.output for op in float_net.ops for name in op.output.name.split(";")}
    pairs = []
    for op in int8_net.ops:
        found = next((by_name[name] for name in op.output.name.split(";") if name in by_name), None)
        if found is not None:
            pairs.append((op, found))
    cosines = np.zeros((len(pixels), len(pairs)))
    for row, face in zip(cosines, pixels, strict=True):
        int8_net.run(face[None])
        float_net.run(face[None])
        row[:] = [_cosine(int8_net.value(op.output), float_net.value(other)) for op, other in pairs]
    known: dict[int, float] = {}  # {tensor number: cosine}
    errors = []
    for (op, _), cosine in zip(pairs, cosines.mean(0).tolist(), strict=True):
        before = min((known[tensor.index] for tensor in op.inputs if tensor.index in known), default=1.0)
        known[op.output.index] = cosine
        errors.append(LayerError(layer_of(op.output.name), op.kind, cosine, before - cosine))
    return errors


def worst(errors: Sequence[LayerError], count: int = 5) -> list[LayerError]:
    """The `count` operations with the largest error, the worst first."""
    return sorted(errors, key=lambda error: -error.lost)[:count]


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


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Of two maps as vectors; 1 if both are all zeros."""
    a, b = a.ravel().astype(np.float64), b.ravel().astype(np.float64)
    norms = np.linalg.norm(a) * np.linalg.norm(b)
    return float(a @ b / norms) if norms else float(not (a.any() or b.any()))
