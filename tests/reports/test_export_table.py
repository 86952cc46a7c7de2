"""The table of export_all.py: a line for each artefact, whether it was tested or not."""

import json

import numpy as np
import pytest

from facelib.evaluation.paired import pack_bits
from facelib.evaluation.results import report_path
from facelib.files import write_json
from facelib.model_input import Io
from facelib.reports.export_table import (
    Outcome,
    cosines_of,
    draw_outcomes,
    find_losses,
    format_outcomes,
    layers_picture,
)
from facelib.reports.pareto import choose_locator, pareto_front
from facelib.sidecar import sidecar_path


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
    sidecar = {"sha256": "0" * 64, "io": Io().as_dict(), "parity": {"min_cosine": 0.987654, "mean_cosine": 0.991234}}
    (run / "export" / "int8.tflite").touch()
    (run / "export" / "int8.tflite.json").write_text(json.dumps(sidecar))
    outcomes = [
        Outcome(run / "embedder.h5", "reference", is_tested=True),
        Outcome(run / "export" / "int8.tflite", "pass", is_tested=True),
        Outcome(run / "export" / "model.om", "not run: atc is not on PATH"),
    ]

    title, _, heads, _, *rows = format_outcomes(run, outcomes).splitlines()

    assert title == "# a_run"
    assert cells_of(heads) == [
        "artefact", "gate", "mean cosine", "worst cosine", "executor", "MiB", "ms", "ACC %", "change",
        "VR@FAR=1e-3 %", "change",
    ]  # fmt: skip
    first = ["embedder.h5", "reference", "-", "-", "ORT", "1.00", "2.50", "99.00", "-", "98.00", "-"]
    assert cells_of(rows[0]) == first
    assert cells_of(rows[1]) == [
        "int8.tflite",
        "pass",
        "0.99123",
        "0.98765",
        "ORT",
        "1.00",
        "2.50",
        "98.00",
        "-1.00",
        "97.00",
        "-1.00",
    ]
    assert cells_of(rows[2]) == ["model.om", "not run: atc is not on PATH", *["-"] * 9]
    assert rows[4] == (
        "ms: median of calls with one image on one thread. Changes in percentage points against embedder.h5; "
        "cosines to the parent."
    )


def test_the_picture_has_the_tested_artefacts_and_needs_two(tmp_path):
    for name in ("embedder.h5", "model.onnx"):
        write_report(tmp_path / name, 0.99)
    outcomes = [Outcome(tmp_path / name, "", is_tested=True) for name in ("embedder.h5", "model.onnx")]

    assert draw_outcomes(outcomes).startswith(b"\x89PNG") and draw_outcomes(outcomes[:1]) is None


def test_the_front_has_the_points_that_none_beats_in_both():
    assert pareto_front([3.0, 1.0, 2.0, 2.0], [0.9, 0.8, 0.7, 0.95]) == [1, 3]


@pytest.mark.parametrize(("low", "high"), [(6.1, 19.9), (0.9, 4.2), (3.8, 4.1), (0.5, 300)])
def test_an_axis_of_costs_has_several_ticks(low, high):
    ticks = [tick for tick in choose_locator(low, high).tick_values(low, high) if low <= tick <= high]

    assert 3 <= len(ticks) <= 10


def test_no_change_is_given_where_the_pairs_differ(tmp_path):
    write_report(tmp_path / "embedder.h5", 0.99)
    write_report(tmp_path / "export" / "model.kmodel", 0.98, flip=True)
    outcomes = [Outcome(tmp_path / name, "pass", is_tested=True) for name in ("embedder.h5", "export/model.kmodel")]

    text = format_outcomes(tmp_path, outcomes)

    assert cells_of(text.splitlines()[5])[8] == "-" and "with flip; the gate compares it with its parent" in text


def test_a_run_without_reports_has_a_table_all_the_same(tmp_path):
    text = format_outcomes(tmp_path, [Outcome(tmp_path / "embedder.h5", "failed: no faces", is_bad=True)])

    assert cells_of(text.splitlines()[4])[:3] == ["embedder.h5", "failed: no faces", "-"]


def test_a_loss_and_what_cannot_be_told_are_kept_apart(tmp_path):
    for name, changes in (("embedder.h5", {}), ("few.onnx", {"acc": 0.95}), ("bad.onnx", {"acc": 0.5})):
        right = np.ones(60, bool)
        right[: round(60 * (1 - changes.get("acc", 1.0)))] = False
        result = {"pairs": 60, "genuine": 30, "acc": float(right.mean()), "vr": {"0.001": {"vr": None}}}
        result["decisions"] = {"right": pack_bits(right)}
        write_json(report_path(tmp_path / name), {"artifact": name, "sets": {"toy": result}})
    h5, few, bad = (report_path(tmp_path / name) for name in ("embedder.h5", "few.onnx", "bad.onnx"))

    losses, unclear = find_losses(few, [h5], 4, 100)
    assert not losses and len(unclear) == 1
    assert unclear[0].startswith("toy: ACC needs about") and unclear[0].endswith("(embedder.h5)")
    losses, unclear = find_losses(bad, [h5], 4, 100)
    assert "50.00 points lost, 4 allowed" in losses[0] and not unclear


@pytest.mark.parametrize(("mean", "picture"), [(0.716, True), (0.99, False)])
def test_a_low_cosine_shows_the_picture_of_the_layers(tmp_path, mean, picture):
    artefact = tmp_path / "model_int8.tflite"
    artefact.touch()
    parity = {"mean_cosine": mean, "min_cosine": 0.31}
    sidecar_path(artefact).write_text(json.dumps({"sha256": "0", "io": Io().as_dict(), "parity": parity}))
    (tmp_path / "model_int8.layers.png").touch()

    assert cosines_of(artefact, report_path(artefact)) == (mean, 0.31)
    assert (layers_picture(Outcome(artefact, "passed")) is not None) == picture
