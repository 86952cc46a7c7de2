"""Ascend: graph -> om -> msame -> table, with the stand-ins of tests/helpers/ascend_stand_ins. No chip, no CANN."""

import functools
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

import pb_test
from facelib.data.synthetic.faces import encode_jpeg, synthetic_face
from facelib.data.verification.bins import decode_images, load_bin, write_bin
from facelib.errors import FaceError
from facelib.export.om import om_eval, pb_2_om
from facelib.runtimes.frozen_graph import GraphEmbedder
from facelib.sidecar import read_sidecar
from facelib.wrong_input import MISTAKES
from tests.helpers.ascend_road import ROOT, hide_tools, load_script, put_on_path, save_small_net
from tests.helpers.ascend_stand_ins.on_path import install
from tests.helpers.slow import slow_unless_quick

NUM_FACES = 80
image2bin, calculate_om_acc = load_script("image2bin"), load_script("calculate_om_acc")


@pytest.fixture(autouse=True)
def without_tools(monkeypatch):
    hide_tools(monkeypatch)


@pytest.fixture
def tools(without_tools, monkeypatch, tmp_path):
    put_on_path(monkeypatch, install(tmp_path / "stand_ins"))


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    """A small frozen graph, 40 pairs of synthetic faces, and its tables of them, without and with mirrored faces."""
    folder = tmp_path_factory.mktemp("net")
    pb = save_small_net(folder)
    is_same, images = [k % 2 == 0 for k in range(NUM_FACES // 2)], []
    for k, same in enumerate(is_same):  # a face and the same file saved worse, which any net takes for one person
        images += [
            encode_jpeg(synthetic_face(4, k, 0), 95),
            encode_jpeg(synthetic_face(4, k if same else 100 + k, 0), 40),
        ]
    write_bin(folder / "toy.bin", images, is_same)
    reports = {flip: folder / f"pb{flip}.report.json" for flip in (False, True)}
    for flip, report in reports.items():
        words = [str(pb), "--valid", str(folder / "toy.bin"), "--far", "0.1", "--report", str(report)]
        assert pb_test.main([*words, *["--flip"] * flip]) == 0
    return SimpleNamespace(pb=pb, bin=folder / "toy.bin", reports=reports)


@pytest.fixture(scope="module")
def road(net, tmp_path_factory):
    """Two models, inputs with mirrored faces, and `out(model, form)`: what msame leaves of them in either format."""
    folder = tmp_path_factory.mktemp("road")
    with pytest.MonkeyPatch.context() as patch:
        put_on_path(patch, install(folder / "stand_ins"))
        assert pb_2_om.main([str(net.pb), str(folder / "half.om")]) == 0
        words = ["--output_type", "FP32", "--precision_mode", "must_keep_origin_dtype"]
        assert pb_2_om.main([str(net.pb), str(folder / "full"), *words]) == 0
        assert image2bin.main([str(net.bin), str(folder / "inputs"), "--model", str(folder / "half.om"), "--flip"]) == 0

    @functools.cache
    def out(model, form):
        words = [folder / f"{model}.om", folder / "inputs", folder / f"out_{model}_{form}", "--outfmt", form]
        with pytest.MonkeyPatch.context() as patch:
            put_on_path(patch, folder / "stand_ins")
            assert om_eval.main([str(word) for word in words]) == 0
        return words[2]

    return SimpleNamespace(folder=folder, half=folder / "half.om", inputs=folder / "inputs", out=out)


def test_of(net, out_dir, *words):
    """Runs calculate_om_acc.py; returns its report."""
    report = Path(out_dir).parent / "om.report.json"
    words = [str(out_dir), str(net.bin), "--far", "0.1", "--report", str(report), *map(str, words)]
    assert calculate_om_acc.main(words) == 0
    return json.loads(report.read_text())


test_of.__test__ = False


# ---------------------------------------------------------------------------------------------------- the whole road


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(("model", "form", "tolerance"), slow_unless_quick(
    [("half", "BIN", 0.03), ("half", "TXT", 0.03), ("full", "BIN", 1e-5), ("full", "TXT", 1e-4)],
    [("half", "BIN", 0.03)]))  # fmt: skip
def test_an_om_has_the_table_of_its_graph(net, road, model, form, tolerance, flip):
    of_graph = json.loads(net.reports[flip].read_text())

    out = road.out(model, form)
    report = test_of(net, out, "--model", road.folder / f"{model}.om", "--flip" if flip else "--no-flip")

    new, old = report["sets"]["toy"], of_graph["sets"]["toy"]
    assert old["acc"] > 0.8 and abs(new["acc"] - old["acc"]) <= 0.001
    np.testing.assert_allclose(new["auc"], old["auc"], atol=1e-3)
    np.testing.assert_allclose([new["dist_max"], new["dist_min"]], [old["dist_max"], old["dist_min"]], atol=tolerance)
    np.testing.assert_allclose(report["mean_norm"], of_graph["mean_norm"], rtol=2e-3)
    assert (report["flip"], report["kind"], report["artifact"]) == (flip, "om", f"{model}.om")
    log = next(out.glob("*/msame.log")).read_text()
    said = [line.split(":")[1] for line in log.splitlines() if line.startswith("Inference average time without first")]
    assert report["ms_per_image"] == pytest.approx(float(said[0].removesuffix("ms")))
    assert report["images_per_s"] == pytest.approx(1000 / report["ms_per_image"], rel=1e-3)


@pytest.mark.slow
def test_mirrored_faces_are_added_if_there_are_results(net, road):
    assert test_of(net, road.out("half", "BIN"), "--model", road.half)["flip"] is True


def test_results_are_matched_by_name_not_by_order(road):
    files = sorted(path.name for path in next(road.out("half", "BIN").glob("2*")).glob("*.bin"))

    assert len(files) == 2 * NUM_FACES
    assert files[:3] == ["0_flip_output_0.bin", "0_output_0.bin", "10_flip_output_0.bin"]  # 10 before 2


def test_the_sidecar_of_an_om_says_how_it_was_made_and_is_fed(net, road):
    sidecar = read_sidecar(road.half)

    assert (sidecar.kind, sidecar.licence) == ("om", "none")
    assert sidecar.rest["made_from"]["sha256"] == read_sidecar(net.pb).sha256
    assert sidecar.io == read_sidecar(net.pb).io
    assert sidecar.rest["atc"]["soc_version"] == "Ascend310"
    assert sidecar.rest["atc"]["precision_mode"] == "allow_fp32_to_fp16"
    assert read_sidecar(road.folder / "half_batch1.pb").kind == "batch1_pb"


@pytest.mark.slow
def test_aipp_feeds_bytes_and_swaps_colours(net, tools, tmp_path):
    aipp = tmp_path / "aipp.cfg"
    aipp.write_text((ROOT / "om" / "aipp.cfg").read_text().replace("rbuv_swap_switch: false", "rbuv_swap_switch: true"))
    om, inputs, out = tmp_path / "m.om", tmp_path / "in", tmp_path / "out"

    words = ["--insert_op_conf", str(aipp), "--output_type", "FP32", "--precision_mode", "force_fp32"]
    assert pb_2_om.main([str(net.pb), str(om), *words]) == 0
    io = read_sidecar(om).io
    assert (io.dtype, io.pixels, io.colour) == ("uint8", "raw", "bgr")
    assert image2bin.main([str(net.bin), str(inputs), "--model", str(om)]) == 0
    assert (inputs / "0.bin").read_bytes() == bgr_of(net, 0).tobytes()
    assert om_eval.main([str(om), str(inputs), str(out), "--device", "0"]) == 0
    report = test_of(net, out, "--model", om, "--against", net.reports[False], "--max-acc-drop", 0, "--max-vr-drop", 0)
    assert report["sets"]["toy"]["auc"] == pytest.approx(
        json.loads(net.reports[False].read_text())["sets"]["toy"]["auc"]
    )


def test_the_gate_stops_a_worse_model(net, road, tmp_path):
    better = json.loads(net.reports[False].read_text())
    better["sets"]["toy"]["acc"] = 2.0
    del better["sets"]["toy"]["decisions"]  # as older reports: so few pairs would not tell
    (tmp_path / "better.report.json").write_text(json.dumps(better))

    words = ["--model", road.half, "--no-flip", "--against", tmp_path / "better.report.json"]
    with pytest.raises(FaceError, match=r"half\.om.*ACC.*points lost"):
        test_of(net, road.out("half", "BIN"), *words)


# ----------------------------------------------------------------------------------------------------------- image2bin


@pytest.mark.parametrize("mistake", ["pixels scaled twice", "BGR for RGB", "NHWC pixels read as NCHW"])
def test_a_mistake_in_feeding_is_named(net, road, tmp_path, mistake):
    (apply,) = (each.apply for each in MISTAKES if each.name == mistake)
    pixels = np.ascontiguousarray(apply(decode_images(load_bin(net.bin).images).astype(np.float32)), np.float32)
    (tmp_path / "out").mkdir()
    for number, row in enumerate(GraphEmbedder(net.pb, read_sidecar(net.pb).io).run(pixels)):
        (tmp_path / "out" / f"{number}_output_0.bin").write_bytes(row.tobytes())

    with pytest.raises(
        FaceError, match=rf"'half\.om' must give the same embeddings as '.*'\. .*The likely cause: {mistake}"
    ):
        test_of(net, tmp_path / "out", "--model", road.half)
    assert not (tmp_path / "om.report.json").exists()


def bgr_of(net, number):
    """The face as OpenCV decodes it, blue first."""
    return cv2.imdecode(np.frombuffer(load_bin(net.bin).images[number], np.uint8), cv2.IMREAD_COLOR)


def test_inputs_are_those_of_ascends_modelzoo(net, tmp_path):
    assert image2bin.main([str(net.bin), str(tmp_path / "in"), "--color", "bgr", "--pixels", "pm1"]) == 0

    files = list((tmp_path / "in").iterdir())
    assert {path.name for path in files} == {f"{i}.bin" for i in range(NUM_FACES)}
    assert {path.stat().st_size for path in files} == {150_528}
    for i in (0, 1, NUM_FACES - 1):
        expected = (bgr_of(net, i).astype(np.float32) - 127.5) * 0.0078125
        np.testing.assert_array_equal(
            np.fromfile(tmp_path / "in" / f"{i}.bin", np.float32).reshape(112, 112, 3), expected
        )


def test_many_faces_keep_their_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr(image2bin, "CHUNK_IMAGES", 7)  # several chunks, the last of them short
    faces = [np.full((112, 112, 3), i, np.uint8) for i in range(20)]
    write_bin(tmp_path / "f.bin", [cv2.imencode(".png", face)[1].tobytes() for face in faces], [True] * 10)

    words = ["--flip", "--dtype", "uint8", "--layout", "nchw", "--crop", "112,96"]
    assert image2bin.main([str(tmp_path / "f.bin"), str(tmp_path / "in"), *words]) == 0

    for i in range(20):
        for name in (f"{i}.bin", f"{i}_flip.bin"):
            assert (tmp_path / "in" / name).read_bytes() == bytes([i]) * (112 * 96 * 3)
    assert len(list((tmp_path / "in").iterdir())) == 40


def test_mirrored_inputs_are_mirrored(net, road):
    plain, mirrored = (
        np.fromfile(road.inputs / name, np.float32).reshape(112, 112, 3) for name in ("3.bin", "3_flip.bin")
    )
    np.testing.assert_array_equal(mirrored, plain[:, ::-1])
    np.testing.assert_array_equal(plain, bgr_of(net, 3)[:, :, ::-1])


def test_a_folder_with_something_else_is_refused(net, tmp_path):
    words = [str(net.bin), str(tmp_path / "in"), "--dtype", "uint8"]
    assert image2bin.main(words) == 0
    assert image2bin.main(words) == 0  # the same files again

    (tmp_path / "in" / "80.bin").write_bytes(b"of a longer set")
    with pytest.raises(FaceError, match=r"1 files that are not among the 80 inputs, such as '80\.bin'"):
        image2bin.main(words)


def test_the_input_format_is_given_by_the_sidecar_or_by_flags(net, road, tmp_path):
    with pytest.raises(FaceError, match=r"--model X\.om, or --color"):
        image2bin.main([str(net.bin), str(tmp_path / "in")])
    with pytest.raises(FaceError, match="--color bgr contradicts"):
        image2bin.main([str(net.bin), str(tmp_path / "in"), "--model", str(road.half), "--color", "bgr"])
    with pytest.raises(FaceError, match="--dtype uint8 contradicts"):
        image2bin.main([str(net.bin), str(tmp_path / "in"), "--model", str(road.half), "--dtype", "uint8"])
    with pytest.raises(FaceError, match="uint8 input must have raw"):
        image2bin.main([str(net.bin), str(tmp_path / "in"), "--pixels", "pm1", "--dtype", "uint8"])
    assert not (tmp_path / "in").exists()


# ------------------------------------------------------------------------------------------------------------- om_eval


def test_without_msame_the_command_is_printed_and_one_line_says_why(road, tmp_path, capsys):
    with pytest.raises(FaceError, match=r"msame is not on PATH\. Build msame"):
        om_eval.main([str(road.half), str(road.inputs), str(tmp_path / "out"), "--device", "3", "--loop", "2"])

    assert shlex.split(capsys.readouterr().out) == [
        "msame", "--model", str(road.half), "--input", str(road.inputs), "--output", str(tmp_path / "out"),
        "--outfmt", "BIN", "--device", "3", "--loop", "2"]  # fmt: skip
    assert not (tmp_path / "out").exists()


def test_paths_that_msame_misreads_are_refused(road, tmp_path):
    (tmp_path / "lfw.bin_inputs").mkdir()
    with pytest.raises(FaceError, match=r"must not contain '\.bin'"):
        om_eval.main([str(road.half), str(tmp_path / "lfw.bin_inputs"), str(tmp_path / "out")])
    (tmp_path / "some").mkdir()
    with pytest.raises(FaceError, match="has nothing"):
        om_eval.main([str(road.half), str(tmp_path / "some"), str(tmp_path / "out")])
    (tmp_path / "some" / "readme.txt").write_text("x")
    with pytest.raises(FaceError, match=r"has readme\.txt"):
        om_eval.main([str(road.half), str(tmp_path / "some"), str(tmp_path / "out")])
    with pytest.raises(FaceError, match="--loop must be from 1 to 100"):
        om_eval.main([str(road.half), str(road.inputs), str(tmp_path / "out"), "--loop", "101"])


def test_inputs_of_another_size_are_refused_before_the_run(net, road, tmp_path):
    assert image2bin.main([str(net.bin), str(tmp_path / "in"), "--dtype", "uint8"]) == 0
    with pytest.raises(
        FaceError, match=r"needs 150,528 bytes of float32.*has 37,632.*image2bin\.py FILE\.bin DIR --model"
    ):
        om_eval.main([str(road.half), str(tmp_path / "in"), str(tmp_path / "out")])


@pytest.mark.slow
def test_failed_executions_are_named(road, tools, tmp_path):
    om = shutil.copy(road.half, tmp_path / "bare.om")  # no sidecar, so that only msame sees the sizes
    (tmp_path / "in").mkdir()
    for i in range(4):
        (tmp_path / "in" / f"{i}.bin").write_bytes(bytes(150_528 if i != 2 else 9))

    with pytest.raises(FaceError, match=r"skipped 1 of 4 inputs: 2\. Look for \[ERROR\] in .*msame\.log"):
        om_eval.main([str(om), str(tmp_path / "in"), str(tmp_path / "out")])


def test_a_model_that_msame_cannot_load_is_one_line(tools, road, tmp_path):
    (tmp_path / "no.om").write_bytes(b"no model")
    with pytest.raises(FaceError, match=r"msame failed .exit code 1.*load model from file failed.*msame\.log"):
        om_eval.main([str(tmp_path / "no.om"), str(road.inputs), str(tmp_path / "out")])


def test_the_shell_scripts_run_from_any_folder(tmp_path):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for script, words, said in (
        ("pb_2_om.sh", ["missing.pb"], "error: No frozen graph at 'missing.pb'"),
        ("om_eval.sh", ["missing.om", "a", "b"], "error: No Ascend model at 'missing.om'"),
    ):
        command = [str(ROOT / "om" / script), *words]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "PATH": path})
        assert done.returncode == 1
        assert done.stderr.startswith(said) and "Traceback" not in done.stderr
