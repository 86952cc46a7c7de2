"""Frozen graphs of TensorFlow 1 on our road: optimised, ONNX, TFLite and Ascend, equal to the graph as it is."""

from dataclasses import replace

import numpy as np
import pytest

import onnx_test
import pb_2_onnx
import pb_2_tflite
import pb_test
from facelib.errors import FaceError
from facelib.export import optimize
from facelib.export.om import pb_2_om
from facelib.export.parity import parity_faces
from facelib.model_input import Io, to_model_input
from facelib.runtimes.frozen_graph import GraphEmbedder, load_graph, read_graph
from facelib.runtimes.onnx import OnnxEmbedder
from facelib.runtimes.tflite import TfliteEmbedder
from facelib.sidecar import read_sidecar
from facelib.unit_vectors import normalize
from tests.helpers.ascend_road import hide_tools
from tests.helpers.slow import slow_unless_quick
from tests.helpers.tf1_graphs import SIZE, freeze_linzmin, freeze_sirius, run_as_it_is

LINZMIN = Io(output="embeddings/l2_normalize", colour="bgr", pixels="pm1")
SIRIUS = Io(input="img_inputs", pixels="pm1_exact")
KINDS = {
    "linzmin": (freeze_linzmin, {}, LINZMIN, {}),
    "sirius": (freeze_sirius, {}, SIRIUS, {}),
    "true by default": (freeze_sirius, {"default": True}, SIRIUS, {"phase_train": False}),
    "no default, old": (freeze_sirius, {"default": None, "old": True}, SIRIUS, {"phase_train": False}),
    "functions": (freeze_sirius, {"functions": True}, SIRIUS, {}),
    "no shape": (freeze_sirius, {"shape": None}, SIRIUS, {}),
    "open size": (freeze_sirius, {"shape": (None, None, None, 3)}, SIRIUS, {}),
}  # fmt: skip


def flags(io):
    return ["--input", io.input, "--output", io.output, "--color", io.colour, "--pixels", io.pixels, "--crop",
            "112,112"]  # fmt: skip


@pytest.fixture(scope="module")
def faces():
    return parity_faces()


@pytest.mark.parametrize("kind", slow_unless_quick(KINDS, ["sirius", "no shape", "linzmin"]))
def test_every_form_gives_the_embeddings_of_the_graph_as_it_is(tmp_path, monkeypatch, capsys, faces, kind):
    freeze, options, io, feeds = KINDS[kind]
    pb, optimized = freeze(tmp_path / "frozen.pb", **options), tmp_path / "optimized.pb"
    expected = run_as_it_is(pb, to_model_input(faces, io), io.input, io.output, feeds)

    assert optimize.main([str(pb), *flags(io)]) == 0
    assert pb_2_onnx.main([str(optimized)]) == 0  # no command after the first one needs flags
    assert pb_2_tflite.main([str(optimized)]) == 0
    hide_tools(monkeypatch)
    with pytest.raises(FaceError, match="atc is not on PATH"):
        pb_2_om.main([str(optimized)])

    graph = load_graph(optimized)
    ops = {node.op for node in graph.node}
    assert not ops & {
        "Switch",
        "Merge",
        "If",
        "StatelessIf",
        "FusedBatchNorm",
        "FusedBatchNormV3",
        "PlaceholderWithDefault",
    }
    assert not any("_class" in node.attr for node in graph.node)
    (placeholder,) = (node for node in graph.node if node.op == "Placeholder")
    assert [dim.size for dim in placeholder.attr["shape"].shape.dim] == [-1, 112, 112, 3]
    np.testing.assert_allclose(
        run_as_it_is(optimized, to_model_input(faces, io), io.input, io.output), expected, atol=1e-5
    )
    for runtime, name in ((GraphEmbedder, "optimized.pb"), (OnnxEmbedder, "model.onnx"),
                          (TfliteEmbedder, "model_float.tflite"), (GraphEmbedder, "model_batch1.pb")):  # fmt: skip
        path = tmp_path / name
        if path.exists():  # one face alone, where the graph asks for no shape
            told = read_sidecar(path).io
            one_by_one = np.concatenate([runtime(path, told)(face[None]) for face in faces])
            np.testing.assert_allclose(one_by_one, normalize(expected), atol=1e-5)
    assert "--input_shape=" + io.input + ":1,112,112,3" in capsys.readouterr().out


