"""What goes to Ascend's converter and what does not: the command, static shapes, ops, AIPP. A stand-in for atc runs."""

import os
import shlex
import subprocess
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from facelib.errors import FaceError
from facelib.export.freeze import freeze
from facelib.export.om import pb_2_om
from facelib.export.om.graph_rules import KNOWN_OPS, asks_shapes, find_unknown_ops, fix_shapes
from facelib.export.optimize import optimize
from facelib.models.registry import BACKBONES, IMPORTED, ModelConfig
from facelib.runtimes.frozen_graph import load_graph, open_graph, save_graph
from tests.helpers.ascend_road import ROOT, hide_tools, put_on_path, save_small_net, save_with_sidecar
from tests.helpers.ascend_stand_ins.on_path import install


@pytest.fixture(autouse=True)
def without_tools(monkeypatch):
    hide_tools(monkeypatch)


@pytest.fixture(scope="module")
def pb(tmp_path_factory):
    return save_small_net(tmp_path_factory.mktemp("net"))


def command_of(capsys):
    lines = [line for line in capsys.readouterr().out.splitlines() if "--framework=3" in line]
    assert len(lines) == 1
    return lines[0]


def run_without_atc(words):
    """Converts as far as it goes here: the command is printed, and the exit code says that there is no model."""
    with pytest.raises(FaceError, match="atc is not on PATH, so no model was made"):
        pb_2_om.main(words)


def test_the_command_is_that_of_ascends_modelzoo(pb, capsys, tmp_path):
    aipp, switches, out = ROOT / "om" / "aipp.cfg", tmp_path / "fusion_switch.cfg", tmp_path / "tf_MobileFaceNet"
    switches.write_text("{}\n")
    words = ["--soc_version", "Ascend310P3", "--insert_op_conf", aipp, "--fusion_switch_file", switches]
    run_without_atc([str(word) for word in (pb, out, *words)])

    assert shlex.split(command_of(capsys)) == [
        "atc", f"--model={out}_batch1.pb", "--framework=3", f"--output={out}", "--soc_version=Ascend310P3",
        "--input_shape=input_1:1,112,112,3", "--out_nodes=embeddings:0", "--precision_mode=allow_fp32_to_fp16",
        "--op_select_implmode=high_precision", f"--insert_op_conf={aipp}", f"--fusion_switch_file={switches}",
    ]  # fmt: skip


def test_a_graph_without_computed_shapes_goes_to_atc_unchanged(pb, capsys, tmp_path):
    fixed = fix_shapes(load_graph(pb), "input_1", "embeddings", pb)
    plain = save_with_sidecar(fixed, tmp_path / "plain.pb")

    run_without_atc([str(plain)])

    assert f"--model={plain} " in command_of(capsys)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plain.pb", "plain.pb.json"]


def test_the_printed_line_can_be_pasted(pb, capsys, tmp_path):
    folder = tmp_path / "a folder's"
    folder.mkdir()
    run_without_atc([str(pb), str(folder / "model")])
    line = command_of(capsys)

    path = f"{install(tmp_path / 'stand_ins')}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(["sh", "-c", line], env={**os.environ, "PATH": path}, capture_output=True, text=True)

    assert done.returncode == 0, done.stdout + done.stderr
    assert (folder / "model.om").is_file()


def test_without_atc_only_the_command_is_printed(pb, capsys, tmp_path):
    run_without_atc([str(pb), str(tmp_path / "m.om")])

    assert "\natc " in capsys.readouterr().out
    assert not (tmp_path / "m.om").exists() and not (tmp_path / "m.om.json").exists()


def test_a_failing_atc_leaves_the_older_model_and_no_sidecar(pb, monkeypatch, tmp_path):
    (tmp_path / "atc").write_text("#!/bin/sh\necho E19010: no parser; exit 255\n")
    (tmp_path / "atc").chmod(0o755)
    put_on_path(monkeypatch, tmp_path)
    (tmp_path / "m.om").write_bytes(b"older")

    with pytest.raises(FaceError, match=r"atc failed .exit code 255"):
        pb_2_om.main([str(pb), str(tmp_path / "m.om")])
    assert (tmp_path / "m.om").read_bytes() == b"older" and not (tmp_path / "m.om.json").exists()


def test_a_saved_model_is_refused(tmp_path):
    tf.saved_model.save(tf.Module(), str(tmp_path / "saved"))
    for path in (tmp_path / "saved", tmp_path / "saved" / "saved_model.pb"):
        with pytest.raises(FaceError, match=r"SavedModel: freeze.*h5_2_pb\.py"):
            pb_2_om.main([str(path)])


def graph_of(forward, shape):
    return (
        tf.function(forward)
        .get_concrete_function(tf.TensorSpec(shape, tf.float32, name="input_1"))
        .graph.as_graph_def()
    )


@pytest.mark.parametrize(("shape", "shown"), [
    ([None, None, None, 3], r"\[\?, \?, \?, 3\]"), ([None, 112, None, 3], r"\[\?, 112, \?, 3\]"),
    (None, "unknown")])  # fmt: skip
def test_an_input_of_open_size_is_refused(tmp_path, shape, shown):
    save_graph(graph_of(lambda input_1: tf.identity(input_1, "embeddings"), shape), tmp_path / "open.pb")
    with pytest.raises(FaceError, match=f"static shapes.*'input_1' of .*open.pb' is {shown}. Freeze"):
        pb_2_om.main([str(tmp_path / "open.pb")])


def test_sizes_that_depend_on_the_data_are_refused_by_name(tmp_path):
    def forward(input_1):
        bright = tf.where(input_1 > 100.0, name="bright")
        return tf.identity(tf.cast(tf.shape(bright), tf.float32), "embeddings")

    save_graph(graph_of(forward, [None, 112, 112, 3]), tmp_path / "where.pb")
    with pytest.raises(FaceError, match=r"static shapes.*where\.pb.*'bright' \(Where\)"):
        pb_2_om.main([str(tmp_path / "where.pb")])


