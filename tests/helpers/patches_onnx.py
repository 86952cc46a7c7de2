"""A face model of three ONNX nodes, for tests that need one whose embeddings are known."""

import numpy as np


def write_model(path, offset=-128.0, windows=4):
    """An ONNX net: the mean colours of 4x4 patches, less 128. A grey face (128) embeds as zeros.

    `windows` other than 4: so many patches in each direction.
    """
    from onnx import TensorProto, helper, numpy_helper, save

    tensors = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("input_1", ["n", 3, 112, 112]), ("embeddings", ["n", 3 * windows**2]))
    ]
    side = [112 // windows] * 2
    nodes = [
        helper.make_node("AveragePool", ["input_1"], ["pooled"], kernel_shape=side, strides=side),
        helper.make_node("Add", ["pooled", "offset"], ["centred"]),
        helper.make_node("Flatten", ["centred"], ["embeddings"]),
    ]
    graph = helper.make_graph(
        nodes, "patches", tensors[:1], tensors[1:], [numpy_helper.from_array(np.float32(offset), "offset")]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    save(model, path)
    return path
