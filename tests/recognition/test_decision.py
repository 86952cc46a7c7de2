"""The threshold of a decision: given, calibrated, or refused; its JSON and its picture."""

import cv2
import numpy as np
import pytest

from facelib.errors import FaceError
from facelib.evaluation.probability import Ratio
from facelib.evaluation.thresholds import Calibrated
from facelib.recognition.decision import Decision, about, decide_by, verdict_picture
from predict import probability_line

LFW = Calibrated("lfw", 3000, 1e-3, 1.2, 0.4, (1.15, 1.25), (3e-4, 3e-3), flip=True)


def test_a_given_threshold_needs_no_calibration(tmp_path):
    decision = decide_by(tmp_path / "no model", None, 1.5)

    assert (decision.distance, decision.far, decision.flip) == (1.5, None, False)
    assert str(decision) == "threshold 1.5000, given"


@pytest.mark.parametrize("threshold", [-0.1, 4.1, float("nan")])
def test_a_threshold_that_is_no_distance_is_refused(tmp_path, threshold):
    with pytest.raises(FaceError, match="squared L2 distance from 0 to 4"):
        decide_by(tmp_path / "x", None, threshold)


@pytest.mark.parametrize("far", [0.0, 1.5, float("inf"), float("nan")])
def test_a_far_that_is_no_rate_is_refused(tmp_path, far):
    with pytest.raises(FaceError, match="rate above 0 and at most 1"):
        decide_by(tmp_path / "x", far, None)


def test_a_calibrated_decision_says_where_it_comes_from_and_survives_json():
    decision = Decision(1.2, LFW)

    assert "FAR 0.001 (0.0003 to 0.003" in str(decision) and "lfw: 3,000 impostor pairs" in str(decision)
    assert (decision.far, decision.flip) == (1e-3, True)
    assert Decision.from_dict(decision.as_dict()) == decision
    assert Decision.from_dict(Decision(0.7).as_dict()) == Decision(0.7)


@pytest.mark.parametrize("count, text", [(0.0612, "0.061"), (9.51, "9.5"), (10, "10"), (1234.4, "1,234")])
def test_expected_counts_have_two_digits_below_ten(count, text):
    assert about(count) == text


def test_a_verdict_is_a_png_whatever_the_names():
    faces = [np.full((112, 112, 3), shade, np.uint8) for shade in (60, 200)]

    picture = verdict_picture(faces, ["$a_1$.jpg", "b" * 99], 1.3, Decision(1.2, LFW))

    pixels = cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR)
    assert pixels.shape == (704, 960, 3)


def test_the_line_of_a_probability_has_its_interval_prior_and_set():
    ratio = Ratio(-10.0, 12.0, 8.0, (1.0, -1.2, 1.5))

    line = probability_line(ratio, "lfw", 1.0, 0.5)

    assert line.startswith("P(same person) 0.8808 [") and "] at prior 0.5; log-likelihood ratio +2.00 [" in line
    assert line.endswith("calibrated on lfw")
    assert probability_line(ratio, "lfw", 1.0, 0.01).startswith("P(same person) 0.0695 [")
