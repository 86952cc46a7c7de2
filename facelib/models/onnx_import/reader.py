"""Reads ONNX files: the model with its weights, its input, and its nodes. Constant expressions are evaluated."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from facelib.errors import FaceError
from facelib.files import require_file, sha256_of

# Operations that exporters put around weights and shapes. They are evaluated if all their inputs are constant.
_FOLDED = ("Constant", "ConstantOfShape", "Shape", "Gather", "Unsqueeze", "Squeeze", "Concat", "Slice", "Cast",
           "Expand", "Reshape", "Transpose", "Identity", "Add", "Mul")  # fmt: skip
_UNREADABLE = ("DecodeError", "ValidationError", "FileNotFoundError", "UnicodeDecodeError")  # protobuf's and onnx's


@dataclass
class Node:
    """One operation of an ONNX graph.

    Attributes:
        op: ONNX's name of the operation.
        name: of the node, or of its output if the node has none.
        inputs: names of tensors; '' for an optional input that is left out.
        output: name of the tensor.
        attributes: by name.
    """

    op: str
    name: str
    inputs: list[str]
    output: str
    attributes: dict


def load_onnx(path: Path):
    """Reads and checks an ONNX model, with the weights that lie in files beside it.

    Raises:
        FaceError: the file is not an ONNX model, or is damaged.
    """
    import onnx

    data = require_file(path, "ONNX model").read_bytes()
    try:
        model = onnx.load_from_string(data)
        onnx.load_external_data_for_model(model, str(Path(path).parent))
        onnx.checker.check_model(model)
    except Exception as error:
        if type(error).__name__ not in _UNREADABLE:
            raise
        reason = " ".join(str(error).split())[:160]
        raise FaceError(
            f"'{path}' is not an ONNX model, or is damaged ({reason}). Copy the file again, together with its "
            ".data file if there is one."
        ) from error
    if not model.graph.node:
        raise FaceError(f"'{path}' is not an ONNX model: it has no nodes. Copy the file again.")
    return model


def list_weight_files(path: Path) -> dict[str, str]:
    """{name: SHA-256} of the files beside an ONNX model that hold its weights."""
    import onnx
    from onnx.external_data_helper import ExternalDataInfo, uses_external_data

    tensors = onnx.load(path, load_external_data=False).graph.initializer
    names = {ExternalDataInfo(tensor).location for tensor in tensors if uses_external_data(tensor)}
    return {name: sha256_of(Path(path).parent / name) for name in sorted(names)}


def find_input(model) -> tuple[str, tuple[int, int]]:
    """(name, (height, width)) of the NCHW input; 112x112 if the model leaves the size open.

    Raises:
        FaceError: the model has another input or several outputs.
    """
    from onnx import TensorProto

    stored = {tensor.name for tensor in model.graph.initializer}
    inputs = {value.name: value.type.tensor_type for value in model.graph.input if value.name not in stored}
    shapes = {name: [dim.dim_value for dim in tensor.shape.dim] for name, tensor in inputs.items()}
    name, dims = next(iter(shapes.items()), ("", []))
    if len(inputs) != 1 or len(dims) != 4 or dims[1] not in (0, 3):
        raise FaceError(
            f"A face model must have one input [N, 3, H, W]. Received: {shapes or 'none'}. Choose a different model."
        )
    if inputs[name].elem_type not in (TensorProto.FLOAT, TensorProto.FLOAT16) or len(model.graph.output) != 1:
        raise FaceError(
            f"A face model must have one float input and one output. Received: {len(model.graph.output)} outputs, "
            f"input '{name}' of ONNX type {inputs[name].elem_type} (float32 is 1). Export the model again with one "
            "input and one output."
        )
    return name, (dims[2] or 112, dims[3] or 112)


def is_half(model) -> bool:
    """Whether the weights of an ONNX model are float16."""
    from onnx import TensorProto

    return any(tensor.data_type == TensorProto.FLOAT16 for tensor in model.graph.initializer)


def read_nodes(model) -> tuple[list[Node], dict[str, np.ndarray]]:
    """(nodes that depend on the input, in the order of the file; {name: constant tensor}).

    Raises:
        FaceError: a weight that is damaged.
    """
    from onnx import helper, numpy_helper

    constants, nodes = {}, []
    for tensor in model.graph.initializer:
        try:
            constants[tensor.name] = numpy_helper.to_array(tensor)
        except (KeyError, ValueError, TypeError) as error:  # an unknown type, or a wrong number of values
            raise FaceError(f"The weights '{tensor.name}' are damaged ({error}). Copy the ONNX model again.") from error
    for proto in model.graph.node:
        if proto.op_type == "CastLike" and proto.input[0] in constants:  # the data, and so the result, is float32
            constants[proto.output[0]] = constants[proto.input[0]].astype(np.float32)
        elif proto.op_type in _FOLDED and all(name in constants for name in proto.input if name):
            constants |= _evaluate(proto, constants, model.opset_import)
        else:
            attributes = {item.name: helper.get_attribute_value(item) for item in proto.attribute}
            name = proto.name or proto.output[0]
            nodes.append(Node(proto.op_type, name, list(proto.input), proto.output[0], attributes))
    return nodes, constants


def _evaluate(proto, constants: dict[str, np.ndarray], opsets) -> dict[str, np.ndarray]:
    """The outputs of one node with constant inputs, by name."""
    from onnx import helper
    from onnx.reference import ReferenceEvaluator

    taken = {name: constants[name] for name in proto.input if name}
    infos = [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
             for n, v in taken.items()]  # fmt: skip
    outputs = [helper.make_value_info(name, helper.make_tensor_type_proto(0, None)) for name in proto.output]
    graph = helper.make_graph([proto], "constant", infos, outputs)
    values = ReferenceEvaluator(helper.make_model(graph, opset_imports=opsets)).run(None, taken)
    return dict(zip(proto.output, map(np.asarray, values), strict=True))
