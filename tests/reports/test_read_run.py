"""Reading run directories and report files: order, names, stale artefacts, and what is refused."""

import hashlib
import json

import pytest

from facelib.errors import FaceError
from facelib.reports.read_run import distinct_names, flatten, read_artefacts, read_run

REPORT = {"artifact": "x", "sets": {"lfw": {"acc": 0.9, "vr": {}}}}


def write_report(path, **changes):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**REPORT, **changes}))
    return path


def test_artefacts_are_in_the_order_of_the_pipeline(tmp_path):
    for name in ("model.onnx", "model_int8.tflite", "optimized.pb", "model_float.tflite", "frozen.pb", "x.bin"):
        write_report(tmp_path / "export" / f"{name}.report.json")
    write_report(tmp_path / "embedder.h5.report.json")

    assert [artefact.name for artefact in read_run(tmp_path).artefacts] == [
        "embedder.h5", "frozen.pb", "optimized.pb", "model_float.tflite", "model_int8.tflite", "model.onnx", "x.bin",
    ]  # fmt: skip


def test_an_artefact_is_stale_when_its_bytes_are_not_the_tested_ones(tmp_path):
    for name, content in (("same.pb", b"graph"), ("changed.pb", b"another graph")):
        (tmp_path / name).write_bytes(content)
    for name in ("same.pb", "changed.pb", "gone.pb"):
        write_report(tmp_path / f"{name}.report.json", sha256=hashlib.sha256(b"graph").hexdigest())

    assert {one.name: one.is_stale for one in read_run(tmp_path).artefacts} == {
        "same.pb": False, "changed.pb": True, "gone.pb": False}  # fmt: skip


def test_a_report_of_ijb_is_not_among_the_artefacts(tmp_path):
    write_report(tmp_path / "embedder.h5.report.json")
    (tmp_path / "embedder.h5.ijb.report.json").write_text('{"identification": {}}')

    run = read_run(tmp_path)

    assert [one.name for one in run.artefacts] == [one.name for one in run.ijb] == ["embedder.h5"]
    assert "identification" in run.ijb[0].report


@pytest.mark.parametrize("provenance", [{"data": 5}, {"data": {"path": 5}}])
def test_a_damaged_provenance_is_refused(tmp_path, provenance):
    write_report(tmp_path / "embedder.h5.report.json")
    (tmp_path / "provenance.json").write_text(json.dumps(provenance))

    with pytest.raises(FaceError, match="must describe the training data"):
        read_run(tmp_path)


def test_a_damaged_recipe_is_refused(tmp_path):
    write_report(tmp_path / "embedder.h5.report.json")
    (tmp_path / "config.toml").write_text("seed = ")

    with pytest.raises(FaceError, match=r"config\.toml must be valid TOML"):
        read_run(tmp_path)


def test_reports_of_two_runs_are_told_apart_by_their_runs(tmp_path):
    paths = [write_report(tmp_path / run / "export" / "int8.tflite.report.json") for run in "ab"]

    assert [one.name for one in read_artefacts(paths)] == ["a/int8.tflite", "b/int8.tflite"]


def test_export_is_named_when_it_alone_tells_two_artefacts_apart(tmp_path):
    paths = [write_report(folder / "model.pb.report.json") for folder in (tmp_path / "a", tmp_path / "a" / "export")]

    assert [one.name for one in read_artefacts(paths)] == ["a/model.pb", "export/model.pb"]


@pytest.mark.parametrize("name", ["model.pb", "model.pb.ijb.report.json"])
def test_only_reports_of_test_scripts_are_compared(tmp_path, name):
    with pytest.raises(FaceError, match=r"pass their X\.report\.json files"):
        read_artefacts([write_report(tmp_path / name)])


def test_names_are_the_shortest_endings_that_differ(tmp_path):
    paths = [tmp_path / name for name in ("a/x.pb", "b/x.pb", "y.pb")]

    assert distinct_names(paths) == ["a/x.pb", "b/x.pb", "y.pb"]


def test_nested_values_get_dotted_keys():
    assert flatten({"a": {"b": 1}, "c": [{"d": 2}], "e": [1, 2]}) == [("a.b", 1), ("c.0.d", 2), ("e", [1, 2])]
