"""The gate lets nothing worse pass, and compares only what was measured on the same pairs in the same way."""

import numpy as np
import pytest

from facelib.errors import FaceError
from facelib.evaluation.gate import Measurement, is_whole_test
from facelib.evaluation.gate import compare as compare_all
from facelib.evaluation.paired import pack_bits


def compare(*args):
    """The losses that the gate finds, as text."""
    return [str(finding) for finding in compare_all(*args) if finding.is_loss()]


def report_of(is_right, is_accepted):
    """A report with decisions on single pairs, half of them genuine, in 10 folds."""
    is_right, is_accepted = np.array(is_right, bool), np.array(is_accepted, bool)
    decisions = {"right": pack_bits(is_right), "accepted": {"0.001": pack_bits(is_accepted)}}
    decisions["clusters"] = np.bincount(np.arange(len(is_accepted)) * 10 // len(is_accepted)).tolist()
    counts = {"pairs": len(is_right), "genuine": len(is_accepted), "decisions": decisions}
    return make_report(float(is_right.mean()), float(is_accepted.mean()), **counts)


def with_errors(num_pairs, num_errors):
    """bool [num_pairs], errors spread evenly."""
    is_right = np.ones(num_pairs, bool)
    is_right[np.linspace(0, num_pairs - 1, num_errors).astype(int)] = False
    return is_right


def judge(num_pairs, errors_before, errors_after, misses_after=0):
    genuine = num_pairs // 2
    old = report_of(with_errors(num_pairs, errors_before), with_errors(genuine, 0))
    new = report_of(with_errors(num_pairs, errors_after), with_errors(genuine, misses_after))
    return compare_all(new, old, 0.5, 2.0)


def test_two_pairs_of_60_fail_no_gate_but_a_strict_one():
    acc, vr = judge(60, 0, 2)

    assert (acc.outcome, vr.outcome) == ("unclear", "unclear")
    assert not acc.is_loss() and acc.is_loss(strict=True)
    assert str(acc).startswith("lfw: ACC 96.67 % against 100.00 %: 3.33 points lost, 0.5 allowed (95 % interval")
    assert "McNemar p = 0.5" in str(acc) and "too few pairs to tell (needs about" in str(acc)


def test_equal_decisions_on_few_pairs_are_no_proof_and_on_many_they_are():
    assert [finding.outcome for finding in judge(60, 1, 1)] == ["unclear", "unclear"]
    assert [finding.outcome for finding in judge(6000, 40, 40)] == ["passed", "passed"]
    needs = int(judge(60, 0, 0)[0].needs.removesuffix(" pairs"))
    assert needs == pytest.approx(765, rel=0.02)  # z^2 (1 - a) / a
    assert judge(int(needs * 1.04), 0, 0)[0].outcome == "passed"


def test_a_loss_that_is_not_by_chance_fails():
    acc, vr = judge(6000, 0, 60, misses_after=150)

    assert acc.outcome == vr.outcome == "failed" and "1.00 points lost, 0.5 allowed" in str(acc)
    assert "5.00 points lost, 2 allowed" in str(vr)
    assert judge(60, 0, 20)[0].outcome == "failed"  # a third of them
    assert judge(6000, 60, 0)[0].outcome == "passed"


def test_a_rate_that_the_set_cannot_show_fails_only_a_strict_gate():
    report = make_report(vr={"0.001": {"vr": None, "needs_impostors": 1112}})

    acc, vr = compare_all(report, report, 0.5, 2.0)

    assert acc.outcome == "passed" and not vr.is_loss() and vr.is_loss(strict=True)
    assert str(vr) == "lfw: VR@FAR=0.001 n/a: too few pairs to tell (needs about 1,112 impostor pairs)"


@pytest.mark.parametrize("decisions", [None, {}, {"right": "?"}, {"right": "AA=="}, {"accepted": {"0.001": "AA=="}}])
def test_a_report_without_decisions_is_compared_by_its_rates(decisions):
    new, old = make_report(0.989, decisions=decisions), make_report(decisions=decisions)

    assert [finding.outcome for finding in compare_all(new, old, 0.5, 2.0)] == ["passed", "passed"]
    assert compare_all(make_report(0.988, decisions=decisions), old, 0.5, 2.0)[0].outcome == "failed"


def test_a_folder_is_compared_by_its_folds():
    folds = np.linspace(0.98, 0.99, 10)
    old = make_report(0.985, protocol="all-pairs", acc_folds=folds.tolist())

    def judge_folds(lost, genuine=3000):
        new = make_report(0.985 - lost, protocol="all-pairs", acc_folds=(folds - lost).tolist(), genuine=genuine)
        return compare_all(new, {**old, "sets": {"lfw": {**old["sets"]["lfw"], "genuine": genuine}}}, 0.5, 2.0)[0]

    assert judge_folds(0).outcome == "passed" and judge_folds(0.02).outcome == "failed"
    assert judge_folds(0, genuine=30).outcome == "unclear"


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
        ({"flip": False, "sets": {"agedb_30": make_report()["sets"]["lfw"]}}, "no set in common"),
        (make_report(flip=True), "mirrored"),
        (make_report(pairs=600), "600 pairs, 3000 genuine, here, 6000 pairs, 3000 genuine, in the reference.*--valid"),
        (make_report(genuine=2999), "2999 genuine"),
        (make_report(sha256="b" * 64), f"SHA-256 {'b' * 12} here, {'a' * 12} in the reference.*--valid"),
        (make_report(vr={"0.01": {"vr": 1.0}}), "no FAR in common"),
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
