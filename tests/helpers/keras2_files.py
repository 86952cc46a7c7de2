"""Writes .h5 files as Keras 2 and the systems on it did, by hand, and runs the same net in plain TensorFlow."""

import json

import h5py
import numpy as np
import tensorflow as tf

INITIALIZER = {
    "class_name": "VarianceScaling",
    "config": {"scale": 1.0, "mode": "fan_avg", "distribution": "uniform", "seed": None, "dtype": "float32"},
}
L2 = {"class_name": "L1L2", "config": {"l1": 0.0, "l2": 5e-4}}
SIZE, DIM = 16, 6


class Keras2Net:
    """A face net in the words of Keras 2: a chain of layers with random weights; `expected` runs it.

    Args:
        slopes: of its PReLU: "channel" or "pixel".
    """

    def __init__(self, slopes="channel"):
        self.rng, self.layers, self.weights, self.at = np.random.default_rng(3), [], {}, None
        self.slopes = slopes
        self.add("InputLayer", "input_3", batch_input_shape=[None, SIZE, SIZE, 3], sparse=False, ragged=False)

    def add(self, kind, name, inbound=None, weights=(), **config):
        """Appends a layer that reads the one before, or `inbound`."""
        config = {"name": name, "trainable": True, "dtype": "float32", **config}
        reads = inbound if inbound is not None else [[[self.at, 0, 0, {}]]] if self.at else []
        self.layers.append({"class_name": kind, "name": name, "config": config, "inbound_nodes": reads})
        self.weights[name] = [np.asarray(value, np.float32) for _, value in weights]
        self.names = {**getattr(self, "names", {}), name: [f"{name}/{key}:0" for key, _ in weights]}
        self.at = name
        return self

    def normal(self, *shape, scale=0.4):
        return self.rng.normal(0, scale, shape).astype(np.float32)

    def conv(self, kind, name, **config):
        """A convolution with the keys that Keras 2 wrote."""
        return self.add(kind, name, padding="same", data_format="channels_last", dilation_rate=[1, 1], use_bias=False,
                        activation="linear", activity_regularizer=None, kernel_initializer=INITIALIZER,
                        kernel_regularizer=L2, kernel_constraint=None, bias_initializer=INITIALIZER,
                        bias_regularizer=None, bias_constraint=None, **config)  # fmt: skip

    def norm(self, name, channels, axis, kind="BatchNormalizationV1"):
        variance = 0.5 + self.rng.random(channels)
        weights = [("gamma", 1 + self.normal(channels)), ("beta", self.normal(channels)),
                   ("moving_mean", self.normal(channels)), ("moving_variance", variance)]  # fmt: skip
        return self.add(kind, name, weights=weights, axis=axis, momentum=0.99, epsilon=1e-5, center=True, scale=True,
                        gamma_initializer=INITIALIZER, gamma_regularizer=L2, fused=None, renorm=False)  # fmt: skip

    def body(self):
        """The layers up to the embedding, [N, DIM]."""
        self.conv("Conv2D", "conv", filters=4, kernel_size=[3, 3], strides=[2, 2], groups=1,
                  weights=[("kernel", self.normal(3, 3, 3, 4))])  # fmt: skip
        self.norm("bn", 4, [3])
        shape = (1, 1, 4) if self.slopes == "channel" else (SIZE // 2, SIZE // 2, 4)
        self.add("PReLU", "slopes", shared_axes=[1, 2] if self.slopes == "channel" else None,
                 alpha_initializer=INITIALIZER, weights=[("alpha", np.abs(self.normal(*shape)))])  # fmt: skip
        self.conv(
            "SeparableConv2D",
            "sep",
            filters=5,
            kernel_size=[3, 3],
            strides=[1, 1],
            depth_multiplier=1,
            depthwise_initializer=INITIALIZER,
            pointwise_regularizer=L2,
            weights=[("depthwise_kernel", self.normal(3, 3, 4, 1)), ("pointwise_kernel", self.normal(1, 1, 4, 5))],
        )
        self.add("Activation", "relu6", activation="relu6")
        self.conv(
            "DepthwiseConv2D",
            "dw",
            kernel_size=[3, 3],
            strides=[2, 2],
            depth_multiplier=1,
            groups=1,
            depthwise_initializer=INITIALIZER,
            weights=[("depthwise_kernel", self.normal(3, 3, 5, 1))],
        )
        self.add("LeakyReLU", "leaky", alpha={"type": "ndarray", "value": 0.3})
        self.add("Flatten", "flatten", data_format="channels_last")
        self.add(
            "Dense",
            "dense",
            units=DIM,
            activation="linear",
            use_bias=True,
            kernel_initializer=INITIALIZER,
            weights=[("kernel", self.normal(80, DIM, scale=0.1)), ("bias", self.normal(DIM))],
        )
        return self.norm("embedding", DIM, [1], "BatchNormalization")

    def head(self, name, kind="NormDense", classes=7, inbound=None, **config):
        """A margin head of another system's training model."""
        return self.add(kind, name, inbound, [("w", self.normal(DIM, classes))], units=classes, loss_top_k=1, **config)

    def expected(self, pixels):
        """float32 [N, DIM] before any normalisation, from pixels as the net takes them, [N, SIZE, SIZE, 3]."""
        w = self.weights
        x = tf.nn.conv2d(pixels, w["conv"][0], 2, "SAME")
        x = _normalised(x, w["bn"])
        x = tf.where(x > 0, x, w["slopes"][0] * x)
        x = tf.nn.separable_conv2d(x, *w["sep"], [1, 1, 1, 1], "SAME")
        x = tf.nn.depthwise_conv2d(tf.nn.relu6(x), w["dw"][0], [1, 2, 2, 1], "SAME")
        x = tf.nn.leaky_relu(x, 0.3)
        kernel, bias = w["dense"]
        return _normalised(tf.reshape(x, [len(x), -1]) @ kernel + bias, w["embedding"]).numpy()

    def config(self, outputs=None):
        inputs = [layer["name"] for layer in self.layers if layer["class_name"] == "InputLayer"]
        return {"class_name": "Model", "config": {
            "name": "net", "layers": self.layers, "input_layers": [[name, 0, 0] for name in inputs],
            "output_layers": [[name, 0, 0] for name in outputs or [self.at]]}}  # fmt: skip

    def save(self, path, outputs=None, weights_only=False):
        """Writes the .h5, with the net or without."""
        with h5py.File(path, "w") as file:
            group = file if weights_only else file.create_group("model_weights")
            for place in (file, group):
                place.attrs.update(keras_version="2.2.4-tf", backend="tensorflow")
            if not weights_only:
                file.attrs["model_config"] = json.dumps(self.config(outputs))
            group.attrs["layer_names"] = [layer["name"].encode() for layer in self.layers]
            for layer in self.layers:
                one = group.create_group(layer["name"])
                one.attrs["weight_names"] = [name.encode() for name in self.names[layer["name"]]]
                for name, value in zip(self.names[layer["name"]], self.weights[layer["name"]], strict=True):
                    one[name] = value
        return path


def _normalised(x, values):
    gamma, beta, mean, variance = values
    return (x - mean) / np.sqrt(variance + 1e-5) * gamma + beta
