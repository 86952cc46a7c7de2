"""evaluate_tinyface.py on images drawn in TinyFace's folders; the ranks against a formula written from the protocol."""

import json

import cv2
import evaluate_tinyface
import numpy as np
import pytest

from facelib.errors import FaceError
from facelib.evaluation import tinyface
from facelib.evaluation.metrics import wilson_interval
from facelib.evaluation.results import read_tinyface_report
from facelib.evaluation.tinyface import find_tinyface, rank_rates, ranks_of_probes
from facelib.model_input import Io
from facelib.reports.model_card import render_card
from facelib.reports.read_run import read_artefacts, read_run
from facelib.sidecar import write_sidecar
from tests.helpers.mean_colour import MeanColour


def cmc_of_adaface(probes, probe_ids, gallery, gallery_ids, distractors, ranks):
    """The closed set of DIR_FAR: sort all gallery images by cosine, look for the person among the first k."""
    rows = np.concatenate([gallery, distractors])
    labels = np.concatenate([gallery_ids, np.full(len(distractors), -100)])
    unit = [part / np.linalg.norm(part, axis=1, keepdims=True) for part in (probes, rows)]
    order = np.argsort(unit[0] @ unit[1].T, axis=1)[:, ::-1]
    hits = labels[order] == probe_ids[:, None]
    return [hits[:, :k].any(axis=1).mean() for k in ranks]


@pytest.mark.parametrize("seed", range(3))
def test_the_rates_are_those_of_the_protocol(seed, monkeypatch):
    monkeypatch.setattr(tinyface, "BLOCK_PROBES", 7)
    random = np.random.default_rng(seed)
    people = random.normal(size=(40, 8))
    gallery_ids, probe_ids = random.permutation(np.repeat(np.arange(40), 3)), random.integers(0, 40, 50)
    gallery = people[gallery_ids] + random.normal(size=(120, 8))
    probes = people[probe_ids] + 1.5 * random.normal(size=(50, 8))
    distractors = random.normal(size=(300, 8))

    rates = rank_rates(ranks_of_probes(probes, probe_ids, gallery, gallery_ids, distractors))

    expected = cmc_of_adaface(probes, probe_ids, gallery, gallery_ids, distractors, (1, 5, 20))
    assert [rate["rate"] for rate in rates.values()] == pytest.approx(expected) and 0 < expected[0] < expected[2]
    assert rates["1"]["ci95"] == list(wilson_interval(round(50 * expected[0]), 50))


def test_ties_count_against_the_probe_and_strangers_are_not_found():
    same = np.ones((2, 4))

    ranks = ranks_of_probes(same, np.array([1, 9]), same[:1], np.array([1]), same)

    assert ranks.tolist() == [3, 0]
    assert rank_rates(ranks)["5"]["rate"] == 0.5


@pytest.fixture
def mini(tmp_path):
    """A model of the mean colour, and 20 people of known colours in TinyFace's folders."""
    random = np.random.default_rng(0)
    colours = random.integers(40, 216, (60, 3))
    for folder, people in (("Probe", range(20)), ("Gallery_Match", range(20)), ("Gallery_Distractor", range(20, 60))):
        (tmp_path / "tiny" / folder).mkdir(parents=True)
        for person in people:
            pixels = np.clip(colours[person] + random.integers(-20, 21, 3) + np.zeros((112, 112, 3)), 0, 255)
            name = f"{person}_1.jpg" if person < 20 else f"distractor{person}.png"
            cv2.imwrite(str(tmp_path / "tiny" / folder / name), pixels.astype(np.uint8))
    run = tmp_path / "run"
    run.mkdir()
    (run / "net.h5").write_bytes(b"x")
    write_sidecar(run / "net.h5", kind="h5", made_from=None, io=Io())
    return run / "net.h5", tmp_path / "tiny"


def evaluate(monkeypatch, model, images, *flags):
    monkeypatch.setattr(evaluate_tinyface, "open_embedder", MeanColour)
    return evaluate_tinyface.main([str(word) for word in (model, "--images", images, "--threads", 1, *flags)])


def test_the_report_is_written_and_read_by_run_and_card(mini, monkeypatch, capsys):
    model, images = mini
    monkeypatch.setattr(tinyface, "CHUNK_IMAGES", 16)

    assert evaluate(monkeypatch, model, images) == 0

    path = model.with_name("net.h5.tinyface.report.json")
    report, printed = read_tinyface_report(path), capsys.readouterr().out
    embed = MeanColour(None, Io(), 1).raw
    rows = [
        embed(np.stack([cv2.imread(str(file))[:, :, ::-1] for file in files]))
        for files in find_tinyface(images).files.values()
    ]
    found = find_tinyface(images)
    expected = cmc_of_adaface(rows[0], found.probe_ids, rows[1], found.gallery_ids, rows[2], (1, 5, 20))
    assert [report["rank"][k]["rate"] for k in ("1", "5", "20")] == pytest.approx(expected)
    assert (report["probes"], report["gallery"], report["distractors"], report["not_in_gallery"]) == (20, 20, 40, 0)
    assert f"rank-1  {expected[0]:.4f}" in printed and "Probe of TinyFace has 3,728 images; here it has 20" in printed
    with pytest.raises(FaceError, match="To compare artefacts"):
        read_artefacts([path])
    write_test_report(model)
    run = read_run(model.parent)
    assert [one.name for one in run.tinyface] == ["net.h5"] and len(run.artefacts) == 1 and not run.ijb
    assert f"{100 * expected[0]:.2f} %" in render_card(run)[0].split("### TinyFace, 1:N")[1]


def write_test_report(model):
    sidecar = json.loads(model.with_name("net.h5.json").read_text())
    sets = {"toy": {"acc": 0.9, "auc": 0.9, "vr": {}, "pairs": 2, "genuine": 1, "dist_max": 1, "dist_min": 0}}
    report = {"artifact": "net.h5", "kind": "h5", "sha256": sidecar["sha256"], "sets": sets}
    model.with_name("net.h5.report.json").write_text(json.dumps(report))


def test_images_of_another_size_are_refused_or_letterboxed(mini, monkeypatch):
    model, images = mini
    file = images / "Probe" / "3_1.jpg"
    cv2.imwrite(str(file), cv2.resize(cv2.imread(str(file)), (18, 20)))

    with pytest.raises(FaceError, match=r"3_1\.jpg"):
        evaluate(monkeypatch, model, images)
    assert not model.with_name("net.h5.tinyface.report.json").exists()
    assert evaluate(monkeypatch, model, images, "--letterbox") == 0


def test_a_probe_without_a_gallery_image_is_counted_and_said(mini, monkeypatch, capsys):
    model, images = mini
    (images / "Gallery_Match" / "3_1.jpg").unlink()

    evaluate(monkeypatch, model, images)

    assert "1 probes show people without an image in Gallery_Match; they count as not found" in capsys.readouterr().out


@pytest.mark.parametrize(
    "spoil, words",
    [
        (lambda folder: [file.unlink() for file in (folder / "Gallery_Distractor").iterdir()], "no images in"),
        (
            lambda folder: (folder / "Probe" / "face.jpg").write_bytes(b"x"),
            r"PERSON_NUMBER\.jpg. .*face\.jpg",
        ),
    ],
)
def test_other_folders_are_refused(mini, monkeypatch, spoil, words):
    model, images = mini
    spoil(images)

    with pytest.raises(FaceError, match=words):
        evaluate(monkeypatch, model, images)
