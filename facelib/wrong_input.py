"""Names the mistake behind a model's wrong embeddings: pixels scaled twice or never, colours swapped, axes misread.

A reference model is fed with the same faces under each mistake. The mistake whose embeddings are those of the tested
model is the likely cause.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from facelib.embedder import RuntimeEmbedder
from facelib.unit_vectors import normalize, row_cosines, row_norms

RIGHT = 0.98  # mean cosine to the reference from which on nothing is wrong
EXPLAINS = 0.5  # a mistake is likely if it leaves at most this share of the error
SAME_FACE = 0.5  # mean cosine between faces; a net that is fed rightly is below it


@dataclass(frozen=True)
class Mistake:
    """A way to feed a model wrongly.

    Attributes:
        name: for errors; a noun phrase.
        advice: what to look at, an imperative.
        apply: float32 [N, H, W, 3], raw RGB -> what a model of raw RGB pixels sees under the mistake, same shape.
    """

    name: str
    advice: str
    apply: Callable[[np.ndarray], np.ndarray]


def _rows_as_planes(pixels: np.ndarray) -> np.ndarray:
    num_faces, height, width, _ = pixels.shape
    return pixels.reshape(num_faces, 3, height, width).transpose(0, 2, 3, 1)


MISTAKES = (
    Mistake(
        "pixels scaled twice",
        "The model scales pixels itself: remove the scaling (mean, std) from the converter's settings or from the "
        "code that feeds the model",
        lambda pixels: (pixels - 127.5) / 128,
    ),
    Mistake(
        "pixels not scaled",
        "The model takes scaled pixels: set the mean and std that the sidecar names",
        lambda pixels: pixels * 128 + 127.5,
    ),
    Mistake(
        "BGR for RGB",
        "Swap the order of the channels: --color, or the converter's setting",
        lambda pixels: pixels[..., ::-1],
    ),
    Mistake(
        "NHWC pixels read as NCHW",
        "The model takes three planes: transpose the pixels, or convert the model to the layout of your pixels",
        _rows_as_planes,
    ),
    Mistake(
        "NCHW pixels read as NHWC",
        "The model takes the channels last: transpose the pixels, or convert the model to the layout of your pixels",
        lambda pixels: pixels.transpose(0, 3, 1, 2).reshape(pixels.shape),
    ),
    Mistake(
        "uint8 pixels read as int8",
        "An int8 input takes pixel - 128: subtract its zero point",
        lambda pixels: (pixels + 128) % 256,
    ),
    Mistake(
        "mirrored pixels",
        "Do not mirror the image: switch off the mirroring, for instance of a front camera",
        lambda pixels: pixels[:, :, ::-1],
    ),
)


@dataclass(frozen=True)
class Findings:
    """How a model's embeddings compare with those of a reference.

    Attributes:
        cosine: mean cosine to the reference.
        between: mean cosine between the faces.
        reference_between: the same of the reference.
        mistake: the likely cause of a low cosine; None if there is none.
        mistake_cosine: mean cosine to the reference under that mistake.
    """

    cosine: float
    between: float
    reference_between: float
    mistake: Mistake | None = None
    mistake_cosine: float = 0.0

    @property
    def looks_the_same(self) -> bool:
        """Whether the model hardly tells faces apart that the reference does tell apart."""
        return self.between > SAME_FACE > self.reference_between

    def __str__(self) -> str:
        """What was found and what to do, ready for the end of an error; '' if nothing is wrong."""
        parts = []
        if self.looks_the_same:
            parts.append(
                f"Different faces get almost the same embedding (mean cosine between them {self.between:.2f}, "
                f"reference {self.reference_between:.2f})."
            )
        if self.mistake is not None:
            parts.append(
                f"The likely cause: {self.mistake.name} (cosine {self.mistake_cosine:.3f} with this mistake). "
                f"{self.mistake.advice}."
            )
        elif self.looks_the_same:
            parts.append("Check the input of the model: scaling, colour order, layout.")
        return " ".join(parts)


def compare_with(embeddings: np.ndarray, faces: np.ndarray, reference: Callable[[np.ndarray], np.ndarray]) -> Findings:
    """Compares a model's embeddings with those of a reference, and looks for a mistake that explains them.

    Args:
        embeddings: float [N, D], of the tested model; N >= 2.
        faces: uint8 [N, H, W, 3], RGB, of the size that the models take; mostly different people.
        reference: float32 [N, H, W, 3], raw RGB values of any size -> embeddings [N, D].
    """
    values = faces.astype(np.float32)
    right = reference(values)
    cosine, between = _mean_cosine(embeddings, right), cosine_between(embeddings)
    findings = Findings(cosine, between, cosine_between(right))
    if cosine >= RIGHT:
        return findings
    cosines = [_mean_cosine(embeddings, reference(np.ascontiguousarray(each.apply(values)))) for each in MISTAKES]
    best = int(np.argmax(cosines))
    if 1 - cosines[best] > EXPLAINS * (1 - cosine):
        return findings
    return Findings(cosine, between, findings.reference_between, MISTAKES[best], cosines[best])


def cosine_between(embeddings: np.ndarray) -> float:
    """Mean cosine between different rows of embeddings, float [N, D]; 1 if a row is zero."""
    if len(embeddings) < 2 or not row_norms(embeddings).all():
        return 1.0
    unit = normalize(embeddings)
    return float((np.square(unit.sum(0)).sum() - len(unit)) / (len(unit) * (len(unit) - 1)))


def _mean_cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(row_cosines(a, b).mean())


def as_function_of_values(model: RuntimeEmbedder) -> Callable[[np.ndarray], np.ndarray]:
    """A model as a function of float32 [N, H, W, 3], raw RGB values; an integer input rounds them to 0..255."""

    def embed(values: np.ndarray) -> np.ndarray:
        values = np.ascontiguousarray(values, np.float32)
        if model.io.dtype == "uint8":
            values = np.clip(np.rint(values), 0, 255).astype(np.uint8)
        return model.raw(values)

    return embed
