"""The gate lets nothing worse pass, and compares only what was measured on the same pairs in the same way."""

import pytest

from facelib.errors import FaceError
from facelib.evaluation.gate import Measurement, compare, is_whole_test


def make_report(acc=0.994, rate=0.987, *, flip=False, sha256="a" * 64, **changes):
    lfw = {"pairs": 6000, "genuine": 3000, "acc": acc, "vr": {"0.001": {"vr": rate}}, "protocol": "exact"}
    source = {"source": {"path": "lfw.bin", "sha256": sha256}} if sha256 else {}
    return {"flip": flip, "sets": {"lfw": {**lfw, **source, **changes}}}


@pytest.mark.parametrize(
    "acc, vr, words",
    [
        (0.994, 0.987, None),
        (0.999, 0.999, None),
        (0.989, 0.967, None),  # exactly the allowed loss
        (0.9889, 0.987, "lfw: ACC 98.89 % against 99.40 %: 0.51 points lost, 0.5 allowed"),
        (0.994, 0.96, "lfw: VR@FAR=0.001 96.00 % against 98.70 %: 2.70 points lost, 2 allowed"),
        (float("nan"), 0.987, "ACC"),
        (0.994, float("nan"), "VR"),
        (0.994, None, "VR@FAR=0.001 cannot be compared"),
    ],
)
def test_the_gate_names_set_numbers_and_the_allowed_loss(acc, vr, words):
    failures = compare(make_report(acc, vr), make_report(), 0.5, 2.0)

    assert len(failures) == (words is not None)
    assert words is None or words in failures[0]


@pytest.mark.parametrize(
    "report, words",
    [
        ({"flip": False, "sets": {"agedb_30": make_report()["sets"]["lfw"]}}, "No set is in both"),
        (make_report(flip=True), "mirrored"),
        (make_report(pairs=600), "600 pairs, 3000 genuine, here, 6000 pairs, 3000 genuine, in the reference.*--valid"),
        (make_report(genuine=2999), "2999 genuine"),
        (make_report(sha256="b" * 64), f"SHA-256 {'b' * 12} here, {'a' * 12} in the reference.*--valid"),
        (make_report(vr={"0.01": {"vr": 1.0}}), "no FAR is in both"),
        (make_report(protocol="insightface"), "protocol 'insightface' here, 'exact' in the reference.*--protocol"),
    ],
)
def test_what_cannot_be_compared_never_passes(report, words):
    with pytest.raises(FaceError, match=words):
        compare(report, make_report(), 0.5, 2.0)


@pytest.mark.parametrize("changed", [{"sha256": None}, {"protocol": None}])
def test_an_older_report_that_does_not_name_its_pairs_or_protocol_is_compared(changed):
    assert compare(make_report(), make_report(**changed), 0.5, 2.0) == []
    assert compare(make_report(**changed), make_report(), 0.5, 2.0) == []


def test_the_gate_refuses_exactly_what_a_page_does_not_compare():
    for changed in ({}, {"sha256": "b"}, {"pairs": 1}, {"protocol": "insightface"}, {"flip": True}, {"sha256": None}):
        report = make_report(**changed)
        differences = Measurement.of(report, "lfw").differences(Measurement.of(make_report(), "lfw"))
        try:
            compare(report, make_report(), 0.5, 2.0)
            passes = True
        except FaceError:
            passes = False

        assert passes == (not differences), changed


@pytest.mark.parametrize(
    "changed, expected",
    [
        ({}, True),
        ({"protocol": "all-pairs"}, True),
        ({"sha256": "b" * 64}, False),
        ({"sha256": None}, False),
        ({"protocol": "insightface"}, False),
        ({"flip": True}, False),
        ({"source": {"sha256": "a" * 64, "drawn_from": 6000}}, False),
        ({"vr": {}}, False),
    ],
)
def test_a_whole_test_is_on_all_pairs_without_flip_at_the_fars_asked_for(changed, expected):
    assert is_whole_test(make_report(**changed), "lfw", "a" * 64, (1e-3,)) is expected


def test_a_set_that_was_not_tested_is_no_whole_test():
    assert not is_whole_test(make_report(), "agedb_30", "a" * 64, (1e-3,))


@pytest.mark.parametrize(
    "changed, expected",
    [
        ({}, []),
        ({"sha256": "b" * 64}, ["pairs"]),
        ({"genuine": 2999}, ["pairs"]),
        ({"sha256": None}, []),  # older reports only say how many pairs they used
        ({"sha256": None, "pairs": 7000}, ["pairs"]),
        ({"protocol": "insightface"}, ["protocol"]),
        ({"protocol": None}, []),  # older reports are of the exact protocol
        ({"flip": True}, ["flip"]),
        ({"sha256": "b" * 64, "protocol": "insightface", "flip": True}, ["pairs", "protocol", "flip"]),
    ],
)
def test_measurements_differ_in_pairs_protocol_or_flip(changed, expected):
    reference = Measurement.of(make_report(), "lfw")

    assert reference.differences(Measurement.of(make_report(**changed), "lfw")) == expected


def test_a_measurement_is_described_in_one_line():
    text = str(Measurement.of(make_report(protocol="insightface", flip=True, sha256="0123456789"), "lfw"))

    assert text.startswith("6,000 pairs, 3,000 of them same person")
    assert "protocol insightface" in text and "with flip" in text and "sha256 01234567" in text
