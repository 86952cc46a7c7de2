"""int8 TFLite: types of its edges, layers kept in float, and which layers lose most."""

from types import SimpleNamespace

import cv2
import keras
import numpy as np
import pytest

import pb_2_tflite
from facelib.data.synthetic.faces import encode_jpeg, synthetic_face
from facelib.errors import FaceError
from facelib.export.freeze import freeze
from facelib.export.layer_errors import LayerError, worst
from facelib.export.optimize import optimize
from facelib.export.tflite.convert import TfliteOptions, graph_to_tflite
from facelib.export.tflite.layer_errors import layer_errors
from facelib.model_input import Io
from facelib.models.blocks import Blocks, embedding_output
from facelib.models.layers import PixelScale
from facelib.runtimes.frozen_graph import is_of, layer_of, save_graph
from facelib.runtimes.tflite import Lite, TfliteEmbedder
from facelib.sidecar import check_sidecar, write_sidecar
from facelib.unit_vectors import row_cosines
from tests.helpers.random_weights import random_weights


def small_net():
    blocks = Blocks("relu", "same")
    faces = keras.Input((112, 112, 3), name="input_1")
    x = blocks.conv(PixelScale(name="pixel_scale")(faces), 8, 3, 4, "stem_conv")
    for group in (1, 2, 3):
        x = blocks.bottleneck(x, 2, 16, 2 if group < 3 else 1, f"group{group}")
    x = blocks.conv(blocks.global_depthwise(x, "gdc"), 16, 1, 1, "embedding_conv", linear=True)
    return keras.Model(faces, embedding_output(x), name="net")


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    """A small net as optimized.pb, and crops."""
    folder = tmp_path_factory.mktemp("net")
    keras.utils.set_random_seed(0)
    model = random_weights(small_net(), spread=0.3)
    graph = optimize(freeze(model), "input_1", "embeddings")
    save_graph(graph, folder / "optimized.pb")
    write_sidecar(folder / "optimized.pb", kind="optimized_pb", made_from=None, io=Io(embedding_size=16))
    (folder / "crops").mkdir()
    for k in range(24):
        (folder / "crops" / f"{k:02d}.jpg").write_bytes(encode_jpeg(synthetic_face(3, k, 0), 95))
    faces = np.stack([synthetic_face(4, k, 0) for k in range(6)])
    expected = model(faces.astype("float32"), training=False).numpy()
    return SimpleNamespace(folder=folder, graph=graph, faces=faces, expected=expected)


def run(net, name, *flags):
    out = net.folder / name
    words = [str(net.folder / "optimized.pb"), "--mode", "int8", "--calibration", str(net.folder / "crops")]
    assert pb_2_tflite.main([*words, "--out", str(out), *flags]) == 0
    return out


@pytest.mark.parametrize(
    "edges, source, zero_point, target",
    [
        ("uint8", np.uint8, 0, np.int8),
        pytest.param("int8", np.int8, -128, np.int8, marks=pytest.mark.slow),
        pytest.param("float", np.float32, 0, np.float32, marks=pytest.mark.slow),
    ],
)
def test_edges_have_the_requested_types_and_embeddings_stay_the_same(net, edges, source, zero_point, target):
    path = run(net, f"{edges}.tflite", "--edges", edges)

    lite = Lite(path)
    assert (lite.dtype, lite.output_dtype, lite.zero_point) == (source, target, zero_point)
    assert lite.scale == (0 if edges == "float" else 1)
    assert check_sidecar(path).io.dtype == np.dtype(source).name
    vectors = TfliteEmbedder(path, check_sidecar(path).io, 1)(net.faces)
    assert row_cosines(vectors, net.expected).min() > 0.9
    default = run(net, "default.tflite")
    np.testing.assert_allclose(vectors, TfliteEmbedder(default, Io(), 1)(net.faces), atol=2e-3)


@pytest.mark.slow
def test_named_layers_are_computed_in_float_and_no_other(net):
    path = run(net, "kept.tflite", "--keep-float", "group2", "gdc")

    lite = Lite(path)
    tensors = {tensor["index"]: tensor for tensor in lite._interpreter.get_tensor_details()}
    seen = set()
    for op in lite._interpreter._get_ops_details():
        output = tensors[op["outputs"][0]]
        if op["op_name"] in ("CONV_2D", "DEPTHWISE_CONV_2D"):
            is_float = output["dtype"] == np.float32
            assert is_float == is_of(output["name"], ("group2", "gdc")), output["name"]
            seen.add(is_float)
    assert seen == {True, False} and lite.takes_pixels
    assert check_sidecar(path).rest["keep_float"] == ["group2", "gdc"]
    most = TfliteEmbedder(run(net, "most.tflite", "--keep-float", "stem", "group", "gdc"), Io(), 1)(net.faces)
    whole = TfliteEmbedder(run(net, "whole.tflite"), Io(), 1)(net.faces)
    assert row_cosines(most, net.expected).mean() > row_cosines(whole, net.expected).mean()


