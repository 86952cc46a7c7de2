"""Where an int8 model loses accuracy: how alike each of its layers is to the float model's."""

from dataclasses import asdict, dataclass

import numpy as np

from facelib.runtimes.frozen_graph import layer_of
from facelib.runtimes.tflite import Watched


@dataclass(frozen=True)
class LayerError:
    """One operation of the int8 model.

    layer, operation: 'stem_conv', 'CONV_2D'.   cosine: of its output to the float model's, the mean over crops, with
    all that was lost before it.   lost: by how much that is below the worst of its inputs.
    """

    layer: str
    operation: str
    cosine: float
    lost: float

    def as_dict(self) -> dict:
        return asdict(self)


def layer_errors(full: bytes, quantised: bytes, pixels: np.ndarray) -> list[LayerError]:
    """The operations that both models have, in order.

    Args:
        full, quantised: .tflite files of the same graph.   pixels: float32 [N, H, W, 3], as the graph takes them.
    """
    ours, theirs = Watched(quantised), Watched(full)
    by_name = {name: op.output for op in theirs.operations for name in op.tensor.split(";")}
    pairs = []
    for op in ours.operations:
        found = next((by_name[name] for name in op.tensor.split(";") if name in by_name), None)
        if found is not None:
            pairs.append((op, found))
    cosines = np.zeros((len(pixels), len(pairs)))
    for row, face in zip(cosines, pixels, strict=True):
        ours.run(face[None])
        theirs.run(face[None])
        row[:] = [_cosine(ours.value(op.output), theirs.value(other)) for op, other in pairs]
    means, known, errors = cosines.mean(0), {}, []
    for (op, _), cosine in zip(pairs, means.tolist(), strict=True):
        before = min((known[tensor] for tensor in op.inputs if tensor in known), default=1.0)
        known[op.output] = cosine
        errors.append(LayerError(layer_of(op.tensor), op.name, cosine, before - cosine))
    return errors


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.ravel().astype(np.float64), b.ravel().astype(np.float64)
    norms = np.linalg.norm(a) * np.linalg.norm(b)
    return float(a @ b / norms) if norms else float(not (a.any() or b.any()))


def worst(errors: list[LayerError], count: int = 5) -> list[LayerError]:
    """Those that lose most, the worst first."""
    return sorted(errors, key=lambda error: -error.lost)[:count]


def draw(errors: list[LayerError], theme: str = "light") -> bytes:
    """Cosine by layer as a PNG; the layers that lose most are named."""
    from facelib import figure_style

    canvas, (ax,), colours = figure_style.begin(theme)
    cosines = [error.cosine for error in errors]
    ax.plot(range(1, len(errors) + 1), cosines, color=colours.series[0], linewidth=1.2)
    named = {id(error) for error in worst(errors)}
    for place, error in enumerate(errors, start=1):
        if id(error) in named:
            ax.plot(place, error.cosine, "o", color=colours.series[1], markersize=4)
            ax.annotate(
                f"{error.layer} ", (place, error.cosine), fontsize=6, rotation=90, ha="center", va="top",
                color=colours.text,
            )  # fmt: skip
    ax.set_ylim(min(cosines) - 0.45 * (1.001 - min(cosines)), 1.0005)  # room for the names
    figure_style.label(ax, colours, "operation, in order", "cosine to the float model")
    return figure_style.finish(canvas)
