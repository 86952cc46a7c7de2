"""The weights of the face detector are those of their README, and a missing LiteRT is one clear line."""

import hashlib
import re
import sys

import numpy as np
import pytest

from facelib.alignment.detect import FaceDetector
from facelib.alignment.face_boxes import WEIGHTS, probability
from facelib.errors import FaceError


def test_the_weights_are_those_that_their_readme_names():
    rows = re.findall(
        r"^\| (\w+\.tflite) \| ([\d,]+) \|.* ([0-9a-f]{64}) \|$", (WEIGHTS / "README.md").read_text(), re.MULTILINE
    )
    found = {path.name: path.read_bytes() for path in WEIGHTS.glob("*.tflite")}

    assert len(found) == 2
    assert {name: (size, digest) for name, size, digest in rows} == {
        name: (f"{len(data):,}", hashlib.sha256(data).hexdigest()) for name, data in found.items()
    }


def test_without_litert_the_detector_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)

    line = r'^The face detector runs on LiteRT.* pip install "mobilearc\[board\]", or .* pip install ai-edge-litert\.$'
    with pytest.raises(FaceError, match=line) as error:
        FaceDetector()

    assert "\n" not in str(error.value)


def test_a_probability_is_the_logistic_function_without_overflow():
    np.testing.assert_allclose(probability([-1e9, -2, 0, 2, 1e9]), [0, 0.119203, 0.5, 0.880797, 1], atol=1e-6)
