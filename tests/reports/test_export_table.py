"""The table of export_all.py: a line for each artefact, whether it was tested or not."""

import json

from facelib.model_input import Io
from facelib.reports.export_table import Outcome, draw_outcomes, format_outcomes
from facelib.reports.pareto import pareto_front


def write_report(path, acc, **report):
    path.parent.mkdir(parents=True, exist_ok=True)
    result = {"acc": acc, "pairs": 6000, "genuine": 3000, "vr": {"0.001": {"vr": acc - 0.01}}}
    report = {"artifact": path.name, "size_bytes": 2**20, "ms_single": 2.5, "executor": "ORT", **report}
    path.with_name(path.name + ".report.json").write_text(json.dumps({**report, "sets": {"lfw": result}}))


def cells_of(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_tested_artefacts_have_numbers_and_changes_and_the_others_their_verdict(tmp_path):
    run = tmp_path / "a_run"
    write_report(run / "embedder.h5", 0.99)
    write_report(run / "export" / "int8.tflite", 0.98)
    sidecar = {"sha256": "0" * 64, "io": Io().as_dict(), "parity": {"min_cosine": 0.987654}}
    (run / "export" / "int8.tflite.json").write_text(json.dumps(sidecar))
    outcomes = [
        Outcome(run / "embedder.h5", "reference", is_tested=True),
        Outcome(run / "export" / "int8.tflite", "pass", is_tested=True),
        Outcome(run / "export" / "model.om", "not run: atc is not on PATH"),
    ]

    title, _, heads, _, *rows = format_outcomes(run, outcomes).splitlines()

    assert title == "# a_run"
    assert cells_of(heads) == [
        "artefact", "gate", "executor", "MiB", "ms", "ACC %", "change", "VR@FAR=1e-3 %", "change", "worst cosine",
    ]  # fmt: skip
    assert cells_of(rows[0]) == ["embedder.h5", "reference", "ORT", "1.00", "2.50", "99.00", "-", "98.00", "-", "-"]
    assert cells_of(rows[1]) == [
        "int8.tflite",
        "pass",
        "ORT",
        "1.00",
        "2.50",
        "98.00",
        "-1.00",
        "97.00",
        "-1.00",
        "0.98765",
    ]
    assert cells_of(rows[2]) == ["model.om", "not run: atc is not on PATH", *["-"] * 8]
    assert rows[4] == (
        "ms: median of calls with one image on one thread. Changes in percentage points against embedder.h5; worst "
        "cosine to the parent."
    )


def test_the_picture_has_the_tested_artefacts_and_needs_two(tmp_path):
    for name in ("embedder.h5", "model.onnx"):
        write_report(tmp_path / name, 0.99)
    outcomes = [Outcome(tmp_path / name, "", is_tested=True) for name in ("embedder.h5", "model.onnx")]

    assert draw_outcomes(outcomes).startswith(b"\x89PNG") and draw_outcomes(outcomes[:1]) is None


def test_the_front_has_the_points_that_none_beats_in_both():
    assert pareto_front([3.0, 1.0, 2.0, 2.0], [0.9, 0.8, 0.7, 0.95]) == [1, 3]


def test_no_change_is_given_where_the_pairs_differ(tmp_path):
    write_report(tmp_path / "embedder.h5", 0.99)
    write_report(tmp_path / "export" / "model.kmodel", 0.98, flip=True)
    outcomes = [Outcome(tmp_path / name, "pass", is_tested=True) for name in ("embedder.h5", "export/model.kmodel")]

    text = format_outcomes(tmp_path, outcomes)

    assert cells_of(text.splitlines()[5])[6] == "-" and "with flip; the gate compares it with its parent" in text


def test_a_run_without_reports_has_a_table_all_the_same(tmp_path):
    text = format_outcomes(tmp_path, [Outcome(tmp_path / "embedder.h5", "failed: no faces", is_bad=True)])

    assert cells_of(text.splitlines()[4])[:3] == ["embedder.h5", "failed: no faces", "-"]