def test_a_batch_of_many_is_refused(tmp_path):
    save_graph(graph_of(lambda input_1: tf.identity(input_1, "embeddings"), [64, 112, 112, 3]), tmp_path / "many.pb")
    with pytest.raises(FaceError, match=r"one face at a time.*takes 64"):
        pb_2_om.main([str(tmp_path / "many.pb")])


def test_ops_that_ascend_may_not_know_are_listed(tmp_path, capsys):
    def forward(input_1):
        x = tf.nn.l2_loss(input_1, name="loss") + tf.math.erf(tf.reduce_mean(input_1), name="bell")
        return tf.reshape(x, [1, 1], name="embeddings")

    save_graph(graph_of(forward, [1, 8, 8, 3]), tmp_path / "odd.pb")
    run_without_atc([str(tmp_path / "odd.pb")])

    out = capsys.readouterr().out
    assert "Ascend's parser may not know operation Erf: bell" in out
    assert "operation L2Loss" in out and "operation Mean" not in out


@pytest.mark.parametrize(("change", "match"), [
    (("var_reci_chn_1: 1.0", "var_reci_chn_1: 0.0078125"), "scales pixels itself, so channel 1 needs"),
    (("RGB888_U8", "YUV420SP_U8"), "input_format: RGB888_U8"),
    (("src_image_size_w: 112", "src_image_size_w: 250"), "112x112"),
    (("csc_switch: false", "csc_switch: true"), "csc_switch: false"), (("aipp_op {", "op {"), "aipp_op")])  # fmt: skip
def test_an_aipp_whose_output_does_not_fit_the_net_is_refused(pb, tmp_path, change, match):
    text = (ROOT / "om" / "aipp.cfg").read_text()
    assert change[0] in text
    (tmp_path / "aipp.cfg").write_text(text.replace(*change))

    with pytest.raises(FaceError, match=match):
        pb_2_om.main([str(pb), str(tmp_path / "m.om"), "--insert_op_conf", str(tmp_path / "aipp.cfg")])


@pytest.mark.parametrize(("pixels", "colour", "shifts", "factors"), [
    ("pm1", "bgr", (127.5, 127.5, 127.5), (0.0078125, 0.0078125, 0.0078125)),
    ("pm1_exact", "rgb", (127.5, 127.5, 127.5), (0.00784314, 0.00784314, 0.00784314)),
    ("imagenet", "bgr", (103.53, 116.28, 123.675), (0.0174292, 0.0175070, 0.0171248))])  # fmt: skip
def test_aipp_may_scale_pixels_for_a_net_that_does_not(pb, tmp_path, pixels, colour, shifts, factors):
    foreign = save_with_sidecar(load_graph(pb), tmp_path / "foreign.pb", pixels=pixels, colour=colour)
    text = (ROOT / "om" / "aipp.cfg").read_text()
    for c in range(3):
        text = text.replace(f"min_chn_{c}: 0", f"min_chn_{c}: {shifts[c]}")
        text = text.replace(f"var_reci_chn_{c}: 1.0", f"var_reci_chn_{c}: {factors[c]}")
    (tmp_path / "scaling.cfg").write_text(text)

    run_without_atc([str(foreign), "--insert_op_conf", str(tmp_path / "scaling.cfg")])
    with pytest.raises(FaceError, match=f"needs pixels scaled as '{pixels}', so channel 0 needs min_chn {shifts[0]:g}"):
        pb_2_om.main([str(foreign), "--insert_op_conf", str(ROOT / "om" / "aipp.cfg")])


# -------------------------------------------------------------------------------------------------- our own backbones

NETS = {(name, "prelu") for name in BACKBONES if name != IMPORTED}
NETS |= {("mobilefacenet", "relu6"), ("MobileNetV3Small", "own"), ("EfficientNetV2B0", "own")}


@pytest.mark.slow
@pytest.mark.parametrize(("backbone", "activation"), sorted(NETS), ids=str)
def test_every_backbone_passes_the_checks(backbone, activation):
    from backbones import build_backbone

    face = np.random.default_rng(0).integers(0, 256, (1, 112, 112, 3)).astype(np.float32)
    frozen = freeze(build_backbone(ModelConfig(backbone=backbone, embedding_size=32, activation=activation)))

    for graph in (frozen, optimize(frozen, "input_1", "embeddings")):
        fixed = fix_shapes(graph, "input_1", "embeddings", Path("x.pb"))
        assert asks_shapes(graph, "embeddings") and not asks_shapes(fixed, "embeddings")
        assert find_unknown_ops(fixed) == {}
        expected = open_graph(graph, "a")(face)
        np.testing.assert_allclose(open_graph(fixed, "b")(face), expected, atol=1e-4 * np.abs(expected).max())


def test_the_table_holds_operations_of_tensorflow():
    raw = {name.replace("_", "").lower() for name in dir(tf.raw_ops)}
    assert {op for op in KNOWN_OPS if op.lower() not in raw} <= {"Const", "Placeholder"}


def test_a_graph_that_was_trained_for_int8_is_refused(tmp_path):
    def forward(input_1):
        return tf.identity(tf.quantization.fake_quant_with_min_max_args(input_1, 0.0, 255.0), "embeddings")

    save_graph(graph_of(forward, [None, 112, 112, 3]), tmp_path / "int8.pb")
    with pytest.raises(FaceError, match=r"float net.*int8\.pb' has the fake quant.*quantize_aware"):
        pb_2_om.main([str(tmp_path / "int8.pb")])
