"""bench_embedders.py: a table and a picture of artefacts beside each other; scores from reports where they hold."""

import json

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from benchmarks import bench_embedders as bench
from facelib.data.verification.bins import write_bin
from facelib.errors import FaceError
from facelib.evaluation.results import report_path
from facelib.files import sha256_of, write_json
from facelib.model_input import Io
from facelib.sidecar import write_sidecar


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """Two ONNX models that embed a face as its mean colour, one with a report, and pairs of two shades."""
    folder = tmp_path_factory.mktemp("toy")
    for name, op in (("mean", "ReduceMean"), ("largest", "ReduceMax")):
        axes = helper.make_tensor("axes", TensorProto.INT64, [2], [1, 2])
        node = helper.make_node(op, ["input_1", "axes"], ["embeddings"], keepdims=0)
        ends = [helper.make_tensor_value_info(tensor, TensorProto.FLOAT, ["n", *shape])
                for tensor, shape in (("input_1", [112, 112, 3]), ("embeddings", [3]))]  # fmt: skip
        graph = helper.make_graph([node], name, ends[:1], ends[1:], [axes])
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10),
                  folder / f"{name}.onnx")  # fmt: skip
        write_sidecar(folder / f"{name}.onnx", kind="onnx", made_from=None, io=Io(embedding_size=3))
    random = np.random.default_rng(0)
    shades = random.integers(40, 200, (80, 3))
    shades[:40:2] = shades[1:40:2]  # the first half are of one shade
    images = [np.clip(shade + random.integers(-9, 10, (112, 112, 3)), 0, 255).astype(np.uint8) for shade in shades]
    write_bin(folder / "toy.bin", [cv2.imencode(".png", image)[1].tobytes() for image in images], np.arange(40) < 20)
    result = {"protocol": "exact", "acc": 0.875, "source": {"sha256": sha256_of(folder / "toy.bin")},
              "pairs": 40, "vr": {"0.001": {"vr": 0.75, "ci95": [0.5, 0.9]}}}  # fmt: skip
    report = {"sha256": sha256_of(folder / "mean.onnx"), "sets": {"toy": result}}
    write_json(report_path(folder / "mean.onnx"), report)
    return folder


def rows_of(path):
    lines = [line for line in path.read_text().splitlines() if line.startswith("|")]
    heads, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    return [dict(zip(heads, row, strict=True)) for row in rows]


@pytest.mark.slow
def test_a_table_and_a_picture_are_left_and_nothing_is_measured_twice(toy, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench.os, "cpu_count", lambda: 2)
    models = [str(toy / "mean.onnx"), str(toy / "largest.onnx")]

    assert (
        bench.main([*models, "--valid", str(toy / "toy.bin"), "--out", str(tmp_path / "card.md"), "--rounds", "1"]) == 0
    )

    rows = rows_of(tmp_path / "card.md")
    assert [(row["artefact"], row["threads"]) for row in rows] == [
        ("mean.onnx", "1"), ("largest.onnx", "1"), ("mean.onnx", "2"), ("largest.onnx", "2")]  # fmt: skip
    assert [row["times faster"] for row in rows[::2]] == ["1.00", "1.00"]
    assert all(float(row["ms a face"]) > 0 and float(row["images/s, batch 64"]) > 0 for row in rows)
    assert all(20 < float(row["memory MiB"]) <= float(row["batch 64"]) for row in rows)
    assert (rows[0]["ACC % toy"], rows[0]["VR@FAR=1e-3 %"]) == ("87.50", "75.00")  # those of the report
    assert float(rows[1]["ACC % toy"]) > 60 and rows[1]["VR@FAR=1e-3 %"] == "-"  # measured; 20 impostors are too few
    picture = cv2.imread(str(tmp_path / "card.png"))
    assert picture is not None and picture.std() > 3
    text = (tmp_path / "card.md").read_text()
    assert "card.png" in text and "busy share" in text and f"numpy {np.__version__}" in text
    assert text.splitlines()[0] in capsys.readouterr().out


def test_a_report_counts_for_its_file_its_runtime_and_one_set(toy, tmp_path):
    mean, largest = (bench.parse_artefact(str(toy / f"{name}.onnx")) for name in ("mean", "largest"))
    other = tmp_path / "other.bin"
    other.write_bytes(b"another set")

    scores = bench.find_scores([mean, largest], None)

    assert scores[0]["acc"] == 0.875 and scores[1] is None
    assert bench.find_scores([mean], other) == [None]
    assert bench.find_scores([bench.parse_artefact(f"openvino:{toy / 'mean.onnx'}")], None) == [None]
    copy = tmp_path / "mean.onnx"
    copy.write_bytes((toy / "mean.onnx").read_bytes() + b"\0")
    report_path(copy).write_bytes(report_path(toy / "mean.onnx").read_bytes())
    assert bench.find_scores([bench.parse_artefact(str(copy))], None) == [None]


def test_what_cannot_be_measured_is_one_line(toy, tmp_path):
    for words, message in (
        ([str(toy / "nothing.onnx")], "No model"),
        ([f"ncnn:{toy / 'nothing.param'}"], "No model"),
        ([str(toy / "mean.onnx"), "--rounds", "0"], "--rounds must be at least 1"),
    ):
        with pytest.raises(FaceError, match=message):
            bench.main([*words, "--out", str(tmp_path / "card.md")])
    without = tmp_path / "without.onnx"
    without.write_bytes((toy / "mean.onnx").read_bytes())
    with pytest.raises(FaceError, match="sidecar"):
        bench.main([str(without), "--out", str(tmp_path / "card.md"), "--rounds", "1"])  # said in its process
    assert not (tmp_path / "card.md").exists() and json.loads(report_path(toy / "mean.onnx").read_text())


@pytest.mark.parametrize("runtime", ["openvino", "openvino-f32"])
@pytest.mark.needs_tool("openvino")
def test_openvino_embeds_as_onnx_runtime_does(toy, runtime):
    from facelib.runtimes.onnx import OnnxEmbedder

    faces = np.random.default_rng(0).integers(0, 256, (3, 112, 112, 3), np.uint8)
    expected = OnnxEmbedder(toy / "mean.onnx", Io(), 1)(faces)

    embedder = bench.EXTRA[runtime](toy / "mean.onnx", Io(), 1)

    np.testing.assert_allclose(embedder(faces), expected, atol=1e-5 if runtime == "openvino-f32" else 0.01)
    assert embedder(faces[:1]).shape == (1, 3)
