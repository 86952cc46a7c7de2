"""Importing ONNX weights, against files that onnx.helper wrote and onnx's own reference evaluator runs."""

from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest

import import_model
from facelib.data.synthetic.faces import synthetic_face
from facelib.errors import FaceError
from facelib.importing.from_onnx import recognise
from facelib.model_input import PIXEL_SCALINGS
from facelib.models.onnx_import.reader import load_onnx
from facelib.models.onnx_import.steps import list_steps
from facelib.runtimes.keras_h5 import load_model
from facelib.sidecar import check_sidecar
from facelib.unit_vectors import row_cosines
from tests.helpers.onnx_writer import OnnxWriter

ROOT = Path(__file__).parents[2]
PRETRAINED = ROOT.parent / "shared" / "data" / "pretrained" / "mobilefacenet_relu6_128.onnx"
GROUPS = ((2, 8, 5, 2), (4, 16, 1, 2), (2, 16, 6, 1), (4, 16, 1, 2), (2, 16, 2, 1))  # width 1/8


class Mobile(OnnxWriter):
    """A small MobileFaceNet. `pads`: of its strided convolutions."""

    def __init__(self, activation, pads, folded):
        super().__init__(activation, folded)
        self.pads = pads

    def stem(self):
        return self.conv(3, 8, 3, 2, pads=self.pads).conv(8, 8, 3, groups=8)

    def network(self, separable=False, shortcuts=True, expand_last=512 // 8, embedding_size=12):
        self.stem()
        if separable:
            self.conv(8, 8, 1)
        channels = 8
        for expansion, out, repeats, stride in GROUPS:
            for block in range(repeats):
                step = stride if block == 0 else 1
                pads = self.pads if step == 2 else None
                self.inverted(channels, expansion * channels, out, step, pads, shortcuts)
                channels = out
        self.conv(channels, expand_last, 1)
        self.conv(expand_last, expand_last, 7, groups=expand_last, linear=True)
        self.conv(expand_last, embedding_size, 1, linear=True)
        self.add("Flatten", self.at)
        return self


def run_onnx(path, face, mean, std):
    from onnx.reference import ReferenceEvaluator

    fed = ((face.astype(np.float32) - mean) / std).transpose(2, 0, 1)[None]
    return ReferenceEvaluator(onnx.load(path)).run(None, {"input0": fed})[0].reshape(-1)


@pytest.mark.parametrize(
    "activation, pads, folded, separable",
    [
        pytest.param("prelu", [0, 0, 1, 1], False, False, marks=pytest.mark.slow),
        ("relu6", [1, 1, 1, 1], True, True),
        pytest.param("leaky_relu", [1, 1, 1, 1], False, False, marks=pytest.mark.slow),
        pytest.param("relu", [0, 0, 1, 1], True, False, marks=pytest.mark.slow),
    ],
)
def test_the_import_gives_what_the_onnx_file_gives(tmp_path, activation, pads, folded, separable):
    writer = Mobile(activation, pads, folded).network(separable)
    source = writer.save(tmp_path / "net.onnx")

    words = [str(source), str(tmp_path / "out.h5"), "--pixels", "pm1", "--licence", "MIT"]
    assert import_model.main(words) == 0

    face = synthetic_face(77, 1, 2)  # not one of those the importer itself looked at
    expected = run_onnx(source, face, 127.5, 128.0)
    model = load_model(tmp_path / "out.h5")
    received = model(face[None].astype("float32"), training=False).numpy()[0]
    np.testing.assert_allclose(received, expected, atol=1e-4 * np.abs(expected).max())
    sidecar = check_sidecar(tmp_path / "out.h5")
    assert sidecar.licence == "MIT" and sidecar.io.pixels == "raw" and sidecar.io.embedding_size == 12
    assert sidecar.rest["made_from"]["path"] == "net.onnx"
    assert sidecar.rest["imported"]["normalisations_folded"] == (50 + separable if folded else 0)
    if not folded:  # what the net was trained to see is kept for training on
        _, _, _, mean, variance = (writer.stored(name) for name in writer.nodes[1].input)
        norm = model.get_layer("stem_conv_bn")
        np.testing.assert_allclose(norm.moving_mean.numpy(), mean, rtol=1e-5)
        np.testing.assert_allclose(norm.moving_variance.numpy(), variance + 1e-5, rtol=1e-5)


@pytest.mark.slow
def test_a_net_of_bgr_takes_rgb(tmp_path):
    source = Mobile("prelu", [0, 0, 1, 1], False).network().save(tmp_path / "net.onnx")

    words = [str(source), str(tmp_path / "out.h5"), "--pixels", "imagenet", "--color", "bgr"]
    assert import_model.main(words) == 0

    face = synthetic_face(77, 1, 2)
    mean, std = ((np.array(values)[::-1]) for values in PIXEL_SCALINGS["imagenet"])
    expected = run_onnx(source, face[..., ::-1], mean.astype(np.float32), std.astype(np.float32))
    received = load_model(tmp_path / "out.h5")(face[None].astype("float32"), training=False).numpy()[0]
    np.testing.assert_allclose(received, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.slow
def test_relu_and_relu6_may_mix_and_survive_saving(tmp_path):
    writer = Mobile("relu6", [1, 1, 1, 1], True).network(separable=True)
    mixed = [node for node in writer.nodes if node.op_type == "Clip"][1]
    mixed.op_type = "Relu"
    del mixed.input[1:]
    source = writer.save(tmp_path / "net.onnx")

    assert import_model.main([str(source), str(tmp_path / "out.h5"), "--pixels", "raw"]) == 0

    model = load_model(tmp_path / "out.h5")
    assert model.get_layer("stem_dw_act").max_value is None and model.get_layer("stem_conv_act").max_value == 6


@pytest.mark.slow
def test_with_faces_training_begins_where_inference_is(tmp_path):
    source = Mobile("prelu", [1] * 4, folded=True).network().save(tmp_path / "net.onnx")
    faces = np.stack([synthetic_face(77, identity, 0) for identity in range(20)])
    for number, face in enumerate(faces):
        cv2.imwrite(str(tmp_path / f"{number}.png"), face[..., ::-1])
    assert import_model.main([str(source), str(tmp_path / "plain.h5")]) == 0
    assert import_model.main([str(source), str(tmp_path / "out.h5"), "--faces", str(tmp_path)]) == 0

    def in_both_modes(name):
        model = load_model(tmp_path / name)  # in training every normalisation takes the statistics of these 20 faces
        return (np.array(model(faces.astype("float32"), training=mode)) for mode in (False, True))

    inference, training = in_both_modes("out.h5")
    plain, jumped = in_both_modes("plain.h5")
    np.testing.assert_allclose(inference, plain, atol=1e-4 * np.abs(plain).max())
    np.testing.assert_allclose(training, inference, atol=0.01 * np.abs(inference).max())
    assert row_cosines(jumped, plain).mean() < 0.9
    assert check_sidecar(tmp_path / "out.h5").rest["imported"]["statistics"]["count"] == 20


@pytest.mark.parametrize(
    "build, complaint",
    [
        (lambda: Mobile("relu", [1] * 4, True).network(expand_last=48), "head_conv"),
        (lambda: Mobile("relu", [1] * 4, True).network(shortcuts=False), "no shortcut, but one is expected"),
        (lambda: Mobile("relu", [1, 1, 0, 0], True).network(), r"pads \[1, 1, 0, 0\], but \[0, 0, 1, 1\]"),
    ],
)
def test_another_architecture_is_named_by_its_first_layer_that_does_not_fit(tmp_path, build, complaint):
    source = build().save(tmp_path / "net.onnx")

    with pytest.raises(FaceError, match=complaint) as caught:
        import_model.main([str(source), str(tmp_path / "out.h5")])

    assert "\n" not in str(caught.value) and "does not match mobilefacenet" in str(caught.value)
    assert not (tmp_path / "out.h5").exists()


def test_a_short_chain_and_a_foreign_operation_are_refused(tmp_path):
    writer = Mobile("relu", [1] * 4, True).stem()
    with pytest.raises(FaceError, match="2 layers, mobilefacenet has 50"):
        import_model.main([str(writer.save(tmp_path / "a.onnx")), str(tmp_path / "out.h5")])

    writer.add("Sigmoid", writer.at)
    with pytest.raises(FaceError, match=r"'Sigmoid'.*a different architecture"):
        import_model.main([str(writer.save(tmp_path / "b.onnx")), str(tmp_path / "out.h5")])


def test_layers_of_the_right_shape_in_another_order_are_caught_by_running_both(tmp_path):
    writer = Mobile("relu", [1] * 4, True).network()
    add = [node for node in writer.nodes if node.op_type == "Add"][1]
    add.input[0] = add.input[1]  # twice the block instead of block plus shortcut
    with pytest.raises(FaceError, match="connected in a different way"):
        import_model.main([str(writer.save(tmp_path / "net.onnx")), str(tmp_path / "out.h5")])


@pytest.mark.parametrize("content", [b"no onnx at all", b"\x08\x08", b""])
def test_a_file_that_is_no_onnx_model_is_one_clear_line(tmp_path, content):
    (tmp_path / "x.onnx").write_bytes(content)
    with pytest.raises(FaceError, match=r"x\.onnx"):
        import_model.main([str(tmp_path / "x.onnx"), str(tmp_path / "out.h5")])


@pytest.mark.needs_data(PRETRAINED)
def test_the_published_model_is_recognised():
    steps = list_steps(load_onnx(PRETRAINED), PRETRAINED)
    net = recognise(steps, PRETRAINED)
    assert len(steps) == 51 and net.name == "mobilefacenet" and net.pixels == "imagenet"
    assert net.options["stem"] == "separable" and net.options["padding"] == "symmetric"
    assert sum(step.is_added for step in steps) == 12 + 3  # and the three results that a row of shortcuts begins with
