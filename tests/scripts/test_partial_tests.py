"""Tests of some pairs of a set (--pairs N) beside tests of all of them."""

import json
import shutil

import pytest

from facelib.model_input import Io
from facelib.sidecar import read_sidecar, sidecar_path, write_sidecar
from tests.helpers.mean_colour import read, run_main


@pytest.fixture
def model(shades, tmp_path):
    """A model that was not tested yet, beside shades.bin."""
    shutil.copy(shades / "shades.bin", tmp_path)
    return write_model(tmp_path / "model.fake", b"weights")


def write_model(path, data):
    path.write_bytes(data)
    write_sidecar(path, kind="fake", made_from=None, io=Io())
    return path


def test_a_partial_test_replaces_no_whole_one(model, capsys):
    run_main(model, "--valid", model.parent, "--pairs", "20")
    assert read(model.parent)["sets"]["shades"]["pairs"] == 20  # there was none
    assert read_sidecar(model).rest["thresholds"]["shades"]["drawn_from"] == 60
    run_main(model, "--valid", model.parent)
    report, sidecar = read(model.parent), json.loads(sidecar_path(model).read_text())
    assert report["sets"]["shades"]["pairs"] == 60 and "drawn_from" not in sidecar["thresholds"]["shades"]
    capsys.readouterr()

    assert run_main(model, "--valid", model.parent, "--pairs", "20") == 0

    printed = capsys.readouterr().out
    assert (
        "data set | AUC" in printed and "keeps the test of all 60 pairs of shades" in printed and "--report" in printed
    )
    assert "wrote" not in printed
    assert read(model.parent) == report and json.loads(sidecar_path(model).read_text()) == sidecar
    part = model.parent / "part.json"
    run_main(model, "--valid", model.parent, "--pairs", "20", "--report", part)
    assert json.loads(part.read_text())["sets"]["shades"]["pairs"] == 20
    assert f"wrote {part}" in capsys.readouterr().out and json.loads(sidecar_path(model).read_text()) == sidecar

    write_model(model, b"better weights")
    run_main(model, "--valid", model.parent, "--pairs", "20")  # the whole test was of another file
    assert read(model.parent)["sets"]["shades"]["pairs"] == 20
