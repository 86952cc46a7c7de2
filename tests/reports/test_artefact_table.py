"""Results stand beside each other only when they were measured alike."""

import pytest

from facelib.evaluation.gate import Measurement
from facelib.reports.artefact_table import group_comparable, stage_rows, warnings_of
from facelib.reports.read_run import Stage


def stage(name, *, sha256="aa", pairs=6000, genuine=3000, protocol="exact", flip=False, set_name="lfw", acc=0.9):
    result = {"acc": acc, "pairs": pairs, "genuine": genuine, "vr": {}}
    result |= {"protocol": protocol} if protocol else {}
    result |= {"source": {"path": "lfw.bin", "sha256": sha256}} if sha256 else {}
    return Stage(name, {"flip": flip, "sets": {set_name: result}})


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, []),
        ({"sha256": "bb"}, ["pairs"]),
        ({"genuine": 2999}, ["pairs"]),
        ({"sha256": None}, []),  # an older report: only the number is known
        ({"sha256": None, "pairs": 7000}, ["pairs"]),
        ({"protocol": "insightface"}, ["protocol"]),
        ({"protocol": None}, []),  # older reports knew only the exact one
        ({"flip": True}, ["flip"]),
        ({"sha256": "bb", "protocol": "insightface", "flip": True}, ["pairs", "protocol", "flip"]),
    ],
)
def test_pairs_protocol_and_flip_must_agree(changed, expected):
    measurement = Measurement.of(stage("a"), "lfw")

    assert measurement.differences(Measurement.of(stage("b", **changed), "lfw")) == expected


def test_what_is_measured_otherwise_stands_apart_under_a_warning():
    blocks = group_comparable([stage("a"), stage("b", flip=True), stage("c"), stage("d", set_name="agedb")])

    assert [(block.title, [one.name for one in block.stages]) for block in blocks] == [
        ("lfw #1", ["a", "c"]), ("lfw #2", ["b"]), ("agedb", ["d"])]  # fmt: skip
    first, advice = warnings_of(blocks)
    assert "lfw #2 (b)" in first and "--flip than lfw #1: do not compare" in first and "--valid" in advice


def test_equal_measurements_need_no_warning():
    assert warnings_of(group_comparable([stage("a"), stage("b")])) == []


def test_unknown_pairs_are_said_to_be_unknown():
    (line,) = warnings_of(group_comparable([stage("a"), stage("old", sha256=None)]))

    assert "only the number of pairs is known" in line and line.endswith("old.")


def test_a_measurement_reads_as_a_line():
    text = str(Measurement.of(stage("a", protocol="insightface", flip=True, sha256="0123456789"), "lfw"))

    assert text.startswith("6,000 pairs, 3,000 of them same person")
    assert "protocol insightface" in text and "with flip" in text and "sha256 01234567" in text


def test_the_stage_table_takes_no_difference_to_what_was_measured_otherwise():
    same, other = stage_rows([stage("a"), stage("b", acc=0.8), stage("c", flip=True)])[1:]

    assert same.reference.stage == "a" and same.obstacles == []
    assert other.reference is None and other.obstacles == ["flip"] and other.how == "exact, flip"
