"""The self test of an artefact: what it gives for an image made by a formula, and for that image fed wrongly.

Its sidecar holds it, so a program that has the two files alone can tell that it runs the artefact rightly, and else why
not: a mistake in feeding has an embedding of its own.
"""

import base64
from dataclasses import dataclass
from typing import Any

import numpy as np

from facelib.embedder import RuntimeEmbedder
from facelib.errors import FaceError
from facelib.sidecar import Sidecar
from facelib.unit_vectors import row_cosines
from facelib.wrong_input import EXPLAINS, MISTAKES, RIGHT, as_function_of_values

FORMULA = "red = 2 x & 255, green = 2 y & 255, blue = 255 - x - y & 255"
# Lowest cosine by the end of the kind: runtimes and kernels differ by less. The kernels of XNNPACK and the reference
# kernels of LiteRT give 0.977 on an int8 MobileFaceNet, its mistakes 0.65 at most.
_MIN_COSINES = {"int8": 0.95, "kmodel": 0.95, "espdl": 0.95, "dynamic": 0.98, "fp16": 0.995}
_FLOAT_MIN_COSINE = 0.999
_INTEGER_KINDS = ("int8", "kmodel", "espdl")


@dataclass(frozen=True)
class Outcome:
    """What the self test of an artefact shows.

    Attributes:
        cosine: to the embedding in the sidecar.
        is_same_bits: whether every bit is that of the sidecar.
        executor: that gave the embedding in the sidecar; None where it is not known.
        is_integer: whether the artefact computes in integers, so that the same kernels give the same bits anywhere.
    """

    cosine: float
    is_same_bits: bool
    executor: str | None
    is_integer: bool

    def __str__(self) -> str:
        """What is printed of an artefact that passed."""
        if self.is_same_bits:
            return f"self test: exactly the same bits as on {self.executor}"
        return f"self test: cosine {self.cosine:.4f} to {self.executor}, not the same bits"


def ramps(size: tuple[int, int]) -> np.ndarray:
    """The image of `FORMULA`: uint8 [*size, 3], RGB. Its channels and axes all differ, and its sides."""
    y, x = np.mgrid[: size[0], : size[1]]
    return (np.stack([2 * x, 2 * y, 255 - x - y], axis=-1) & 255).astype(np.uint8)


def make_self_test(model: RuntimeEmbedder, kind: str, tensors: dict[str, Any] | None = None) -> dict[str, Any]:
    """The `self_test` of a sidecar.

    Args:
        model: the artefact on its usual runtime.
        kind: of artefact, e.g. 'tflite_int8'.
        tensors: those of the sidecar; None where it has none.
    """
    embed, values = as_function_of_values(model), ramps(model.io.size)[None].astype(np.float32)
    right = embed(values)[0]
    found: dict[str, Any] = {"image": FORMULA, "embedding": _encode(right)}
    last = (tensors or {}).get("output", {})
    if last.get("scale"):
        output = np.rint(right / np.float32(last["scale"])) + last["zero_point"]
        found["output"] = base64.b64encode(output.astype(last["dtype"]).tobytes()).decode()
    rows = embed(np.concatenate([each.apply(values) for each in MISTAKES]))
    wrong = [
        {"name": each.name, "advice": each.advice, "embedding": _encode(row)}
        for each, row in zip(MISTAKES, rows, strict=True)
    ]
    return {**found, "executor": model.executor, "min_cosine": min_cosine_of(kind), "mistakes": wrong}


def min_cosine_of(kind: str) -> float:
    """The lowest cosine of a self test for a kind of artefact."""
    return next((floor for end, floor in _MIN_COSINES.items() if kind.endswith(end)), _FLOAT_MIN_COSINE)


def run_self_test(model: RuntimeEmbedder, sidecar: Sidecar | None) -> Outcome | None:
    """Runs the self test of a sidecar.

    Args:
        model: the artefact as it will be used.
        sidecar: of the artefact; None when it has none.

    Returns: what it shows; None for a sidecar without a self test, as older ones are, and for one whose `io` the user
        said with flags and may say anew.

    Raises:
        FaceError: the model gives another embedding, or that of a mistake. Names the likely cause.
    """
    test = sidecar.rest.get("self_test") if sidecar else None
    if not sidecar or not test or sidecar.is_from_flags:
        return None
    right, wrong = _decode(test, sidecar), [_decode(each, sidecar) for each in test["mistakes"]]
    with np.errstate(all="ignore"):
        row = as_function_of_values(model)(ramps(model.io.size)[None].astype(np.float32))
        if any(one.shape != row[0].shape for one in (right, *wrong)):
            raise FaceError(
                f"'{sidecar.path}' does not belong to '{model.name}': its self test has a different input size."
            )
        cosine, *mistaken = np.nan_to_num([row_cosines(one[None], row)[0] for one in (right, *wrong)], nan=-1).tolist()
    mistake = ""
    best = int(np.argmax(mistaken)) if mistaken else 0
    if cosine < RIGHT and mistaken and 1 - mistaken[best] <= EXPLAINS * (1 - cosine):
        named = test["mistakes"][best]
        mistake = (
            f"The likely cause: {named['name']} (cosine {mistaken[best]:.3f} with this mistake). {named['advice']}."
        )
    if mistake or cosine < test["min_cosine"]:
        made_on = test.get("executor")
        raise FaceError(
            f"'{model.name}' does not return the embedding of its self test: cosine {cosine:.3f}, but at least "
            f"{test['min_cosine']:g} is required. Nothing was done. "
            + (
                mistake
                or f"No known mistake explains it: the runtime computes wrongly. The test was made on {made_on}."
            )
        )
    is_integer = sidecar.kind.endswith(_INTEGER_KINDS)
    return Outcome(cosine, row[0].tobytes() == right.tobytes(), test.get("executor"), is_integer)


def _encode(embedding: np.ndarray) -> str:
    return base64.b64encode(embedding.astype("<f4").tobytes()).decode()


def _decode(test: dict[str, Any], sidecar: Sidecar) -> np.ndarray:
    try:
        return np.frombuffer(base64.b64decode(test["embedding"], validate=True), "<f4").astype(np.float32)
    except ValueError as error:
        raise FaceError(f"'{sidecar.path}' has a damaged self test ({error}). Make the artefact again.") from error
