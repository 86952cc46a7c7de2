"""An int8 .tflite as C source: an array, and a header with what the code around the model must know."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from facelib.errors import FaceError
from facelib.model_input import TEMPLATE_112, Io
from facelib.runtimes.tflite import Lite
from facelib.self_test import min_cosine_of, ramps

C_TYPES = {"uint8": "uint8_t", "int8": "int8_t"}
BYTES_A_LINE = 20


@dataclass(frozen=True)
class CModel:
    """What the header says.

    Attributes:
        name: of the .tflite, for a comment.
        sha256: of the .tflite.
        content: its bytes.
        io: how it is fed; raw RGB pixels, NHWC.
        lite: the model, for the quantisation of its edges.
        threshold: largest squared L2 distance of the same person.
        threshold_from: where the threshold comes from, for a comment.
    """

    name: str
    sha256: str
    content: bytes
    io: Io
    lite: Lite
    threshold: float
    threshold_from: str


def check_edges(lite: Lite, io: Io, path: Path) -> None:
    """Refuses a model that a microcontroller cannot take as bytes.

    Raises:
        FaceError: another type than uint8 or int8 at an edge, or other pixels than raw RGB.
    """
    types = (lite.dtype.name, lite.output_dtype.name)
    if not set(types) <= C_TYPES.keys():
        raise FaceError(
            f"The model for a microcontroller must have integer input and output. '{path}' has {types[0]} input and "
            f"{types[1]} output. Make a suitable model: python pb_2_tflite.py IN.pb --mode int8 --edges int8 "
            "--calibration DATA"
        )
    if (io.pixels, io.colour, io.layout) != ("raw", "rgb", "nhwc"):
        raise FaceError(
            f"The C code passes raw RGB pixels in NHWC order to the model. '{path}' needs {io.pixels} {io.colour} "
            f"pixels, {io.layout}: convert its graph with pb_2_tflite.py --mode int8, which adds the pixel conversion "
            "to the model."
        )


def header(model: CModel) -> str:
    """The text of face_model.h."""
    lite, (height, width) = model.lite, model.io.size
    limits = np.iinfo(lite.dtype)
    # Landmarks lie at the same places of the face when it is scaled; a cut moves them.
    fits = model.io.fit == "resize"
    scales = (width / 112, height / 112) if fits else (1.0, 1.0)
    shifts = (0.0, 0.0) if fits else ((112 - width) // 2, (112 - height) // 2)
    points = [tuple(scales[i] * point[i] - shifts[i] for i in (0, 1)) for point in TEMPLATE_112]
    expected = ", ".join(map(str, expected_output(model)))
    template = ", ".join(f"{{{x:.4f}f, {y:.4f}f}}" for x, y in points)
    return f"""/* {model.name}, SHA-256 {model.sha256}. Written by mcu/tflite_2_c.py. */
#ifndef FACE_MODEL_H
#define FACE_MODEL_H

#include <stdint.h>

#define FACE_MODEL_BYTES {len(model.content)}
extern const unsigned char face_model[FACE_MODEL_BYTES];

/* Input: FACE_HEIGHT rows of FACE_WIDTH pixels R, G, B. Pixel 0..255 = scale * (value - zero point). */
typedef {C_TYPES[lite.dtype.name]} face_input_t;
#define FACE_HEIGHT {height}
#define FACE_WIDTH {width}
#define FACE_INPUT_SIZE (FACE_HEIGHT * FACE_WIDTH * 3)
#define FACE_INPUT_SCALE {_c_float(lite.scale or 1)}
#define FACE_INPUT_ZERO_POINT {_c_int(lite.zero_point)}
#define FACE_INPUT_MIN {_c_int(limits.min)}
#define FACE_INPUT_MAX {limits.max}

/* Output: the embedding before L2 normalisation = scale * (value - zero point). */
typedef {C_TYPES[lite.output_dtype.name]} face_output_t;
#define FACE_EMBEDDING_SIZE {lite.output_size}
#define FACE_OUTPUT_SCALE {_c_float(lite.output_scale or 1)}
#define FACE_OUTPUT_ZERO_POINT {_c_int(lite.output_zero_point)}

/* The same person if the squared L2 distance of unit embeddings is at most this. {model.threshold_from} */
#define FACE_THRESHOLD {_c_float(model.threshold)}

/* What the reference kernels give for the image of face_self_test_image, and the lowest cosine to it. */
#define FACE_SELF_TEST_OUTPUT {{{expected}}}
#define FACE_SELF_TEST_MIN_COSINE {_c_float(min_cosine_of("tflite_int8"))}

/* Where an aligned face has its left eye, right eye, nose, left and right corner of the mouth: x, y in pixels. */
#define FACE_TEMPLATE {{{template}}}

#endif
"""


def expected_output(model: CModel) -> list[int]:
    """The integers of the output tensor for the image of the self test, by the kernels that TFLite Micro has."""
    reference = Lite(model.content, input=model.io.input, output=model.io.output, kernels="reference")
    steps = reference(ramps(model.io.size)[None]) / np.float32(reference.output_scale or 1)
    return (np.rint(steps).astype(int) + reference.output_zero_point).ravel().tolist()


def source(model: CModel) -> str:
    """The text of face_model.c."""
    lines = "\n".join(_byte_lines(model.content))
    return f"""/* {model.name}, SHA-256 {model.sha256}. Written by mcu/tflite_2_c.py. */
#include "face_model.h"

/* TFLite Micro reads the weights in place: 16 bytes are the largest alignment of a tensor in the file. */
#if defined(__GNUC__)
__attribute__((aligned(16)))
#endif
const unsigned char face_model[FACE_MODEL_BYTES] = {{
{lines}
}};
"""


def _byte_lines(content: bytes) -> Iterator[str]:
    for start in range(0, len(content), BYTES_A_LINE):
        yield "  " + " ".join(f"{byte}," for byte in content[start : start + BYTES_A_LINE])


def _c_float(value: float) -> str:
    """A float constant of C that is the same float32."""
    return f"{np.float32(value):.9e}f"


def _c_int(value: int) -> str:
    return f"({value})" if value < 0 else str(value)