def test_the_layers_that_lose_most_are_named_and_drawn(net, capsys):
    path = run(net, "named.tflite")

    said = capsys.readouterr().out
    layers = check_sidecar(path).rest["layers"]
    names = [layer["layer"] for layer in layers]
    assert [sum(name.startswith(part) for name in names) > 0 for part in ("stem", "group2_dw", "gdc")] == [True] * 3
    loser = max(layers, key=lambda layer: layer["lost"])
    assert f"  {loser['layer']} ({loser['operation']}) -{loser['lost']:.4f}" in said
    picture = cv2.imdecode(np.frombuffer((net.folder / "named.layers.png").read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape[1] > 500


def test_the_loss_of_a_layer_does_not_include_that_of_the_layers_before(net):
    """A float model against itself with one kernel spoiled: that layer loses, those after it show it."""
    full = graph_to_tflite(net.graph, Io(), (1, 112, 112, 3), TfliteOptions("float"))
    spoiled = type(net.graph)()
    spoiled.CopyFrom(net.graph)
    kernel = next(
        n
        for n in spoiled.node
        if n.op == "Const" and "group3_expand" in n.name and len(n.attr["value"].tensor.tensor_shape.dim) == 4
    )
    content = np.frombuffer(kernel.attr["value"].tensor.tensor_content, np.float32).copy()
    content[::2] *= -1
    kernel.attr["value"].tensor.tensor_content = content.tobytes()
    other = graph_to_tflite(spoiled, Io(), (1, 112, 112, 3), TfliteOptions("float"))

    errors = layer_errors(full, other, net.faces[:2].astype(np.float32))

    assert worst(errors, 1)[0].layer.startswith("group3_expand")
    place = errors.index(worst(errors, 1)[0])
    assert all(error.cosine > 0.999999 for error in errors[:place]) and errors[place + 1].cosine < 0.99


def test_the_worst_layers_are_those_that_lose_most_themselves():
    errors = [
        LayerError("a", "CONV_2D", 0.9, 0.1),
        LayerError("b", "ADD", 0.8, 0.01),
        LayerError("c", "ADD", 0.95, 0.2),
    ]

    assert [error.layer for error in worst(errors, 2)] == ["c", "a"]


@pytest.mark.parametrize(
    "name, layer",
    [
        ("net_1/stem_conv_1/Relu6;net_1/x/y", "stem_conv"),
        ("net/block_1/Add", "block_1"),
        ("embeddings", "embeddings"),
        ("conv_1/BiasAdd", "conv_1"),
    ],
)
def test_the_layer_of_a_tensor_is_its_innermost_scope(name, layer):
    assert layer_of(name) == layer


def test_bad_requests_are_one_line_and_leave_nothing(net):
    graph, crops = str(net.folder / "optimized.pb"), str(net.folder / "crops")
    out = net.folder / "bad.tflite"
    int8 = [graph, "--mode", "int8", "--calibration", crops, "--out", str(out)]
    cases = [
        ([*int8, "--keep-float", "grup2"], r"No layer name begins with 'grup2'. Similar names: .*group"),
        ([*int8, "--keep-float", "pixel_scale"], r"--keep-float lists such a layer"),
        ([graph, "--mode", "fp16", "--edges", "float"], "--mode int8"),
        ([graph, "--mode", "float", "--keep-float", "gdc"], "--mode int8"),
        ([*int8[:3], "--out", str(out)], "--calibration DATA"),
        ([*int8, "--num-calibration", "0"], "at least one crop"),
    ]
    for command, message in cases:
        with pytest.raises(FaceError, match=message) as caught:
            pb_2_tflite.main(command)
        assert "\n" not in str(caught.value)
    assert not out.exists()


def test_the_names_of_the_layers_that_lose_most_stand_in_a_legend(monkeypatch):
    """Beside the line the names of neighbours were written over each other."""
    import facelib.figure_style as figure_style
    from facelib.export.layer_errors import LayerError, draw

    canvases, finish = [], figure_style.finish
    monkeypatch.setattr(figure_style, "finish", lambda canvas: canvases.append(canvas) or finish(canvas))
    errors = [LayerError(f"layer_{i}", "CONV_2D", 1 - 0.001 * i, 0.01 * (20 <= i < 25)) for i in range(60)]
    assert draw(errors)[:4] == b"\x89PNG"
    (legend,), (ax,) = canvases[0].legends, canvases[0].axes
    assert [text.get_text() for text in legend.get_texts()] == [f"layer_{i} -0.0100" for i in range(20, 25)]
    boxes = [text.get_window_extent() for text in legend.get_texts()]
    assert not ax.texts and not any(a.overlaps(b) for k, a in enumerate(boxes) for b in boxes[:k])
