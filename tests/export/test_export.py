"""h5 -> frozen -> optimised -> TFLite: every runtime gives the same embeddings, every artefact names its parent."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

import h5_2_pb
import import_model
import pb_2_tflite
import pb_test
import tflite_test
from facelib.data.readers.calibration_crops import load_crops
from facelib.data.synthetic.faces import encode_jpeg, synthetic_face
from facelib.data.verification.bins import write_bin
from facelib.errors import FaceError
from facelib.export import optimize
from facelib.files import sha256_of
from facelib.model_input import TEMPLATE_POINTS, Io
from facelib.runtimes.frozen_graph import GraphEmbedder, load_graph
from facelib.runtimes.keras_h5 import load_model, save_h5
from facelib.runtimes.tflite import Lite, TfliteEmbedder
from facelib.sidecar import check_sidecar, read_sidecar, write_sidecar
from facelib.unit_vectors import row_cosines
from tests.helpers.random_weights import random_weights

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data"
PRETRAINED = DATA / "pretrained" / "mobilefacenet_relu6_128.onnx"
LFW = DATA / "faces_mix" / "lfw.bin"
MODES = ("float", "fp16", "dynamic", "int8")
EMBEDDING_SIZE = 16

# artefact, its embedder, lowest cosine to the .h5 on synthetic faces of a net with random weights and statistics
CONTRACT = [
    ("frozen.pb", GraphEmbedder, 0.99999),
    ("optimized.pb", GraphEmbedder, 0.99999),
    ("model_float.tflite", TfliteEmbedder, 0.9999),
    ("model_fp16.tflite", TfliteEmbedder, 0.9995),
    ("model_dynamic.tflite", TfliteEmbedder, 0.995),
    ("model_int8.tflite", TfliteEmbedder, 0.9),  # 0.97 on synthetic faces; the noise image is the worst
]


def run_chain(h5: Path, calibration: Path) -> Path:
    """Runs every export script on `h5`; returns the folder of the artefacts."""
    export = h5.parent / "export"
    assert h5_2_pb.main([str(h5)]) == 0
    assert optimize.main([str(export / "frozen.pb")]) == 0
    for mode in MODES:
        words = [str(export / "optimized.pb"), "--mode", mode, "--calibration", str(calibration)]
        assert pb_2_tflite.main([*words, "--num-calibration", "40"]) == 0
    return export


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """A small PReLU net with weights that make every fold visible, exported to all formats."""
    import keras

    from mobilefacenet import mobilefacenet

    folder = tmp_path_factory.mktemp("run")
    keras.utils.set_random_seed(0)  # of the kernels
    model = random_weights(mobilefacenet(embedding_size=EMBEDDING_SIZE, width=0.25), spread=0.5)
    save_h5(model, folder / "embedder.h5")
    write_sidecar(folder / "embedder.h5", kind="h5", made_from=None, io=Io(), licence="none", training_data="drawn")
    crops = folder / "crops"
    crops.mkdir()
    for k in range(40):
        (crops / f"{k:02d}.jpg").write_bytes(encode_jpeg(synthetic_face(3, k // 2, k % 2), 95))
    images = [encode_jpeg(synthetic_face(4, k // 4, k % 2 if k < 40 else k), 95) for k in range(80)]
    write_bin(folder / "toy.bin", images, [k < 20 for k in range(40)])
    faces = np.stack([synthetic_face(5, k, 0) for k in range(7)])
    faces[-1] = np.random.default_rng(0).integers(0, 256, faces[-1].shape)
    return SimpleNamespace(
        folder=folder, h5=folder / "embedder.h5", model=model, faces=faces, crops=crops, bin=folder / "toy.bin",
        export=run_chain(folder / "embedder.h5", crops),
    )  # fmt: skip


def open_artefact(path, embedder, threads=2):
    return embedder(path, check_sidecar(path).io, threads)


@pytest.mark.parametrize("name, embedder, min_cosine", CONTRACT)
def test_export_keeps_the_embedding(chain, name, embedder, min_cosine):
    reference = chain.model(chain.faces.astype("float32"), training=False).numpy()
    before = chain.faces.copy()

    embed = open_artefact(chain.export / name, embedder)
    vectors = embed(chain.faces)

    cosines = row_cosines(vectors, reference)
    assert cosines.min() >= min_cosine, f"worst face {cosines.argmin()}: cosine {cosines.min():.6f}"
    assert vectors.dtype == np.float32 and vectors.shape == (7, EMBEDDING_SIZE)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-3)
    np.testing.assert_array_equal(chain.faces, before)
    np.testing.assert_allclose(embed(chain.faces[2:3]), vectors[2:3], atol=1e-5)  # alone or in a batch
    assert embed.embedding_size == EMBEDDING_SIZE and embed.name == name


@pytest.mark.parametrize("name", [name for name, _, _ in CONTRACT])
def test_the_sidecar_says_what_who_has_only_the_file_needs(chain, name):
    said = read_sidecar(chain.export / name).rest

    assert said["comparison"] == {"normalise": True, "distance": "squared L2"}
    assert said["io"]["pixels"] == "raw" and said["pixel_range"] == [0, 255]
    assert said["pixel_scaling"] == {"mean": [0, 0, 0], "std": [1, 1, 1]}
    assert said["template_points"] == list(TEMPLATE_POINTS) and len(said["template"]) == len(TEMPLATE_POINTS)
    if not name.endswith(".tflite"):
        assert {said["io"]["input"], said["io"]["output"]} <= {
            node.name for node in load_graph(chain.export / name).node
        }
        return
    interpreter = Interpreter(str(chain.export / name))
    for side, (details,) in (("input", interpreter.get_input_details()), ("output", interpreter.get_output_details())):
        tensor = said["tensors"][side]
        assert (tensor["name"], tensor["dtype"]) == (details["name"], np.dtype(details["dtype"]).name)
        assert (tensor["scale"], tensor["zero_point"]) == details["quantization"]
        assert (tensor["scale"] > 0) == (tensor["dtype"] != "float32")


def test_the_faces_have_different_embeddings(chain):
    reference = chain.model(chain.faces.astype("float32"), training=False).numpy()
    unit = reference / np.linalg.norm(reference, axis=1, keepdims=True)
    assert (unit @ unit.T)[np.triu_indices(7, 1)].min() < 0.9  # else any cosine above would pass


@pytest.mark.slow
def test_the_saved_model_is_the_model_bit_for_bit(chain):
    loaded = load_model(chain.h5)
    faces = chain.faces.astype("float32")
    np.testing.assert_array_equal(loaded(faces, training=False), chain.model(faces, training=False))


def test_optimising_folds_batch_norm_and_drops_most_nodes(chain):
    frozen, optimized = (load_graph(chain.export / name) for name in ("frozen.pb", "optimized.pb"))
    ops = {node.op for node in optimized.node}
    assert not ops & {"Rsqrt", "FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3"}
    assert len(optimized.node) <= 0.6 * len(frozen.node)
    assert read_sidecar(chain.export / "optimized.pb").rest["nodes"] == {
        "before": len(frozen.node), "after": len(optimized.node)}  # fmt: skip


def test_int8_is_integer_throughout_and_takes_raw_pixels(chain):
    lite = Lite(chain.export / "model_int8.tflite")
    dtypes = {np.dtype(tensor["dtype"]).name for tensor in lite._interpreter.get_tensor_details()}
    assert dtypes <= {"uint8", "int8", "int32"}
    assert (lite.dtype, lite.scale, lite.zero_point) == (np.uint8, 1.0, 0)
    assert lite.output_dtype == np.int8


@pytest.mark.parametrize("mode", MODES)
def test_prelu_is_written_in_operations_that_xnnpack_has(chain, mode):
    ops = [op["op_name"] for op in Lite(chain.export / f"model_{mode}.tflite")._interpreter._get_ops_details()]
    assert "PRELU" not in ops
    assert ops.count("MAXIMUM") == ops.count("MUL") == 33


def test_dynamic_keeps_depthwise_kernels_in_float(chain):
    details = Lite(chain.export / "model_dynamic.tflite")._interpreter._get_ops_details()
    tensors = {t["index"]: t for t in Lite(chain.export / "model_dynamic.tflite")._interpreter.get_tensor_details()}
    kernels = [tensors[op["inputs"][1]]["dtype"] for op in details if op["op_name"] == "DEPTHWISE_CONV_2D"]
    assert len(kernels) == 17 and all(dtype is np.float32 for dtype in kernels)


def test_every_artefact_names_its_parents_hash_and_inherits_what_is_known(chain):
    parents = {"frozen.pb": chain.h5, "optimized.pb": chain.export / "frozen.pb"}
    parents |= {f"model_{mode}.tflite": chain.export / "optimized.pb" for mode in MODES}
    kinds = ["frozen_pb", "optimized_pb", *(f"tflite_{mode}" for mode in MODES)]
    for (name, parent), kind in zip(parents.items(), kinds, strict=True):
        sidecar = read_sidecar(chain.export / name)
        assert sidecar.rest["made_from"]["sha256"] == sha256_of(parent)
        assert (sidecar.kind, sidecar.licence, sidecar.training_data) == (kind, "none", "drawn")
        assert sidecar.io.embedding_size == EMBEDDING_SIZE and sidecar.io.pixels == "raw"
    calibration = read_sidecar(chain.export / "model_int8.tflite").rest["calibration"]
    assert calibration["count"] == 40 and calibration["seed"] == 0 and calibration["source"] == "crops"


def test_a_changed_artefact_is_refused_by_every_script(chain, tmp_path):
    for name, scripts in (
        ("optimized.pb", (pb_test, pb_2_tflite, optimize)),
        ("model_int8.tflite", (tflite_test,)),
    ):
        changed = tmp_path / name
        changed.write_bytes((chain.export / name).read_bytes() + b"\0")
        (tmp_path / f"{name}.json").write_bytes((chain.export / f"{name}.json").read_bytes())
        for script in scripts:
            words = ["--valid", str(chain.bin)] if script in (pb_test, tflite_test) else []
            words = [str(tmp_path / "out.pb")] if script is optimize else words
            with pytest.raises(FaceError, match="changed after its sidecar"):
                script.main([str(changed), *words])


@pytest.mark.parametrize("script, name", [(pb_test, "optimized.pb"), (tflite_test, "model_float.tflite")])
def test_a_model_without_sidecar_is_tested_by_flags(chain, tmp_path, script, name):
    (tmp_path / name).write_bytes((chain.export / name).read_bytes())
    words = [str(tmp_path / name), "--valid", str(chain.bin)]

    with pytest.raises(FaceError, match="no sidecar"):
        script.main(words)
    assert script.main([*words, "--pixels", "raw"]) == 0
    with pytest.raises(FaceError, match="--crop"):
        script.main([*words, "--pixels", "raw", "--crop", "96,96"])


def test_missing_names_are_listed(chain, tmp_path):
    (tmp_path / "a.pb").write_bytes((chain.export / "optimized.pb").read_bytes())
    words = [str(tmp_path / "a.pb"), "--valid", str(chain.bin), "--pixels", "raw"]
    with pytest.raises(FaceError, match=r"no node 'data'.*input_1"):
        pb_test.main([*words, "--input", "data"])
    with pytest.raises(FaceError, match=r"no node 'fc1'.*embeddings"):
        pb_test.main([*words, "--output", "fc1"])


def test_the_gate_passes_its_own_report_and_stops_what_is_worse(chain, tmp_path):
    words = [str(chain.export / "optimized.pb"), "--valid", str(chain.bin), "--far", "0.1"]
    report = tmp_path / "reference.json"
    assert pb_test.main([*words, "--report", str(report)]) == 0
    assert tflite_test.main([str(chain.export / "model_float.tflite"), *words[1:], "--against", str(report)]) == 0

    better = json.loads(report.read_text())
    better["sets"]["toy"]["acc"] = 2.0  # better than anything
    del better["sets"]["toy"]["decisions"]  # as older reports: so few pairs would not tell
    report.write_text(json.dumps(better))
    with pytest.raises(FaceError, match=r"ACC.*points lost"):
        pb_test.main([*words, "--against", str(report)])


def test_int8_asks_for_calibration(chain):
    with pytest.raises(FaceError, match="--calibration DATA"):
        pb_2_tflite.main([str(chain.export / "optimized.pb"), "--mode", "int8"])


def test_converting_asks_how_to_feed_a_graph_without_sidecar(chain, tmp_path):
    (tmp_path / "a.pb").write_bytes((chain.export / "optimized.pb").read_bytes())
    with pytest.raises(FaceError, match="no sidecar"):
        pb_2_tflite.main([str(tmp_path / "a.pb")])
    assert pb_2_tflite.main([str(tmp_path / "a.pb"), "--pixels", "raw"]) == 0
    assert check_sidecar(tmp_path / "model_float.tflite").io.pixels == "raw"


@pytest.mark.slow
def test_slopes_above_one_are_refused(chain, tmp_path):
    model = load_model(chain.h5)
    slopes = model.get_layer("stem_conv_act").alpha
    slopes.assign(np.full(slopes.shape, 1.5))
    save_h5(model, tmp_path / "steep.h5")

    with pytest.raises(FaceError, match=r"at most 1.*1\.5000.*stem_conv_act"):
        h5_2_pb.main([str(tmp_path / "steep.h5"), "--pixels", "raw"])
    assert not (tmp_path / "export").exists()


@pytest.mark.slow
def test_a_mixed_precision_model_is_frozen_in_float32(tmp_path):
    import keras

    from mobilefacenet import mobilefacenet

    keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        model = random_weights(mobilefacenet(embedding_size=8, width=0.125))
    finally:
        keras.mixed_precision.set_global_policy("float32")
    save_h5(model, tmp_path / "half.h5")

    assert h5_2_pb.main([str(tmp_path / "half.h5"), "--pixels", "raw", "--out", str(tmp_path / "f.pb")]) == 0

    halves = [n.name for n in load_graph(tmp_path / "f.pb").node if any(a.type == 19 for a in n.attr.values())]
    assert halves == []  # 19 is DT_HALF


def test_calibration_draws_the_same_crops_for_the_same_seed(chain):
    first, about = load_crops(chain.crops, 10, seed=1)
    again, _ = load_crops(chain.crops, 10, seed=1)
    other, _ = load_crops(chain.crops, 10, seed=2)
    from_bin, about_bin = load_crops(chain.bin, 1000, seed=0)

    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert first.shape == (10, 112, 112, 3) and about["count"] == 10
    assert about_bin["count"] == len(from_bin) == len({face.tobytes() for face in from_bin})
    picture = cv2.imdecode(np.frombuffer((chain.crops / "00.jpg").read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    everything, _ = load_crops(chain.crops, 40, seed=0)
    np.testing.assert_array_equal(everything[0], picture[:, :, ::-1])  # RGB
    with pytest.raises(FaceError, match="no face data"):
        load_crops(chain.folder / "nowhere", 10, seed=0)


@pytest.mark.parametrize("name", ["frozen.pb", "model_int8.tflite"])
def test_a_truncated_artefact_is_one_clear_line(chain, tmp_path, name):
    data = (chain.export / name).read_bytes()
    cut = tmp_path / name
    cut.write_bytes(data[: len(data) // 2])
    script = pb_test if name.endswith("pb") else tflite_test
    with pytest.raises(FaceError, match="again"):
        script.main([str(cut), "--valid", str(chain.bin), "--pixels", "raw"])


def test_the_shell_script_runs_from_any_folder(tmp_path):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    words = [str(ROOT / "optimize_pb.sh"), "missing.pb"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "PATH": path})
    assert done.returncode == 1
    assert done.stderr.startswith("error: No frozen graph at 'missing.pb'") and "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.needs_data(PRETRAINED, LFW)
def test_the_pretrained_net_keeps_its_embeddings_of_real_faces(tmp_path):
    h5 = tmp_path / "embedder.h5"
    assert import_model.main([str(PRETRAINED), str(h5)]) == 0
    export = run_chain(h5, LFW)
    faces, _ = load_crops(LFW, 64, seed=9)

    reference = load_model(h5)(faces.astype("float32"), training=False).numpy()

    floors = (0.99999, 0.99999, 0.9999, 0.9995, 0.995, 0.97)
    for (name, embedder, _), floor in zip(CONTRACT, floors, strict=True):
        cosines = row_cosines(open_artefact(export / name, embedder)(faces), reference)
        assert cosines.min() >= floor, f"{name}: cosine {cosines.min():.6f}"


def test_calibration_takes_the_training_images_of_a_net_of_another_size(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (3, 96, 96, 3), np.uint8)
    for k, image in enumerate(images):
        cv2.imwrite(str(tmp_path / f"{k}.png"), image[:, :, ::-1])
    cv2.imwrite(str(tmp_path / "3.png"), np.full((112, 112, 3), 77, np.uint8))

    crops, _ = load_crops(tmp_path, 4, seed=0, size=(96, 96), fit="resize")

    np.testing.assert_array_equal(crops[:3], images)
    assert (crops[3] == 77).all()
    with pytest.raises(FaceError, match=r"Calibration image 0 of .*96x96.*112x112"):
        load_crops(tmp_path, 4, seed=0)


@pytest.mark.parametrize("size", [(250, 250), (112, 96), (160, 160)])
def test_calibration_refuses_photos_that_evaluation_refuses(tmp_path, size):
    for k in range(3):
        cv2.imwrite(str(tmp_path / f"{k}.png"), np.full((*size, 3), 40 * k, np.uint8))
    with pytest.raises(FaceError, match=r"Calibration image 0 of .*112x112.*align_faces\.py"):
        load_crops(tmp_path, 3, seed=0)
