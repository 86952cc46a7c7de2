"""The tables of a page: numbers, intervals, changes, and why a number is missing."""

import pytest

from facelib.reports.artefact_table import artefact_rows, group_comparable
from facelib.reports.html import Note
from facelib.reports.html_tables import (
    artefact_table,
    attribute_table,
    identification_table,
    ijb_tables,
    rate_cell,
    threshold_table,
)
from facelib.reports.read_run import Artefact


def artefact(name, result, **report):
    return Artefact(name, {"sets": {"lfw": {"acc": 0.9, "pairs": 6000, "vr": {}, **result}}, **report})


def group_of(*artefacts):
    (group,) = group_comparable(artefacts)
    return group


def texts(row):
    return [cell.text for cell in row.cells]


def test_artefacts_have_size_speed_and_changes_against_the_first():
    first = artefact("a.h5", {"acc": 0.99, "auc": 0.5}, size_bytes=4 * 2**20, ms_single=6.0, executor="TF")
    second = artefact("b.pb", {"acc": 0.985, "auc": 0.4}, size_bytes=2**20, ms_single=3.0, executor="TF")

    table = artefact_table(artefact_rows([first, second]))

    assert table.heads == ["artefact", "executor", "MiB", "ms", "ACC", "AUC"]
    assert [texts(row) for row in table.rows] == [
        ["a.h5", "TF", "4.00", "6.00", "99.00", "0.50000"],
        ["b.pb", "TF", "1.00", "3.00", "98.50", "0.40000"]]  # fmt: skip
    _, _, size, speed, acc, _ = table.rows[1].cells
    assert size.notes == (Note("0.25\N{NO-BREAK SPACE}×"),) and speed.notes == (Note("0.50\N{NO-BREAK SPACE}×"),)
    assert acc.notes == (Note("−0.50\N{NO-BREAK SPACE}pt", "bad"),)
    assert "on one thread." in table.note


def test_an_artefact_that_was_tested_differently_has_the_reason_in_place_of_a_change():
    table = artefact_table(artefact_rows([artefact("a", {}), artefact("b", {"pairs": 7000}, flip=True)]))

    assert table.heads[1] == "tested" and table.rows[1].cells[5].notes == (Note("other pairs, other flip", "bad"),)


@pytest.mark.parametrize(
    ("rate", "first", "note"),
    [(0.9, 0.8, Note("+10.00\N{NO-BREAK SPACE}pt", "good")), (0.9, 0.9, Note("±0.00\N{NO-BREAK SPACE}pt")),
     (0.9, 0.9009, Note("−0.09\N{NO-BREAK SPACE}pt")), (0.9, 0.901, Note("−0.10\N{NO-BREAK SPACE}pt", "bad"))],
)  # fmt: skip
def test_a_loss_is_marked_from_a_tenth_of_a_point(rate, first, note):
    assert rate_cell({"vr": rate}, {"vr": first}).notes == (note,)


def test_a_rate_that_was_not_measured_says_why():
    assert rate_cell(None).text == "-"
    unknown = rate_cell({"vr": None, "needs_impostors": 1112})
    assert (unknown.text, unknown.notes) == ("n/a", (Note("needs ≥ 1,112 impostors", "wrap"),))


def test_thresholds_have_a_row_for_each_far_under_the_name_of_their_artefact():
    chosen = {"distance": 1.25, "cosine": 0.375, "far_ci95": [0.0005, 0.002], "vr": 0.75, "vr_ci95": [0.7, 0.8]}

    table = threshold_table(group_of(artefact("a.h5", {"thresholds": {"0.01": chosen, "0.001": chosen}})))

    assert [texts(row) for row in table.rows] == [
        ["a.h5", "1e-2", "1.2500", "0.3750", "[0.0005, 0.002]", "75.00"],
        ["", "1e-3", "1.2500", "0.3750", "[0.0005, 0.002]", "75.00"],
    ]
    assert [row.is_continued for row in table.rows] == [False, True]


def test_identification_says_how_many_unmated_probes_are_missing():
    search = {"gallery": 1200, "mated": 30, "unmated": 40, "rank": {"1": 0.9, "5": 1.0},
              "fnir": {"0.1": {"fnir": 0.2, "ci95": [0.1, 0.3], "threshold": 0.9},
                       "0.01": {"fnir": None, "needs_unmated": 100}}}  # fmt: skip

    table = identification_table(group_of(artefact("a", {"identification": search})))

    assert table.heads[4:] == ["rank-1", "rank-5", "FNIR@FPIR=1e-1", "FNIR@FPIR=1e-2"]
    assert texts(table.rows[0]) == ["a", "1,200", "30", "40", "90.00", "100.00", "20.00", "n/a"]
    assert table.rows[0].cells[6].notes == (Note("[10.00, 30.00]"), Note("distance ≤ 0.9000"))
    assert table.rows[0].cells[7].notes == (Note("needs ≥ 100 unmated", "wrap"),)


def test_the_gap_is_between_the_best_and_the_worst_group():
    groups = {
        "x": {"pairs": 90, "genuine": 30, "acc": 0.9, "vr": {"0.1": {"vr": 0.8, "far": 0.05}}},
        "y": {"pairs": 80, "genuine": 20, "acc": 0.7, "vr": {"0.1": {"vr": 0.85, "far": 0.2}}},
        "z": {"pairs": 2, "genuine": 1, "acc": None, "vr": {}},
    }

    table = attribute_table(group_of(artefact("a", {"groups": groups})))

    assert [texts(row) for row in table.rows] == [
        ["a", "x", "90", "90.00", "80.00", "5"], ["", "y", "80", "70.00", "85.00", "20"],
        ["", "z", "2", "n/a", "n/a", "n/a"], ["", "gap", "", "20.00", "5.00", "15"]]  # fmt: skip
    assert table.rows[-1].is_total and table.rows[2].cells[3].notes == (Note("too few pairs"),)


def test_parts_that_no_report_has_make_no_rows():
    group = group_of(artefact("a", {}))

    assert not threshold_table(group).rows + identification_table(group).rows + attribute_table(group).rows
    assert ijb_tables([]) == []
