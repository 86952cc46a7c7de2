"""Writes face models as ONNX, node by node, with random weights: what the importer is tested with."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


class OnnxWriter:
    """Adds layer after layer, each on the tensor `at`.

    folded: normalisations are part of the convolutions before them.
    activation: 'prelu' | 'relu' | 'relu6' | 'leaky_relu'.   max_slope: of 'prelu'.   size: of the input, height, width.
    """

    def __init__(self, activation, folded, seed=0, max_slope=1.0, size=(112, 112)):
        self.activation, self.folded, self.max_slope, self.size = activation, folded, max_slope, size
        self.rng = np.random.default_rng(seed)
        self.nodes, self.constants, self.at = [], [], "input0"

    def add(self, op, *inputs, **attributes):
        name = f"{op}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, [*inputs], [name], name=name, **attributes))
        self.at = name
        return name

    def constant(self, value, dtype=np.float32):
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def stored(self, name):
        """The constant of that name, or None."""
        return next((numpy_helper.to_array(one) for one in self.constants if one.name == name), None)

    def conv(self, inputs, out, kernel, stride=1, groups=1, pads=None, linear=False):
        shape = (out, inputs // groups, kernel, kernel)
        weights = self.rng.normal(0, 1 / np.sqrt(np.prod(shape[1:])), shape)
        words = {"kernel_shape": [kernel, kernel], "strides": [stride] * 2, "group": groups}
        words["pads"] = pads or [1 if kernel == 3 else 0] * 4
        fed = [self.at, self.constant(weights)]
        if self.folded:
            fed.append(self.constant(self.rng.normal(0, 0.2, out)))
        self.add("Conv", *fed, **words)
        if not self.folded:
            self.norm(out)
        if not linear:
            self.act(out)
        return self

    def norm(self, channels):
        draws = (self.rng.uniform(0.5, 2, channels), self.rng.normal(0, 0.2, channels),
                 self.rng.normal(0, 0.2, channels), self.rng.uniform(1e-4, 2, channels))  # fmt: skip
        return self.add("BatchNormalization", self.at, *(self.constant(draw) for draw in draws), epsilon=1e-5)

    def act(self, channels):
        if self.activation == "relu6":
            self.add("Clip", self.at, self.constant(0.0), self.constant(6.0))
        elif self.activation == "prelu":
            slopes = self.rng.uniform(-0.2, self.max_slope, (channels, 1, 1))
            self.add("PRelu", self.at, self.constant(slopes))
        elif self.activation == "leaky_relu":
            self.add("LeakyRelu", self.at, alpha=0.2)
        else:
            self.add("Relu", self.at)

    def inverted(self, inputs, middle, out, stride, pads=None, shortcut=True):
        """1x1, 3x3 depthwise, linear 1x1, and the input added when the shapes agree."""
        start = self.at
        self.conv(inputs, middle, 1).conv(middle, middle, 3, stride, groups=middle, pads=pads)
        self.conv(middle, out, 1, linear=True)
        if shortcut and stride == 1 and inputs == out:
            self.add("Add", start, self.at)

    def save(self, path, **how):
        faces = helper.make_tensor_value_info("input0", TensorProto.FLOAT, [1, 3, *self.size])
        vectors = helper.make_tensor_value_info(self.at, TensorProto.FLOAT, ["n", "d"])
        graph = helper.make_graph(self.nodes, "net", [faces], [vectors], self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        onnx.save(model, path, **how)
        return path
