"""docs/phone.md: its Python gives the embeddings of the model with nothing but the file and its sidecar."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from facelib.evaluation.probability import probability
from facelib.evaluation.thresholds import read_ratio
from facelib.export.optimize import optimize
from facelib.export.tflite.convert import TfliteOptions, graph_to_tflite
from facelib.model_input import TEMPLATE_POINTS, Io
from facelib.runtimes.tflite import Lite, TfliteEmbedder
from facelib.self_test import make_self_test
from facelib.sidecar import read_sidecar, write_sidecar
from tests.helpers.small_net import faces_of, small_graph

PAGE = Path(__file__).parents[2] / "docs" / "phone.md"
MODES = {"float": ("float", "float"), "uint8": ("int8", "uint8"), "int8": ("int8", "int8")}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """float.tflite, uint8.tflite and int8.tflite with sidecars, and a threshold in each."""
    folder, graph = tmp_path_factory.mktemp("phone"), optimize(small_graph(), "input_1", "embeddings")
    for name, (mode, edges) in MODES.items():
        options = TfliteOptions(mode, faces_of(16) if mode == "int8" else None, edges if mode == "int8" else "uint8")
        path = folder / f"{name}.tflite"
        path.write_bytes(graph_to_tflite(graph, Io(), (1, 112, 112, 3), options))
        io = Io(dtype="float32" if mode == "float" else name)
        write_sidecar(
            path, kind=f"tflite_{mode}", made_from=None, io=io,
            tensors=Lite(path).describe_tensors(),
            self_test=make_self_test(TfliteEmbedder(path, io), f"tflite_{mode}", Lite(path).describe_tensors()),
            thresholds={"lfw": {"sha256": "0", "impostors": 3000, "flip": False, "far": {"0.001": {"distance": 1e-3}},
                                "probability": {"slope": -10.0, "offset": 2.0, "limit": 8.0,
                                                "covariance": [0.0, 0.0, 0.0]}}},
        )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def page():
    """The names that the Python of the page defines."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.S)
    names = {}
    exec(code, names)
    return names


@pytest.mark.parametrize("name", MODES)
def test_the_lines_of_the_page_give_the_embedding_and_the_verdict(models, page, name):
    faces = faces_of(6, photo=1)
    expected = TfliteEmbedder(models / f"{name}.tflite", read_sidecar(models / f"{name}.tflite").io)(faces)

    net = page["FaceNet"](str(models / f"{name}.tflite"))

    np.testing.assert_allclose([net.embed(face) for face in faces], expected, atol=1e-5)
    assert net.same_person(faces[0], faces[0]) and not net.same_person(faces[0], faces[1])
    ratio, _ = read_ratio(models / f"{name}.tflite", flip=False)
    distance = np.square(net.embed(faces[0]) - net.embed(faces[1])).sum()
    assert net.probability(faces[0], faces[1], prior=0.2) == pytest.approx(probability(ratio.at(distance), 0.2))


def test_the_sidecar_says_all_that_the_page_names(models):
    said = json.loads((models / "int8.tflite.json").read_text())

    assert said["comparison"] == {"normalise": True, "distance": "squared L2"}
    assert said["pixel_range"] == [0, 255] and said["pixel_scaling"]["std"] == [1, 1, 1]
    assert said["template_points"] == list(TEMPLATE_POINTS) and len(said["template"]) == 5
    first, last = said["tensors"]["input"], said["tensors"]["output"]
    assert (first["dtype"], first["scale"], first["zero_point"], first["shape"]) == (
        "int8",
        1.0,
        -128,
        [1, 112, 112, 3],
    )
    assert last["dtype"] == "int8" and last["scale"] > 0


@pytest.mark.parametrize("name", MODES)
def test_the_self_test_of_the_page_passes_and_names_a_mistake(models, page, name):
    net = page["FaceNet"](str(models / f"{name}.tflite"))

    assert net.self_test() == (net.facts["tensors"]["output"]["scale"] != 0)

    embed = net.embed
    net.embed = lambda crop: embed(crop[..., ::-1])
    with pytest.raises(ValueError, match=r"^cosine 0\.\d+\. Nearest: BGR for RGB \((1\.000|0\.99\d)\)\. Swap"):
        net.self_test()
