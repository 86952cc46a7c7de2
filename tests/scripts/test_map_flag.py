"""--map of every test script: a folder beside the report, with what report.py and TensorBoard's projector read."""

import sys

import pytest

from facelib.errors import FaceError
from facelib.evaluation.projector import read_map
from tests.helpers.mean_colour import read, run_main


def test_a_test_with_map_writes_the_faces_of_its_sets(shades, tmp_path, capsys):
    report = tmp_path / "a.report.json"

    assert run_main(shades / "model.fake", "--valid", shades, "--map", "--report", report) == 0

    result = read(tmp_path, "a.report.json")
    found = read_map(tmp_path / "a.map", "shades", result["sha256"], result["sets"]["shades"]["source"]["sha256"])
    assert len(found.faces) == found.num_faces == 91  # one face is in 30 of the 60 pairs
    wrong = sum(face.verdict != "right" for face in found.faces)
    assert (wrong > 0) == (result["sets"]["shades"]["acc"] < 1)
    printed = capsys.readouterr().out
    assert "a.map/, with pictures of the faces" in printed and "has 91 of" not in printed


def test_no_map_is_written_unless_asked_for(shades, tmp_path):
    run_main(shades / "model.fake", "--valid", shades, "--report", tmp_path / "a.report.json")

    assert [file.name for file in tmp_path.iterdir()] == ["a.report.json"]


def test_a_map_without_scikit_learn_or_over_other_files_ends_before_the_test(shades, tmp_path, monkeypatch):
    flags = [shades / "model.fake", "--valid", shades, "--map", "--report", tmp_path / "a.report.json"]
    (tmp_path / "a.map").mkdir()
    (tmp_path / "a.map" / "letters.txt").write_text("mine")
    with pytest.raises(FaceError, match="something else is at this path"):
        run_main(*flags)

    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(FaceError, match=r"needs scikit-learn.*mobilearc\[data\]"):
        run_main(*flags)
    assert not (tmp_path / "a.report.json").exists()
