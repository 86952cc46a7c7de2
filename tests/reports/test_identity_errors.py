"""The identities of a folder on a page: a matrix of who is taken for whom, and a table of the worst."""

from facelib.reports.artefact_table import group_comparable
from facelib.reports.identity_errors import confusion_matrices, identity_tables
from facelib.reports.read_run import Artefact

WORST = {
    "identity": "ada <1>", "images": 4, "confused": 1, "genuine": 6, "accepted": 3, "nearest": "bob",
    "distance": 0.51234, "faces": ["ada/1.jpg", "bob/2.jpg"],
}  # fmt: skip
SINGLE = {**WORST, "identity": "eve", "images": 1, "confused": 0, "genuine": 0, "accepted": 0}
NAMES = ["Wolfgang_Amadeus_0001", "Wolfgang_Amadeus_0002", "bob"]
CONFUSION = {
    "identities": NAMES, "nearest": [[3, 1, 0], [0, 1200, 0], [0, 0, 2]],
    "distance": [[0, 0.5, 2.5], [0.5, 0, 1.0], [2.5, 1.0, 0]],
}  # fmt: skip


def group_of(by_identity):
    result = {"acc": 0.9, "pairs": 10, "vr": {}, "by_identity": by_identity}
    (group,) = group_comparable([Artefact("model.h5", {"sets": {"people": result}})])
    return group


def found():
    return {"threshold": 0.75, "faces": 4, "confused": 1, "worst": [WORST, SINGLE], "confusion": CONFUSION}


def test_the_matrix_counts_faces_and_is_stronger_for_closer_people():
    (matrix,) = confusion_matrices(group_of(found()))

    assert matrix.title == "Who is taken for whom by model.h5"
    assert [[cell.text for cell in row] for row in matrix.rows] == [["3", "1", ""], ["", "1,200", ""], ["", "", "2"]]
    assert [[cell.strength for cell in row] for row in matrix.rows] == [[0, 0.75, 0], [0.75, 0, 0.5], [0, 0.5, 0]]
    assert matrix.rows[0][1].title == "distance 0.500"


def test_long_names_that_begin_with_the_same_letters_differ_in_the_matrix():
    (matrix,) = confusion_matrices(group_of(found()))

    assert matrix.names == [(NAMES[0], "Wolfgan…eus_0001"), (NAMES[1], "Wolfgan…eus_0002"), ("bob", "bob")]


def test_the_table_has_the_share_of_confused_faces_and_of_accepted_pairs():
    (table,) = identity_tables(group_of(found()), None)

    assert [[cell.text for cell in row.cells] for row in table.rows] == [
        ["ada <1>", "bob", "0.512", "4", "1", "50.00"],
        ["eve", "bob", "0.512", "1", "0", "-"],
    ]
    assert [note.text for cell in table.rows[0].cells for note in cell.notes] == ["25.00 %", "of 6 pairs"]
    assert table.note.startswith("1 of 4 faces are confused") and "≤ 0.7500" in table.note


def test_a_report_of_pairs_has_neither():
    assert confusion_matrices(group_of(None)) == identity_tables(group_of(None), None) == []
