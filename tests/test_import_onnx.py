"""Importing ONNX weights, against files that onnx.helper wrote and onnx's own reference evaluator runs."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tensorflow")
import onnx
from onnx import TensorProto, helper, numpy_helper

import import_onnx
from facelib.cli import FaceError
from facelib.keras_files import load_model
from facelib.onnx_graph import list_convolutions, load_onnx
from facelib.sidecar import check_sidecar
from facelib.toy_faces import toy_face

ROOT = Path(__file__).parents[1]
PRETRAINED = ROOT.parent / "shared" / "data" / "pretrained" / "mobilefacenet_relu6_128.onnx"
GROUPS = ((2, 8, 5, 2), (4, 16, 1, 2), (2, 16, 6, 1), (4, 16, 1, 2), (2, 16, 2, 1))  # width 1/8


class OnnxWriter:
    """Writes a small MobileFaceNet as ONNX, node by node, with explicit or folded batch normalisation."""

    def __init__(self, activation, pads, folded, seed=0):
        self.activation, self.pads, self.folded = activation, pads, folded
        self.rng = np.random.default_rng(seed)
        self.nodes, self.constants, self.at = [], [], "input0"

    def add(self, op, *inputs, **attributes):
        name = f"{op}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, [*inputs], [name], name=name, **attributes))
        self.at = name
        return name

    def constant(self, value):
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, np.float32), name))
        return name

    def conv(self, out, kernel, stride=1, groups=1, linear=False, in_channels=None):
        shape = (out, (in_channels or out) // groups, kernel, kernel)
        weights = self.rng.normal(0, 1 / np.sqrt(np.prod(shape[1:])), shape)
        pads = {1: [0] * 4, 7: [0] * 4}.get(kernel) or (self.pads if stride == 2 else [1] * 4)
        words = {"kernel_shape": [kernel, kernel], "strides": [stride] * 2, "pads": pads, "group": groups}
        inputs = [self.at, self.constant(weights)]
        if self.folded:
            inputs.append(self.constant(self.rng.normal(0, 0.2, out)))
        self.add("Conv", *inputs, **words)
        if not self.folded:
            draws = (self.rng.uniform(0.5, 2, out), self.rng.normal(0, 0.2, out), self.rng.normal(0, 0.2, out),
                     self.rng.uniform(1e-4, 2, out))  # fmt: skip
            self.add("BatchNormalization", self.at, *(self.constant(draw) for draw in draws), epsilon=1e-5)
        if not linear:
            self.act(out)

    def act(self, channels):
        if self.activation == "relu6":
            self.add("Clip", self.at, self.constant(0.0), self.constant(6.0))
        elif self.activation == "prelu":
            slopes = self.rng.uniform(-0.2, 1, (channels, 1, 1))
            self.add("PRelu", self.at, self.constant(slopes))
        elif self.activation == "leaky_relu":
            self.add("LeakyRelu", self.at, alpha=0.2)
        else:
            self.add("Relu", self.at)

    def network(self, separable=False, shortcuts=True, expand_last=512 // 8, embedding_size=12):
        self.conv(8, 3, 2, in_channels=3)
        self.conv(8, 3, groups=8)
        if separable:
            self.conv(8, 1)
        channels = 8
        for expansion, out, repeats, stride in GROUPS:
            for block in range(repeats):
                start = self.at
                self.conv(expansion * channels, 1, in_channels=channels)
                step = stride if block == 0 else 1
                self.conv(expansion * channels, 3, step, groups=expansion * channels)
                self.conv(out, 1, in_channels=expansion * channels, linear=True)
                if step == 1 and channels == out and shortcuts:
                    self.add("Add", start, self.at)
                channels = out
        self.conv(expand_last, 1, in_channels=channels)
        self.conv(expand_last, 7, groups=expand_last, linear=True)
        self.conv(embedding_size, 1, in_channels=expand_last, linear=True)
        self.add("Flatten", self.at)
        return self

    def save(self, path):
        faces = helper.make_tensor_value_info("input0", TensorProto.FLOAT, [1, 3, 112, 112])
        vectors = helper.make_tensor_value_info(self.at, TensorProto.FLOAT, ["n", "d"])
        graph = helper.make_graph(self.nodes, "net", [faces], [vectors], self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        onnx.save(model, path)
        return path


def run_onnx(path, face, mean, std):
    from onnx.reference import ReferenceEvaluator

    fed = ((face.astype(np.float32) - mean) / std).transpose(2, 0, 1)[None]
    return ReferenceEvaluator(onnx.load(path)).run(None, {"input0": fed})[0].reshape(-1)


@pytest.mark.parametrize(
    "activation, pads, folded, separable",
    [
        ("prelu", [0, 0, 1, 1], False, False),
        ("relu6", [1, 1, 1, 1], True, True),
        ("leaky_relu", [1, 1, 1, 1], False, False),
        ("relu", [0, 0, 1, 1], True, False),
    ],
)
def test_the_import_gives_what_the_onnx_file_gives(tmp_path, activation, pads, folded, separable):
    source = OnnxWriter(activation, pads, folded).network(separable).save(tmp_path / "net.onnx")

    words = [str(source), str(tmp_path / "out.h5"), "--pixels", "pm1", "--licence", "MIT"]
    assert import_onnx.main(words) == 0

    face = toy_face(77, 1, 2)  # not one of those the importer itself looked at
    expected = run_onnx(source, face, 127.5, 128.0)
    received = load_model(tmp_path / "out.h5")(face[None].astype("float32"), training=False).numpy()[0]
    np.testing.assert_allclose(received, expected, atol=1e-4 * np.abs(expected).max())
    sidecar = check_sidecar(tmp_path / "out.h5")
    assert sidecar.licence == "MIT" and sidecar.io.pixels == "raw" and sidecar.io.embedding_size == 12
    assert sidecar.rest["made_from"]["path"] == "net.onnx"


def test_relu_and_relu6_may_mix_and_survive_saving(tmp_path):
    writer = OnnxWriter("relu6", [1, 1, 1, 1], True).network(separable=True)
    mixed = [node for node in writer.nodes if node.op_type == "Clip"][1]
    mixed.op_type = "Relu"
    del mixed.input[1:]
    source = writer.save(tmp_path / "net.onnx")

    assert import_onnx.main([str(source), str(tmp_path / "out.h5"), "--pixels", "raw"]) == 0

    model = load_model(tmp_path / "out.h5")
    assert model.get_layer("stem_dw_act").max_value is None and model.get_layer("stem_conv_act").max_value == 6


@pytest.mark.parametrize(
    "build, complaint",
    [
        (lambda: OnnxWriter("relu", [1] * 4, True).network(expand_last=48), "head_conv"),
        (lambda: OnnxWriter("relu", [1] * 4, True).network(shortcuts=False), "no shortcut where one belongs"),
        (lambda: OnnxWriter("relu", [1, 1, 0, 0], True).network(), r"pads \[1, 1, 0, 0\] where \[0, 0, 1, 1\]"),
    ],
)
def test_another_architecture_is_named_by_its_first_layer_that_does_not_fit(tmp_path, build, complaint):
    source = build().save(tmp_path / "net.onnx")

    with pytest.raises(FaceError, match=complaint) as caught:
        import_onnx.main([str(source), str(tmp_path / "out.h5")])

    assert "\n" not in str(caught.value) and "no MobileFaceNet" in str(caught.value)
    assert not (tmp_path / "out.h5").exists()


def test_a_short_chain_a_foreign_operation_and_steep_slopes_are_refused(tmp_path):
    writer = OnnxWriter("relu", [1] * 4, True)
    writer.conv(8, 3, 2, in_channels=3)
    writer.conv(8, 3, groups=8)
    with pytest.raises(FaceError, match="2 convolutions where MobileFaceNet has 50"):
        import_onnx.main([str(writer.save(tmp_path / "a.onnx")), str(tmp_path / "out.h5")])

    writer.add("Sigmoid", writer.at)
    with pytest.raises(FaceError, match=r"'Sigmoid'.*another architecture"):
        import_onnx.main([str(writer.save(tmp_path / "b.onnx")), str(tmp_path / "out.h5")])

    steep = OnnxWriter("prelu", [1] * 4, True).network()
    slope = next(node for node in steep.nodes if node.op_type == "PRelu").input[1]
    place = [constant.name for constant in steep.constants].index(slope)
    steep.constants[place].CopyFrom(numpy_helper.from_array(np.full((8, 1, 1), 1.25, np.float32), slope))
    with pytest.raises(FaceError, match=r"at most 1.*1\.25"):
        import_onnx.main([str(steep.save(tmp_path / "c.onnx")), str(tmp_path / "out.h5")])


def test_layers_of_the_right_shape_in_another_order_are_caught_by_running_both(tmp_path):
    writer = OnnxWriter("relu", [1] * 4, True).network()
    add = [node for node in writer.nodes if node.op_type == "Add"][1]
    add.input[0] = add.input[1]  # twice the block instead of block plus shortcut
    with pytest.raises(FaceError, match="connected in another way"):
        import_onnx.main([str(writer.save(tmp_path / "net.onnx")), str(tmp_path / "out.h5")])


@pytest.mark.parametrize("content", [b"no onnx at all", b"\x08\x08", b""])
def test_a_file_that_is_no_onnx_model_is_one_clear_line(tmp_path, content):
    (tmp_path / "x.onnx").write_bytes(content)
    with pytest.raises(FaceError, match=r"x\.onnx"):
        import_onnx.main([str(tmp_path / "x.onnx"), str(tmp_path / "out.h5")])


@pytest.mark.skipif(not PRETRAINED.is_file(), reason="needs ../shared/data")
def test_the_published_model_is_recognised():
    found = list_convolutions(load_onnx(PRETRAINED), PRETRAINED)
    assert len(found) == 51 and import_onnx.is_separable(found)
    assert import_onnx.guess_pixels(found) == "imagenet"
    assert sum(conv.is_added for conv in found) == 12
