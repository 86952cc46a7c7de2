"""evaluate_ijb.py from drawn photos to its report, through an ONNX model without learned weights."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import evaluate_ijb
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from facelib.data.synthetic.faces import synthetic_face
from facelib.errors import FaceError
from facelib.evaluation.ijb import embed
from facelib.evaluation.results import read_ijb_report
from facelib.model_input import TEMPLATE_112, Io
from facelib.sidecar import write_sidecar

ROOT = Path(__file__).parents[2]
NUM_PEOPLE, SHOTS = 6, 4  # a template of three shots (two of one video) and one of a single shot, each
GRID = 8  # the model's embedding: mean brightness of 14 x 14 squares, less 127


def write_model(path):
    """Raw RGB pixels [N, 112, 112, 3] -> [N, 64 * 3]."""
    from onnx import TensorProto, helper, save

    side = 112 // GRID
    nodes = [
        helper.make_node("Transpose", ["input_1"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("AveragePool", ["planes"], ["means"], kernel_shape=[side, side], strides=[side, side]),
        helper.make_node("Flatten", ["means"], ["flat"]),
        helper.make_node("Sub", ["flat", "grey"], ["embeddings"]),
    ]
    pixels = helper.make_tensor_value_info("input_1", TensorProto.FLOAT, ["N", 112, 112, 3])
    output = helper.make_tensor_value_info("embeddings", TensorProto.FLOAT, ["N", 3 * GRID * GRID])
    grey = helper.make_tensor("grey", TensorProto.FLOAT, [1], [127.0])
    graph = helper.make_graph(nodes, "means", [pixels], [output], [grey])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    write_sidecar(path, kind="onnx", made_from=None, io=Io())


def means(face):
    """What the model computes, in NumPy."""
    squares = face.astype(np.float64).reshape(GRID, 112 // GRID, GRID, 112 // GRID, 3).mean((1, 3))
    return squares.transpose(2, 0, 1).ravel() - 127


@pytest.fixture(scope="module")
def mini(tmp_path_factory):
    """Photos with turned faces, their meta files, and the faces cut out by OpenCV with the known transform."""
    folder, random = tmp_path_factory.mktemp("ijb"), np.random.default_rng(0)
    (folder / "crops").mkdir()
    faces, points, rows = [], [], []
    for who in range(NUM_PEOPLE):
        for shot in range(SHOTS):
            angle, scale = random.uniform(-0.4, 0.4), random.uniform(0.9, 1.4)
            turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
            move = np.c_[turn, [100, 100] - turn @ [56, 56]]  # face to photo of 200 x 200
            photo = cv2.warpAffine(synthetic_face(0, who, shot), move, (200, 200), borderValue=(90, 90, 90))
            name = f"{who * SHOTS + shot + 1}.png"
            cv2.imwrite(str(folder / "crops" / name), photo[:, :, ::-1])
            faces.append(cv2.warpAffine(photo, cv2.invertAffineTransform(move), (112, 112)))
            landmarks = np.array(TEMPLATE_112) @ move[:, :2].T + move[:, 2]
            points.append(f"{name} {' '.join(f'{v:.3f}' for v in landmarks.ravel())} {0.5 + 0.1 * shot:.1f}")
            template, media = (2 * who + 1, 100 + min(shot, 1)) if shot < 3 else (2 * who + 2, 200)
            rows.append(f"{name} {template} {1000 * who + media}")
    templates = [(2 * who + kind, who) for who in range(NUM_PEOPLE) for kind in (1, 2)]
    pairs = [f"{a} {b} {int(p == q)}" for i, (a, p) in enumerate(templates) for b, q in templates[i + 1 :]]
    header = "TEMPLATE_ID,SUBJECT_ID,FILENAME"
    galleries = [[f"{2 * who + 1},{who},x" for who in part for _ in range(3)] for part in ((0, 1, 2), (3, 4, 5))]
    files = {
        "name_5pts_score.txt": points,
        "face_tid_mid.txt": rows,
        "template_pair_label.txt": pairs,
        "1N_gallery_G1.csv": [header, *galleries[0]],
        "1N_gallery_G2.csv": [header, *galleries[1]],
        "1N_probe_mixed.csv": [header, *(f"{2 * who + 2},{who},x" for who in range(NUM_PEOPLE))],
    }
    (folder / "meta").mkdir()
    for name, lines in files.items():
        (folder / "meta" / f"ijbc_{name}").write_text("\n".join(lines) + "\n")
    write_model(folder / "model.onnx")
    return folder, faces


def expected_templates(faces, flip, normalize, detector_score):
    """The definition of pooling in plain loops. {template id: unit vector}"""
    found = {}
    for who in range(NUM_PEOPLE):
        vectors = []
        for shot in range(SHOTS):
            face = faces[who * SHOTS + shot]
            vector = means(face) + (means(face[:, ::-1]) if flip else 0)
            vector = vector / np.linalg.norm(vector) if normalize else vector
            vectors.append(vector * (0.5 + 0.1 * shot if detector_score else 1))
        found[2 * who + 1] = vectors[0] + (vectors[1] + vectors[2]) / 2
        found[2 * who + 2] = vectors[3]
    return {template: vector / np.linalg.norm(vector) for template, vector in found.items()}


def run(folder, *flags):
    words = [folder / "model.onnx", "--meta", folder / "meta", "--images", folder / "crops", "--threads", 1, *flags]
    return evaluate_ijb.main([str(word) for word in words])


@pytest.mark.parametrize(
    "flags, flip, normalize, detector_score",
    [
        ([], True, False, True),
        (["--no-flip", "--normalize"], False, True, True),
        (["--no-detector-score"], True, False, False),
    ],
)
def test_the_report_holds_what_the_definitions_give(mini, tmp_path, capsys, flags, flip, normalize, detector_score):
    folder, faces = mini

    run(folder, *flags, "--far", "0.1", "0.05", "0.001", "--report", tmp_path / "r.json")

    report = json.loads((tmp_path / "r.json").read_text())
    templates = expected_templates(faces, flip, normalize, detector_score)
    scores = {(a, b): float(templates[a] @ templates[b]) for a in templates for b in templates if a < b}
    is_same = np.array([(a - 1) // 2 == (b - 1) // 2 for a, b in scores])
    cosines = np.array(list(scores.values()))
    found = report["verification"]
    assert (found["pairs"], found["genuine"]) == (66, 6)
    assert found["auc"] == pytest.approx(roc_auc_score(is_same, cosines), abs=1e-9)
    impostors = np.sort(cosines[~is_same])[::-1]
    for far, allowed in (("0.1", 6), ("0.05", 3)):  # of 60
        assert found["vr"][far]["vr"] == pytest.approx(np.mean(cosines[is_same] > impostors[allowed]))
        assert 1 - found["vr"][far]["threshold"] / 2 == pytest.approx(
            min(c for c in cosines if c > impostors[allowed]), abs=1e-3
        )
    assert found["vr"]["0.001"]["vr"] is None and found["vr"]["0.001"]["needs_impostors"] == 1000
    hits = 0
    for people, name in ((range(3), "G1"), (range(3, 6), "G2")):
        best = [max(people, key=lambda i: templates[2 * i + 1] @ templates[2 * who + 2]) for who in people]
        right = sum(i == who for i, who in zip(best, people, strict=True))
        one = report["identification"][name]
        assert (one["gallery"], one["mated"], one["unmated"]) == (3, 3, 3)
        assert one["rank"]["1"] == pytest.approx(right / 3)
        hits += right
    assert report["identification"]["mean"]["rank"]["1"] == pytest.approx(hits / 6)
    assert report["identification"]["G1+G2"]["mated"] == 6
    assert (report["flip"], report["normalize"], report["detector_score"]) == (flip, normalize, detector_score)
    assert (report["kind"], report["set"], report["images"], report["templates"]) == ("onnx", "ijbc", 24, 12)
    printed = capsys.readouterr().out
    assert f"N{int(not normalize)} D{int(detector_score)} F{int(flip)}" in printed
    assert f"{100 * found['vr']['0.1']['vr']:.2f}" in printed and "needs >= 1,000 impostors" in printed
    assert "mean" in printed and "G1+G2" in printed


def test_the_nearest_rule_is_named_in_report_and_table(mini, tmp_path, capsys):
    folder, _ = mini

    run(folder, "--protocol", "1:1", "--far", "0.02", "--nearest", "--report", tmp_path / "near.ijb.report.json")

    assert read_ijb_report(tmp_path / "near.ijb.report.json")["verification"]["rule"] == "nearest"
    assert "TAR at the nearest FAR of the ROC, which may be above the stated one" in capsys.readouterr().out


def test_one_protocol_needs_only_its_files(mini, tmp_path):
    folder, _ = mini
    meta = tmp_path / "meta"
    meta.mkdir()
    for file in (folder / "meta").glob("*.txt"):
        (meta / file.name).write_bytes(file.read_bytes())

    run(folder, "--meta", meta, "--protocol", "1:1", "--report", tmp_path / "r.json")

    assert "identification" not in json.loads((tmp_path / "r.json").read_text())
    with pytest.raises(FaceError, match="ijbc_1N_gallery_G1"):
        run(folder, "--meta", meta)


@pytest.mark.parametrize("damage", [lambda data: b"no image", lambda data: data[: len(data) // 2], lambda data: b""])
def test_a_damaged_image_is_named(mini, tmp_path, damage):
    folder, _ = mini
    for file in (folder / "crops").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "9.png").write_bytes(damage((tmp_path / "9.png").read_bytes()))

    with pytest.raises(FaceError, match=r"9\.png'"):
        run(folder, "--images", tmp_path, "--report", tmp_path / "r.json")
    assert not (tmp_path / "r.json").exists()


def test_missing_images_are_named_before_the_work(mini, tmp_path):
    folder, _ = mini
    for file in (folder / "crops").iterdir():
        if file.name not in ("9.png", "10.png"):
            (tmp_path / file.name).write_bytes(file.read_bytes())

    with pytest.raises(FaceError, match=r"2 of 24 are not in .*: 9\.png, 10\.png\."):
        run(folder, "--images", tmp_path)


def test_an_embedding_without_direction_names_its_image(mini, monkeypatch):
    def blind(path, io, threads):
        return lambda images: np.where(np.arange(len(images)) == 8, 0.0, 1.0)[:, None] * np.ones((1, 4))

    monkeypatch.setattr(evaluate_ijb, "open_embedder", blind)

    with pytest.raises(FaceError, match=r"a zero embedding for '9\.png'"):
        run(mini[0])


def test_the_chunks_do_not_show(mini, tmp_path, monkeypatch):
    run(mini[0], "--report", tmp_path / "whole.json")
    monkeypatch.setattr(embed, "CHUNK_IMAGES", 5)

    run(mini[0], "--report", tmp_path / "chunks.json")

    whole, chunks = (json.loads((tmp_path / name).read_text()) for name in ("whole.json", "chunks.json"))
    for timing in ("images_per_s", "ms_per_image"):
        assert whole.pop(timing) > 0 and chunks.pop(timing) > 0
    assert whole.pop("mean_norm") == pytest.approx(chunks.pop("mean_norm"))
    assert whole == chunks


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--far", "0"], "rate above 0"),
        (["--threads", "0"], "--threads must be at least 1"),
        (["--meta", "nope"], "which is not a folder"),
    ],
)
def test_flags_that_make_no_sense_are_refused(mini, flags, words):
    with pytest.raises(FaceError, match=words):
        run(mini[0], *flags)


def test_help_names_the_switches_without_any_framework():
    head = "import sys\nsys.path.insert(0, 'tools')\nimport evaluate_ijb\n"
    code = head + "try: evaluate_ijb.main(['--help'])\nexcept SystemExit: print(sorted(sys.modules))"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60)

    assert "--detector-score" in done.stdout and "--color" in done.stdout
    assert "'tensorflow'" not in done.stdout and "'onnxruntime'" not in done.stdout
