"""Frozen graphs of TensorFlow 1 become nets of ours that train on: MobileFaceNets as sirius-ai writes them."""

import numpy as np
import pytest
import tensorflow as tf

import import_model
from facelib.errors import FaceError
from facelib.model_input import Io, to_model_input
from facelib.runtimes.frozen_graph import save_graph
from facelib.runtimes.keras_h5 import load_model
from facelib.sidecar import read_sidecar
from facelib.unit_vectors import normalize
from mobilefacenet import BOTTLENECKS
from tests.helpers.slow import slow_unless_quick
from tests.helpers.tf1_graphs import Net, control_flow_of_tf1, flatten, freeze_linzmin, run_as_it_is, v1

SIZE = (32, 48)
WIDTH = 8  # channels of the first convolution


class MobileFaceNet(Net):
    """The layers of a MobileFaceNet in slim; `form` of PReLU: 'sirius' | 'keras' | 'relu6'."""

    def __init__(self, phase, form):
        super().__init__(2)
        self.phase, self.form = phase, form

    def activation(self, x, name):
        if self.form == "relu6":
            return tf.nn.relu6(x)
        alphas = self.weight(f"{name}/alphas", self.rng.uniform(0, 0.9, x.shape[-1]))
        if self.form == "keras":
            return tf.nn.relu(x) - alphas * tf.nn.relu(-x)
        return tf.nn.relu(x) + alphas * (x - tf.abs(x)) * 0.5

    def layer(self, x, channels, name, size=1, stride=1, linear=False):
        x = self.batch_norm(self.convolution(x, channels, name, size, stride), self.phase, f"{name}/BatchNorm")
        return x if linear else self.activation(x, name)

    def depthwise(self, x, name, stride=1, size=(3, 3), padding="SAME", linear=False):
        kernel = self.weight(f"{name}/weights", self.rng.normal(size=(*size, x.shape[-1], 1)) / np.sqrt(np.prod(size)))
        x = tf.nn.depthwise_conv2d(x, kernel, [1, stride, stride, 1], padding, name=f"{name}/depthwise")
        x = self.batch_norm(x, self.phase, f"{name}/BatchNorm")
        return x if linear else self.activation(x, name)


def freeze_mobilefacenet(path, form="sirius", two_linear=True, residual=True):
    """A MobileFaceNet of an eighth of the width, 16 values, BGR. Returns the path."""
    with tf.Graph().as_default() as graph, control_flow_of_tf1():
        x = v1.placeholder(tf.float32, [None, *SIZE, 3], "img_inputs")
        net = MobileFaceNet(v1.placeholder_with_default(tf.constant(False), None, "phase_train"), form)
        x = net.depthwise(net.layer(x, WIDTH, "stem", 3, 2), "stem_dw")
        for group, (expansion, channels, repeats, stride) in enumerate(BOTTLENECKS):
            for block in range(repeats):
                name, start = f"group{group}_{block}", x
                x = net.layer(x, expansion * x.shape[-1], f"{name}/expand")
                x = net.depthwise(x, f"{name}/dw", stride if block == 0 else 1)
                x = net.layer(x, channels * WIDTH // 64, f"{name}/project", linear=True)
                if residual and start.shape[1:] == x.shape[1:]:
                    x = start + x
        x = net.layer(x, 512 * WIDTH // 64, "head")
        x = net.depthwise(x, "gdc", size=tuple(x.shape[1:3]), padding="VALID", linear=True)
        if two_linear:
            x = net.layer(x, 64, "linear", linear=True)
        x = net.layer(x, 16, "logits", linear=True)
        tf.nn.l2_normalize(flatten(x), 1, 1e-10, name="embeddings")
    save_graph(graph.as_graph_def(), path)
    return path


@pytest.mark.parametrize(
    ("form", "two_linear"),
    slow_unless_quick([("sirius", True), ("keras", False), ("relu6", False)], [("keras", False)]),
)
def test_a_frozen_mobilefacenet_becomes_ours(tmp_path, capsys, form, two_linear):
    pb = freeze_mobilefacenet(tmp_path / "frozen.pb", form, two_linear)

    assert import_model.main([str(pb), str(tmp_path / "net.h5"), "--color", "bgr", "--pixels", "pm1_exact"]) == 0

    faces = np.random.default_rng(0).integers(0, 256, (3, *SIZE, 3), np.uint8)
    fed = to_model_input(faces, Io(colour="bgr", pixels="pm1_exact", size=SIZE))
    expected = run_as_it_is(pb, fed, "img_inputs", "embeddings")
    received = load_model(tmp_path / "net.h5")(faces.astype("float32"), training=False).numpy()
    np.testing.assert_allclose(normalize(received), expected, atol=1e-5)
    out = capsys.readouterr().out
    assert 'backbone = "mobilefacenet"' in out and "folded" not in out  # the statistics are those of the graph
    assert read_sidecar(tmp_path / "net.h5").io == Io(size=SIZE, embedding_size=16)


@pytest.mark.slow
def test_a_slope_for_each_pixel_and_other_connections_are_one_line(tmp_path):
    for pb, match in (
        (freeze_linzmin(tmp_path / "s0.pb"), r"s0\.pb"),
        (freeze_mobilefacenet(tmp_path / "s1.pb", "relu6", residual=False), "no shortcut"),
    ):
        with pytest.raises(FaceError, match=match) as refusal:
            import_model.main([str(pb), str(tmp_path / "net.h5")])
        assert "\n" not in str(refusal.value) and not (tmp_path / "net.h5").exists()
