"""Writes the corpus: one small valid input of each format, by the project's own writers. An input is a folder."""

import os
import pickle
import sys
from pathlib import Path

import cv2
import numpy as np

from facelib.data.conversion.job import convert
from facelib.data.synthetic.files import SyntheticSet, write_folders, write_insightface, write_tfrecord
from facelib.data.verification.bins import write_bin
from facelib.model_input import Io
from facelib.recognition.gallery import write_gallery
from facelib.sidecar import write_sidecar
from facelib.training.checkpoint import save_checkpoint
from facelib.training.recipe.schema import Recipe
from facelib.training.recipe.toml import to_toml
from tests.helpers.simulated_runs import build_run, write_faces

ROOT = Path(__file__).parents[2]
AT_A_FAR = {"distance": 1.2, "cosine": 0.4, "distance_ci95": [1.1, 1.3], "far_ci95": [0.0, 0.002]}
THRESHOLDS = {"sha256": "ab" * 32, "impostors": 3000, "flip": True, "far": {"0.001": AT_A_FAR}}


def write_seeds(folder: Path) -> None:
    """Writes FOLDER/FORMAT/SEED/... for every format that needs no TensorFlow."""
    faces = SyntheticSet(3, 2)
    jpegs = [faces.jpeg(i) for i in range(len(faces))]

    def new(name):
        (folder / name).mkdir(parents=True)
        return folder / name

    write_bin(new("bin/plain") / "x.bin", jpegs[:4], [True, False])
    arrays = [np.frombuffer(jpeg, np.uint8) for jpeg in jpegs[:4]]
    (new("bin/arrays") / "x.bin").write_bytes(pickle.dumps((arrays, np.array([True, False])), protocol=2))
    write_insightface(new("rec") / "plain", faces)
    new("folders")
    write_folders(folder / "folders/plain", faces)
    new("data_dir")
    convert(folder / "folders/plain", folder / "data_dir/plain", shards=2, progress=False)
    write_tfrecord(new("tfrecord/plain") / "x.tfrecord", faces)
    _write_images(new("image"), jpegs[0])
    write_folders(folder / "pairs/plain", SyntheticSet(2, 2))
    for person in sorted((folder / "pairs/plain").iterdir()):
        for number, file in enumerate(sorted(person.iterdir()), 1):
            file.rename(person / f"{person.name}_{number:04d}.jpg")
    (folder / "pairs/plain/pairs.txt").write_text("1\t1\n0001\t1\t2\n0001\t1\t0002\t2\n")
    write_folders(folder / "list/plain", SyntheticSet(2, 2))
    (folder / "list/plain/list.txt").write_text("0;0001/0001.jpg\n0;0001/0002.jpg\n1;0002/0001.jpg\n1;0002/0002.jpg\n")
    for recipe in sorted((ROOT / "recipes").glob("*.toml"))[:3]:
        (new(f"recipe/{recipe.stem}") / "x.toml").write_bytes(recipe.read_bytes())
    model = new("sidecar/plain") / "m.pb"
    model.write_bytes(b"model")
    write_sidecar(model, kind="frozen_pb", made_from=None, io=Io(), thresholds={"toy": THRESHOLDS})
    rows = np.eye(3, 8)
    gallery = new("gallery/plain") / "g.npy"
    (gallery.parent / "m.pb").write_bytes(b"model")
    write_gallery(
        gallery, rows, ["a", "b", "c"], [1, 2, 3], model=gallery.parent / "m.pb", io=Io(), flip=True, decision=None
    )
    save_checkpoint(
        new("checkpoint/plain"), 3, {"a": np.ones((2, 3), np.float32), "b": np.arange(4)}, {"step": 3, "row_files": []}
    )
    scores = folder.parent / "scores"
    scores.mkdir(exist_ok=True)
    write_faces(scores)
    run = build_run(new("run") / "plain", scores, has_folder_set=True)
    (run / "config.toml").write_text(to_toml(Recipe()))
    (run / "embedder.h5").write_bytes(b"model")  # the sign of a run that has begun
    for number, file in enumerate(sorted((folder / "run/plain").rglob("*.report.json"))):
        (new(f"report/{number}") / file.name).write_bytes(file.read_bytes())
        if number:  # one in the run is enough: each takes 20 ms
            file.unlink()


def _write_images(folder: Path, jpeg: bytes) -> None:
    pixels = cv2.resize(cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR), (32, 24))
    for suffix in (".jpg", ".png", ".tiff", ".bmp", ".webp", ".gif", ".ppm", ".avif"):
        try:
            is_written, data = cv2.imencode(suffix, pixels)
        except cv2.error:
            continue
        if is_written:
            (folder / suffix[1:]).mkdir()
            (folder / suffix[1:] / "x").write_bytes(data.tobytes())


def write_native_seeds(folder: Path) -> None:
    """Writes tiny networks as .pb, .h5, .tflite and .onnx to FOLDER/FORMAT/plain/x.SUFFIX."""
    import keras
    import onnx
    import tensorflow as tf
    from onnx import TensorProto, helper, numpy_helper

    from facelib.export.freeze import freeze
    from facelib.runtimes.frozen_graph import save_graph
    from facelib.runtimes.keras_h5 import save_h5

    faces = keras.Input((16, 16, 3), name="input_1")
    x = keras.layers.Conv2D(4, 3, strides=2, use_bias=False)(faces)
    x = keras.layers.PReLU(shared_axes=[1, 2])(keras.layers.BatchNormalization()(x))
    x = keras.layers.DepthwiseConv2D(7)(x)
    x = keras.layers.Flatten()(x)
    model = keras.Model(faces, keras.layers.Dense(8, name="embeddings")(x))

    def new(suffix):
        (folder / suffix / "plain").mkdir(parents=True)
        return folder / suffix / "plain" / f"x.{suffix}"

    save_h5(model, new("h5"))
    save_graph(freeze(model), new("pb"))
    new("tflite").write_bytes(tf.lite.TFLiteConverter.from_keras_model(model).convert())
    weights = np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["input_1", "w"], ["c"]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["p"]),
        helper.make_node("Flatten", ["p"], ["embeddings"]),
    ]
    value = lambda name, shape: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)  # noqa: E731
    graph = helper.make_graph(
        nodes,
        "g",
        [value("input_1", ["n", 3, 16, 16])],
        [value("embeddings", ["n", 4])],
        [numpy_helper.from_array(weights, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), new("onnx"))


def read_tree(folder: Path) -> dict[str, bytes]:
    """A folder as {relative path: content}."""
    return {
        file.relative_to(folder).as_posix(): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()
    }


def write_tree(folder: Path, tree: dict[str, bytes]) -> None:
    """The reverse of `read_tree`."""
    made = set()
    for name, data in tree.items():
        path = folder / name
        if path.parent not in made:
            path.parent.mkdir(parents=True, exist_ok=True)
            made.add(path.parent)
        path.write_bytes(data)


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    write_seeds(Path(sys.argv[1]))
    if "native" in sys.argv:
        write_native_seeds(Path(sys.argv[1]))
