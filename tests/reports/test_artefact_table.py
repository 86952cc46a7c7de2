"""Results are compared only if they were measured on the same pairs and in the same way."""

import pytest

from facelib.reports.artefact_table import artefact_rows, format_far, group_comparable, warnings_of
from facelib.reports.read_run import Artefact


def artefact(name, *, sha256="aa", pairs=6000, genuine=3000, protocol="exact", flip=False, set_name="lfw", acc=0.9):
    result = {"acc": acc, "pairs": pairs, "genuine": genuine, "vr": {}}
    result |= {"protocol": protocol} if protocol else {}
    result |= {"source": {"path": "lfw.bin", "sha256": sha256}} if sha256 else {}
    return Artefact(name, {"flip": flip, "sets": {set_name: result}})


def test_results_that_were_measured_differently_are_separate_and_have_a_warning():
    groups = group_comparable([artefact("a"), artefact("b", flip=True), artefact("c"), artefact("d", set_name="agedb")])

    assert [(group.title, [one.name for one in group.artefacts]) for group in groups] == [
        ("lfw #1", ["a", "c"]), ("lfw #2", ["b"]), ("agedb", ["d"])]  # fmt: skip
    first, advice = warnings_of(groups)
    assert "lfw #2 (b)" in first and "--flip than lfw #1: do not compare" in first and "--valid" in advice


def test_equal_measurements_need_no_warning():
    assert warnings_of(group_comparable([artefact("a"), artefact("b")])) == []


def test_a_warning_names_the_reports_that_do_not_say_their_pairs():
    (line,) = warnings_of(group_comparable([artefact("a"), artefact("old", sha256=None)]))

    assert "do not say which pairs they used" in line and line.endswith("old.")


def test_no_change_is_given_against_a_result_that_was_measured_differently():
    same, other = artefact_rows([artefact("a"), artefact("b", acc=0.8), artefact("c", flip=True)])[1:]

    assert same.reference.artefact == "a" and same.obstacles == []
    assert other.reference is None and other.obstacles == ["flip"] and other.how == "exact, flip"


@pytest.mark.parametrize(("far", "text"), [("0.001", "1e-3"), ("0.1", "1e-1"), ("5e-05", "5e-5"), ("0.025", "2.5e-2")])
def test_rates_are_written_as_powers_of_ten(far, text):
    assert format_far(far) == text
