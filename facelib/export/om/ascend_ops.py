"""Which TensorFlow ops Ascend's model converter (ATC) is known to take, told before the trip to the device.

ATC: "only the FrozenGraphDef format is supported", "inputs with dynamic shapes are not supported", "only the operators
listed in Operator Specifications are supported" (Huawei EDOC1100164848; CANN 8.0 manual, ATC, general restrictions).
Those lists are one archive a chip. What can be read openly is what the parser registers, and that is this table:

- `tensorflow_op_map` in parser/parser/common/op_map.cc of CANN's graph engine;
- REGISTER_CUSTOM_OP(...).FrameworkType(TENSORFLOW).OriginOpType(...) in ops/built-in/framework/tf_plugin/ of CANN's
  operator library, Apache-2.0, 2019 to 2022, each of the ops below looked up there.

It is not complete (the library registers several hundred; these are those of convolutional nets), and an op in it may
still be refused by a chip, a data type or a size: only atc itself knows that.
"""

_PARSER = ("BroadcastArgs", "Const", "Empty", "ExpandDims", "Fill", "Identity", "IdentityN", "Placeholder",
           "PlaceholderWithDefault", "PreventGradient", "Rank", "Reshape", "Shape", "ShapeN", "Size", "Snapshot",
           "Squeeze", "StopGradient")  # fmt: skip
_PLUGINS = ("Abs", "Add", "AddN", "AddV2", "AvgPool", "BatchMatMul", "BatchMatMulV2", "BiasAdd", "Cast", "ConcatV2",
            "Conv2D", "DepthwiseConv2dNative", "Elu", "Exp", "FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3",
            "GatherV2", "LeakyRelu", "Log", "MatMul", "Max", "MaxPool", "Maximum", "Mean", "Min", "Minimum", "Mul",
            "Neg", "Pack", "Pad", "PadV2", "Pow", "Prod", "RealDiv", "Relu", "Relu6", "Rsqrt", "Selu", "Sigmoid",
            "Slice", "Softmax", "Softplus", "Split", "SplitV", "Sqrt", "Square", "SquaredDifference", "StridedSlice",
            "Sub", "Sum", "Tanh", "Tile", "Transpose", "Unpack")  # fmt: skip
KNOWN_OPS = frozenset(_PARSER + _PLUGINS)


def find_unknown_ops(graph) -> dict[str, list[str]]:
    """{op: names of its nodes} of the ops in a GraphDef that the table has not, in order of their names."""
    found: dict[str, list[str]] = {}
    for node in graph.node:
        if node.op not in KNOWN_OPS:
            found.setdefault(node.op, []).append(node.name)
    return dict(sorted(found.items()))
