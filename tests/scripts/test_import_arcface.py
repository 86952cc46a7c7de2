"""Importing InsightFace's nets: graphs written after arcface_torch's definition, run by ONNX Runtime.

Structure after deepinsight/insightface, recognition/arcface_torch/backbones (iresnet.py, mobilefacenet.py) and what
torch.onnx.export 2.13 makes of it: convolutions that took the normalisation after them, or did not; normalisations
that stand alone before a convolution; a fully connected layer as Gemm or MatMul, a normalisation after it or in it.
"""

import json

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, numpy_helper

import import_model
from facelib.errors import FaceError
from facelib.importing.from_onnx import recognise
from facelib.models.onnx_import.reader import load_onnx
from facelib.models.onnx_import.rewrites import flatten_slopes
from facelib.models.onnx_import.steps import list_steps
from facelib.runtimes.keras_h5 import load_model
from facelib.sidecar import check_sidecar, sha256_of
from tests.helpers.onnx_writer import OnnxWriter
from tests.helpers.slow import slow_unless_quick

SIZE = (48, 32)  # not square: height and width of the last map, 3 and 2, must not change places
SMALL = (4, 8, 16, 32)  # channels, where the number of layers alone matters
DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 14, 3), 100: (3, 13, 30, 3)}


class Arcface(OnnxWriter):
    """`iresnet` and `mbf` for small faces. Slopes go up to `max_slope`."""

    def __init__(self, folded, max_slope=0.99):
        super().__init__("prelu", folded, max_slope=max_slope, size=SIZE)

    def iresnet(self, repeats=(2, 2, 2, 2), channels=(64, 128, 256, 512), embedding_size=16, without=None):
        inputs = channels[0]
        self.conv(3, inputs, 3)
        for group, (out, count) in enumerate(zip(channels, repeats, strict=True)):
            for block in range(count):
                self._block(inputs, out, 2 if block == 0 else 1, is_plain=(group, block) == without)
                inputs = out
        self.norm(inputs)
        self.add("Flatten", self.at)
        weights = self.rng.normal(0, 0.02, (embedding_size, inputs * 3 * 2))
        self.add("Gemm", self.at, self.constant(weights), self.constant(self.rng.normal(size=embedding_size)), transB=1)
        self.norm(embedding_size)
        return self

    def _block(self, inputs, channels, stride, is_plain):
        start = self.at
        if not is_plain:
            self.norm(inputs)
        self.conv(inputs, channels, 3).conv(channels, channels, 3, stride, linear=True)
        way, self.at = self.at, start
        if stride == 2:
            self.conv(inputs, channels, 1, stride, linear=True)
        self.add("Add", way, self.at)

    def mbf(self, middle=128, embedding_size=16):
        self.conv(3, 128, 3, 2).conv(128, 128, 3, groups=64)
        for inputs, out, first, others, count in (
            (128, 128, 128, middle, 4), (128, 256, 256, 256, 6), (256, 256, 512, 256, 2)
        ):  # fmt: skip
            self.inverted(inputs, first, out, 2)
            for _ in range(count):
                self.inverted(out, others, out, 1)
        self.conv(256, 512, 1)
        weights = self.rng.normal(0, 0.4, (512, 1, 3, 2))  # the map of a 112x112 face is 7x7
        bias = [self.constant(self.rng.normal(size=512))] if self.folded else []
        self.add("Conv", self.at, self.constant(weights), *bias, group=512, kernel_shape=[3, 2])
        if not self.folded:
            self.norm(512)
        self.add("Reshape", self.at, self.constant([1, -1], np.int64))
        weights = self.constant(self.rng.normal(0, 0.05, (512, embedding_size)))
        if self.folded:  # by the dynamo exporter, which has Gemm here
            self.add("Gemm", self.at, weights, self.constant(self.rng.normal(size=embedding_size)))
        else:
            self.add("MatMul", self.at, weights)
            self.norm(embedding_size)
        return self


def import_file(source, out, *flags):
    assert import_model.main([str(source), str(out), *flags]) == 0
    return load_model(out)


