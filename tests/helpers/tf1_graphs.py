"""Frozen graphs as the systems of TensorFlow 1 write them: a tiny net of each kind, with random weights."""

from contextlib import contextmanager, nullcontext

import numpy as np
import tensorflow as tf

from facelib.runtimes.frozen_graph import save_graph

v1 = tf.compat.v1
SIZE = 8  # of the embedding


@contextmanager
def control_flow_of_tf1():
    """tf.cond writes Switch and Merge inside."""
    v1.disable_control_flow_v2()
    try:
        yield
    finally:
        v1.enable_control_flow_v2()


class Net:
    """The layers of one graph, and its random constants, read through Identity nodes with a colocation."""

    def __init__(self, seed=0):
        self.rng = np.random.default_rng(seed)

    def weight(self, name, values):
        constant = tf.constant(np.asarray(values, np.float32), name=name)
        with v1.colocate_with(constant):
            return tf.identity(constant, f"{name}/read")

    def normal(self, name, *shape):
        return self.weight(name, self.rng.normal(size=shape) / np.sqrt(np.prod(shape[:-1])))

    def positive(self, name, channels):
        return self.weight(name, self.rng.uniform(0.5, 1.5, channels))

    def convolution(self, x, channels, name, size=3, stride=2):
        kernel = self.normal(f"{name}/weights", size, size, x.shape[-1], channels)
        return tf.nn.conv2d(x, kernel, stride, "SAME", name=f"{name}/Conv2D")

    def slopes_of_pixels(self, x, name):
        """PReLU as Keras 2 writes it, with a slope for each pixel and channel."""
        alpha = self.weight(f"{name}/alpha", self.rng.uniform(0, 0.4, x.shape[1:]))
        return tf.nn.relu(x) - alpha * tf.nn.relu(-x)

    def batch_norm(self, x, phase, name, old=False):
        """slim.batch_norm: the statistics of the batch or of the training, chosen by tf.cond."""
        channels = x.shape[-1]
        gamma, variance = self.positive(f"{name}/gamma", channels), self.positive(f"{name}/moving_variance", channels)
        beta, mean = self.normal(f"{name}/beta", 1, channels)[0], self.normal(f"{name}/moving_mean", 1, channels)[0]

        def trained():
            if old:
                return tf.raw_ops.FusedBatchNorm(
                    x=x, scale=gamma, offset=beta, mean=mean, variance=variance, epsilon=1e-3, is_training=False
                ).y
            return v1.nn.fused_batch_norm(x, gamma, beta, mean, variance, epsilon=1e-3, is_training=False)[0]

        def batch():
            return v1.nn.fused_batch_norm(x, gamma, beta, epsilon=1e-3, is_training=True)[0]

        return tf.cond(phase, batch, trained, name=f"{name}/cond")


def flatten(x):
    """slim.flatten: the number of faces is read from the shape."""
    return tf.reshape(x, tf.stack([tf.shape(x)[0], -1]))


def freeze_linzmin(path, size=(112, 112)):
    """S0: input_1, BGR and scaled by its user, a slope for each pixel, embeddings/l2_normalize. Returns the path."""
    net = Net()
    with tf.Graph().as_default() as graph:
        x = v1.placeholder(tf.float32, [None, *size, 3], "input_1")
        for layer, stride in enumerate((4, 4)):
            x = net.convolution(x, 8, f"conv_{layer}", 5, stride)
            x = tf.nn.bias_add(x, net.normal(f"conv_{layer}/biases", 1, 8)[0])
            x = net.slopes_of_pixels(x, f"p_re_lu_{layer}")
        x = tf.reduce_mean(x, [1, 2], name="pool")
        x = tf.identity(tf.matmul(x, net.normal("dense/kernel", 8, SIZE)), "prelogits")
        tf.nn.l2_normalize(x, 1, 1e-10, name="embeddings/l2_normalize")
    save_graph(graph.as_graph_def(), path)
    return path


def freeze_sirius(path, shape=(None, 112, 112, 3), default=False, old=False, functions=False):
    """S1: img_inputs, phase_train, batch normalisation in tf.cond, embeddings. Returns the path.

    Args:
        path: of the file.
        shape: of the input; None for one that is not known.
        default: value of phase_train, or None for a Placeholder that needs one.
        old: whether the graph has the operations of TensorFlow 1.4.
        functions: whether tf.cond calls functions, as in TensorFlow 2.
    """
    net = Net(1)
    with tf.Graph().as_default() as graph, nullcontext() if functions else control_flow_of_tf1():
        images = v1.placeholder(tf.float32, [None, 112, 112, 3], "img_inputs")
        phase = (
            v1.placeholder(tf.bool, name="phase_train")
            if default is None
            else v1.placeholder_with_default(tf.constant(default), None, "phase_train")
        )
        keep = v1.placeholder_with_default(tf.constant(1.0), [], "keep_probability")
        x = tf.identity(images, "input")
        x = net.batch_norm(net.convolution(x, 8, "c0", 5, 4), phase, "c0/BatchNorm", old)
        alphas = net.weight("c0/alphas", net.rng.uniform(0, 0.4, 8))
        x = tf.nn.relu(x) + alphas * (x - tf.abs(x)) * 0.5
        x = tf.nn.relu6(net.batch_norm(net.convolution(x, 8, "c1", 5, 4), phase, "c1/BatchNorm", old))
        kernel = net.normal("gd/depthwise_weights", 7, 7, 8, 1)
        x = tf.nn.depthwise_conv2d(x, kernel, [1, 1, 1, 1], "VALID", name="gd/depthwise")
        x = net.batch_norm(x, phase, "gd/BatchNorm", old)
        x = tf.cond(phase, lambda: x * tf.floor(keep + tf.random.uniform(tf.shape(x))) / keep, lambda: tf.identity(x))
        x = net.convolution(x, SIZE, "last", 1, 1)
        x = tf.squeeze(x, [1, 2], "SpatialSqueeze") if old else flatten(x)
        tf.nn.l2_normalize(x, 1, 1e-10, name="embeddings")
    definition = graph.as_graph_def()
    definition.node[0].attr["shape"].shape.CopyFrom(tf.TensorShape(shape).as_proto())
    save_graph(definition, path)
    return path


def run_as_it_is(path, pixels, source, target, feeds=None):
    """The graph in a file on `pixels`, by TensorFlow alone; `feeds` {node name: value} of other inputs."""
    with tf.Graph().as_default() as graph:
        tf.import_graph_def(v1.GraphDef.FromString(path.read_bytes()), name="")
        with v1.Session(graph=graph) as session:
            values = {f"{name}:0": value for name, value in (feeds or {}).items()}
            return session.run(f"{target}:0", {f"{source}:0": pixels, **values})
