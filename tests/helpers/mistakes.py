"""The mistakes in feeding that a target's tests try: the three that users report in every run, the others if slow."""

from facelib.wrong_input import MISTAKES
from tests.helpers.slow import slow_unless_quick

REPORTED = ("pixels scaled twice", "BGR for RGB", "NHWC pixels read as NCHW")
TRIED = slow_unless_quick(MISTAKES, [mistake for mistake in MISTAKES if mistake.name in REPORTED])