def test_atc_gets_a_graph_without_phases(tmp_path, monkeypatch, faces):
    pb = freeze_sirius(tmp_path / "frozen.pb", old=True)  # no shape is computed, so only the phase needs a copy
    hide_tools(monkeypatch)

    with pytest.raises(FaceError, match="atc is not on PATH"):
        pb_2_om.main([str(pb), *flags(SIRIUS)])

    copy = tmp_path / "model_batch1.pb"
    assert not {"Switch", "Merge", "PlaceholderWithDefault"} & {node.op for node in read_graph(copy).node}
    one = to_model_input(faces[:1], SIRIUS)
    expected = run_as_it_is(pb, one, "img_inputs", "embeddings")
    np.testing.assert_allclose(run_as_it_is(copy, one, "img_inputs", "embeddings"), expected, atol=1e-5)


def test_outputs_of_conversions_are_not_normalised(tmp_path, faces):
    pb = freeze_linzmin(tmp_path / "frozen.pb")
    expected = run_as_it_is(pb, to_model_input(faces, LINZMIN), "input_1", "prelogits")

    pb_2_onnx.main([str(pb), *flags(LINZMIN)])
    pb_2_tflite.main([str(pb)])

    for runtime, name in ((OnnxEmbedder, "model.onnx"), (TfliteEmbedder, "model_float.tflite")):
        path = tmp_path / name
        np.testing.assert_allclose(runtime(path, read_sidecar(path).io).raw(faces), expected, atol=1e-4)


def test_flags_are_said_once(tmp_path, shades, capsys):
    pb, test = freeze_linzmin(tmp_path / "frozen.pb"), ["--valid", str(shades / "shades.bin")]

    assert pb_test.main([str(pb), *test, *flags(LINZMIN)]) == 0
    first = capsys.readouterr().out
    assert pb_test.main([str(pb), *test]) == 0
    assert capsys.readouterr().out.splitlines()[:3] == first.splitlines()[:3]  # the table
    assert read_sidecar(pb).io == replace(LINZMIN, embedding_size=SIZE)

    assert f"next: ./optimize_pb.sh {pb}" in first
    assert optimize.main([str(pb)]) == 0 and pb_2_onnx.main([str(pb)]) == 0
    assert onnx_test.main([str(tmp_path / "model.onnx"), *test]) == 0
    assert capsys.readouterr().out.count("no sidecar") == 0


@pytest.mark.slow
def test_later_flags_replace_earlier_ones_but_not_what_we_made(tmp_path, shades, monkeypatch):
    monkeypatch.setattr("facelib.sidecar.RENAME_SECONDS", 0)
    pb, test = freeze_linzmin(tmp_path / "frozen.pb"), ["--valid", str(shades / "shades.bin")]
    pb_test.main([str(pb), *test, "--output", "prelogits"])
    pb_test.main([str(pb), *test, "--color", "bgr"])

    assert read_sidecar(pb).io == Io(output="prelogits", colour="bgr", embedding_size=SIZE)
    pb.write_bytes(freeze_sirius(tmp_path / "other.pb").read_bytes())  # its user froze it anew
    pb_test.main([str(pb), *test, *flags(SIRIUS)])
    assert read_sidecar(pb).io.input == "img_inputs"

    pb_2_tflite.main([str(pb)])
    int8 = tmp_path / "model_float.tflite"
    int8.write_bytes(int8.read_bytes() + b"\\0")
    with pytest.raises(FaceError, match="was changed after its sidecar"):
        pb_2_tflite.main([str(int8)])


def test_without_a_word_a_graph_is_taken_for_raw_pixels_and_that_is_said(tmp_path, capsys):
    pb = freeze_linzmin(tmp_path / "frozen.pb")

    optimize.main([str(pb), "--output", "embeddings/l2_normalize"])
    pb_2_tflite.main([str(tmp_path / "optimized.pb"), "--mode", "float"])  # the command that it prints

    out = capsys.readouterr().out
    assert "next: python pb_2_tflite.py" in out and read_sidecar(tmp_path / "optimized.pb").io.pixels == "raw"
