"""The report: the table and the JSON show the same numbers."""

import json

import numpy as np
import pytest
from sklearn.metrics import roc_curve

from facelib.errors import FaceError
from facelib.evaluation.evaluate_set import measure_pairs
from facelib.evaluation.results import Report, format_interval, read_report, report_path


def draw_set(num_pairs=4000, seed=0):
    random = np.random.default_rng(seed)
    is_same = np.arange(num_pairs) // (num_pairs // 20) % 2 == 0  # fold by fold, as in LFW
    return np.clip(random.normal(1.6 - 0.9 * is_same, 0.3), 0, 4), is_same


@pytest.fixture
def report():
    distances, is_same = draw_set()
    return Report(
        "x.tflite", "tflite_int8", (measure_pairs("lfw", distances, is_same, (1e-3, 1e-4)),), "00", 5, 10.0, 100.0
    )


def test_the_json_has_the_keys_of_the_contract(report, tmp_path):
    report.write(tmp_path / "x.report.json")

    value = read_report(tmp_path / "x.report.json")

    assert {"artifact", "sha256", "kind", "images_per_s", "sets"} <= set(value)
    assert {"size_bytes", "ms_per_image", "threads", "mean_norm"} <= set(value)
    lfw = value["sets"]["lfw"]
    assert {"pairs", "genuine", "acc", "acc_std", "auc", "eer", "vr", "dist_max", "dist_min"} <= set(lfw)
    assert (lfw["pairs"], lfw["genuine"]) == (4000, 2000)
    low, high = lfw["vr"]["0.001"]["ci95"]
    assert 0 < low < lfw["vr"]["0.001"]["vr"] < high < 1
    assert lfw["vr"]["0.0001"]["vr"] is None
    assert "Infinity" not in (tmp_path / "x.report.json").read_text()


def test_the_table_shows_the_numbers_of_the_json_in_the_fields_formats(report):
    header, _, first, second = report.table().split("\n")
    lfw = report.as_dict()["sets"]["lfw"]

    assert [cell.strip() for cell in header.split("|")] == [
        "data set",
        "AUC",
        "ACC",
        "VR @ FAR",
        "dist max",
        "dist min",
    ]
    cells = [cell.strip() for cell in first.split("|")]
    assert cells[0] == "lfw" and float(cells[1]) == pytest.approx(lfw["auc"], abs=5e-6)
    assert cells[2] == f"{lfw['acc']:.4f}+-{lfw['acc_std']:.4f} {format_interval(lfw['acc_ci95'])}"
    vr = lfw["vr"]["0.001"]
    assert cells[3] == f"{vr['vr']:.5f}+-{vr['vr_std']:.5f} {format_interval(vr['ci95'])} @ FAR={vr['far']:.5f}"
    assert (float(cells[4]), float(cells[5])) == pytest.approx((lfw["dist_max"], lfw["dist_min"]), abs=5e-6)
    assert "n/a @ FAR=0.0001: needs >= 11112 impostors" in second


def test_the_roc_of_the_json_is_a_part_of_scikit_learns():
    distances, is_same = draw_set(2000, 3)
    curve = measure_pairs("lfw", distances, is_same).roc

    far, tar, _ = roc_curve(is_same, -distances, drop_intermediate=False)
    points = set(zip(far.round(12), tar.round(12), strict=True))
    assert 20 < len(curve["far"]) <= 200
    assert all((round(f, 12), round(t, 12)) in points for f, t in zip(curve["far"], curve["tar"], strict=True))
    assert curve["far"] == sorted(curve["far"]) and curve["far"][-1] == 1.0
    for f, t in zip(curve["far"], curve["tar"], strict=True):
        assert t == pytest.approx(tar[far <= f].max())  # the loosest threshold of that FAR


def test_the_histogram_counts_every_pair_once():
    distances, is_same = draw_set()

    histogram = measure_pairs("lfw", distances, is_same).histogram

    assert (sum(histogram["genuine"]), sum(histogram["impostor"])) == (2000, 2000)
    in_bin = is_same & (distances >= 0.7) & (distances < 0.75)
    assert histogram["genuine"][histogram["edges"].index(0.7)] == in_bin.sum() > 0


def test_a_set_that_cannot_be_measured_is_named():
    with pytest.raises(FaceError, match="Set 'tiny'"):
        measure_pairs("tiny", np.array([0.1, 0.2]), np.array([True, False]))


@pytest.mark.parametrize("value", [{}, {"sets": {}}, {"sets": {"lfw": 1}}, {"sets": {"lfw": {"acc": 1, "vr": 2}}}])
def test_a_file_that_is_no_report_is_refused(tmp_path, value):
    (tmp_path / "r.json").write_text(json.dumps(value))

    with pytest.raises(FaceError, match=r"r\.json' is not a valid report: .* must be"):
        read_report(tmp_path / "r.json")


def test_the_report_lies_beside_its_artefact(tmp_path):
    assert report_path(tmp_path / "x.tflite") == tmp_path / "x.tflite.report.json"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda r: r["sets"]["lfw"]["vr"].update(low={"vr": 0.5}),
            "lfw.vr must be an object whose keys are each a rate above 0",
        ),
        (
            lambda r: r["sets"]["lfw"]["vr"]["0.001"].update(vr="y"),
            'lfw.vr.0.001.vr must be a number or null. Received: "y"',
        ),
        (lambda r: r["sets"]["lfw"].update(auc="high"), 'sets.lfw.auc must be a number or null. Received: "high"'),
        (
            lambda r: r["sets"]["lfw"]["roc"].update(tar=[]),
            "sets.lfw.roc must be an object with lists of equal length",
        ),
        (
            lambda r: r["sets"]["lfw"].update(roc=7),
            "roc must be an object or null. Received: 7. Run the test script",
        ),
        (lambda r: r.update(size_bytes="big"), 'size_bytes must be a whole number or null. Received: "big"'),
    ],
)
def test_a_report_that_was_edited_by_hand_is_refused_by_key(report, tmp_path, change, words):
    value = json.loads(json.dumps(report.as_dict()))
    change(value)
    (tmp_path / "x.report.json").write_text(json.dumps(value))

    with pytest.raises(FaceError, match=words):
        read_report(tmp_path / "x.report.json")