def assert_same_outputs(model, source):
    """On three faces that the importer did not see, fed as arcface_torch feeds them: (x / 255 - 0.5) / 0.5."""
    faces = np.random.default_rng(5).integers(0, 256, (3, *SIZE, 3), np.uint8)
    session = onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"])
    fed = ((faces / 255 - 0.5) / 0.5).astype(np.float32).transpose(0, 3, 1, 2)
    expected = np.concatenate([session.run(None, {"input0": face[None]})[0] for face in fed])
    received = model(faces.astype("float32"), training=False).numpy()
    assert expected.std(axis=0).min() > 1e-3 * np.abs(expected).max()  # the faces matter to every output
    np.testing.assert_allclose(received, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize(
    "net, folded, layers",
    [
        ("iresnet", True, 31),
        pytest.param("iresnet", False, 31, marks=pytest.mark.slow),
        pytest.param("mbf", False, 50, marks=pytest.mark.slow),
    ],
)
def test_the_import_gives_what_onnx_runtime_gives(tmp_path, net, folded, layers):
    source = getattr(Arcface(folded), net)().save(tmp_path / "net.onnx")

    model = import_file(source, tmp_path / "out.h5")

    assert_same_outputs(model, source)
    sidecar = check_sidecar(tmp_path / "out.h5")
    assert sidecar.io.size == SIZE and sidecar.io.embedding_size == 16 and sidecar.io.pixels == "raw"
    said = sidecar.rest["imported"]
    assert (said["backbone"], said["layers"]) == ({"iresnet": "iresnet18"}.get(net, net), layers)
    assert said["pixels"] == "pm1_exact" and said["slopes_rewritten"] == 0


@pytest.mark.parametrize("net, folded", slow_unless_quick([("iresnet", False), ("mbf", True)], ()))
def test_slopes_above_1_become_slopes_below_1_of_the_same_function(tmp_path, net, folded):
    source = getattr(Arcface(folded, max_slope=3.0), net)().save(tmp_path / "net.onnx")

    model = import_file(source, tmp_path / "out.h5")

    slopes = np.concatenate([layer.alpha.numpy() for layer in model.layers if layer.name.endswith("_act")])
    steep = json.loads((tmp_path / "out.h5.json").read_text())["imported"]["slopes_rewritten"]
    assert slopes.max() <= 1 and steep > len(slopes) / 2
    assert_same_outputs(model, source)


@pytest.mark.slow
def test_a_model_in_float16_is_imported(tmp_path):
    """PyTorch writes it from net.half(): weights, input and output in float16."""
    source = Arcface(folded=True).mbf().save(tmp_path / "net.onnx")
    model = onnx.load(source)
    for tensor in model.graph.initializer:
        value = numpy_helper.to_array(tensor)
        if value.dtype == np.float32:
            tensor.CopyFrom(numpy_helper.from_array(value.astype(np.float16), tensor.name))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    onnx.save(model, tmp_path / "half.onnx")

    half, full = (import_file(tmp_path / name, tmp_path / f"{name}.h5") for name in ("half.onnx", "net.onnx"))

    faces = np.random.default_rng(5).integers(0, 256, (3, *SIZE, 3)).astype("float32")
    first, second = (net(faces, training=False).numpy() for net in (half, full))
    np.testing.assert_allclose(first, second, atol=0.01 * np.abs(second).max())


def test_a_steep_slope_that_a_sum_takes_is_refused(tmp_path):
    writer = Arcface(True, max_slope=3.0).conv(3, 8, 3)
    start = writer.at
    writer.conv(8, 8, 3, linear=True)
    writer.add("Add", start, writer.at)
    path = writer.save(tmp_path / "net.onnx")

    with pytest.raises(FaceError, match=r"at most 1 here.*'Conv_0', where a shortcut begins"):
        flatten_slopes(list_steps(load_onnx(path), path), path)


def test_a_shortcut_may_stand_before_its_block_in_the_file(tmp_path):
    writer = Arcface(True).iresnet(channels=SMALL)
    path = writer.save(tmp_path / "net.onnx")
    steps = list_steps(load_onnx(path), path)

    short = next(node for node in writer.nodes if is_1x1(node))
    writer.nodes.remove(short)
    writer.nodes.insert(2, short)  # right after the stem's activation, which it takes

    writer.save(path)
    assert [step.name for step in list_steps(load_onnx(path), path)] == [step.name for step in steps]


def is_1x1(node):
    return any(item.name == "kernel_shape" and list(item.ints) == [1, 1] for item in node.attribute)


@pytest.mark.slow
def test_weights_in_a_file_beside_the_model_are_read_and_recorded(tmp_path):
    source = Arcface(True).mbf().save(tmp_path / "net.onnx", save_as_external_data=True, location="net.onnx.data")

    assert_same_outputs(import_file(source, tmp_path / "out.h5"), source)

    said = check_sidecar(tmp_path / "out.h5").rest["imported"]["weight_files"]
    assert said == {"net.onnx.data": sha256_of(tmp_path / "net.onnx.data")}
    (tmp_path / "net.onnx.data").unlink()
    with pytest.raises(FaceError, match=r"net\.onnx.*\.data file"):
        import_model.main([str(source), str(tmp_path / "again.h5")])


@pytest.mark.parametrize("depth", DEPTHS)
def test_the_depth_of_an_iresnet_is_that_of_its_convolutions(tmp_path, depth):
    path = Arcface(True).iresnet(DEPTHS[depth], SMALL, embedding_size=4).save(tmp_path / "net.onnx")

    net = recognise(list_steps(load_onnx(path), path), path)

    assert net.name == f"iresnet{depth}" and net.options == {"embedding_size": 4, "activation": "prelu"}


@pytest.mark.parametrize(
    "write, complaint",
    [
        (
            lambda: Arcface(True).iresnet((1, 2, 2, 2), SMALL),
            r"15 3x3 convolutions, and an iresnet has 17 \(iresnet18\), 33",
        ),
        (
            lambda: Arcface(True).iresnet(without=(0, 1)),
            r"layer 6 of 30 \('Conv_\d+'\) is a 3x3 convolution, 64 to 64, stride 1; expected: a normalisation alone, "
            r"64 channels, in layer 'group1_block2_bn1'",
        ),
        (lambda: Arcface(True).mbf(middle=96), r"not match mbf: layer 6 .* 128 to 128.* 'group1_block1_expand'"),
    ],
)
def test_what_does_not_fit_is_named_in_one_line(tmp_path, write, complaint):
    source = write().save(tmp_path / "net.onnx")

    with pytest.raises(FaceError, match=complaint) as caught:
        import_model.main([str(source), str(tmp_path / "out.h5")])

    assert "\n" not in str(caught.value) and [path.name for path in tmp_path.iterdir()] == ["net.onnx"]


def test_a_damaged_file_is_read_or_refused_in_one_line(tmp_path):
    path = Arcface(False).iresnet(channels=SMALL).save(tmp_path / "net.onnx")
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    weights = sum(len(tensor.raw_data) for tensor in onnx.load(path).graph.initializer)
    assert weights > 0.9 * len(whole)  # so most changes that matter are near the nodes, which come first
    num_refused = 0

    for _ in range(300):
        damaged = bytearray(whole)
        damaged[rng.integers(len(whole) - weights)] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            list_steps(load_onnx(path), path)
        except FaceError as error:
            num_refused += "\n" not in str(error)

    assert num_refused > 100


def test_a_layer_that_does_not_fit_its_map_and_a_double_precision_file_are_refused(tmp_path):
    writer = Arcface(True).conv(3, 8, 3)
    writer.add("Flatten", writer.at)
    writer.add("Gemm", writer.at, writer.constant(np.ones((4, 100))), transB=1)
    path = writer.save(tmp_path / "net.onnx")
    with pytest.raises(FaceError, match=r"'Gemm_3' \(Gemm\), \[4, 100\], do not match a feature map of \[8, 48, 32\]"):
        import_model.main([str(path), str(tmp_path / "out.h5")])

    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    onnx.save(model, path)
    with pytest.raises(FaceError, match="one float input"):
        import_model.main([str(path), str(tmp_path / "out.h5")])
