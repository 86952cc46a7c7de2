"""Models that Keras 2 wrote (.h5): their description in the terms of Keras 3, and the TensorFlow functions in them.

Keras 2 kept a call such as `tf.math.l2_normalize(x)` as a layer of its own, which names a function of TensorFlow. Only
the functions listed here are called, so that a file cannot call others.
"""

import functools
from typing import Any

import keras

from facelib.errors import FaceError, short_name
from facelib.runtimes.keras2_layers import renew_layer
from facelib.runtimes.pure_ops import PURE_OPS, check_ops

_OPERATORS = {"add": "add", "radd": "add", "sub": "subtract", "mul": "multiply", "rmul": "multiply",
              "truediv": "truediv", "neg": "negative", "pow": "pow"}  # fmt: skip
_FUNCTIONS = frozenset(
    [
        *(f"math.{name}" for name in (
            "abs", "add", "divide", "exp", "l2_normalize", "maximum", "minimum", "multiply", "negative", "pow",
            "reduce_max", "reduce_mean", "reduce_sum", "rsqrt", "sigmoid", "softplus", "sqrt", "square", "subtract",
            "tanh", "truediv")),
        *(f"nn.{name}" for name in (
            "avg_pool2d", "bias_add", "depth_to_space", "elu", "l2_normalize", "leaky_relu", "max_pool2d", "relu",
            "relu6", "sigmoid", "silu", "softmax", "space_to_depth", "swish", "tanh")),
        "cast", "clip_by_value", "concat", "expand_dims", "identity", "linalg.l2_normalize", "linalg.norm", "pad",
        "reshape", "squeeze", "stack", "transpose",
    ]
)  # fmt: skip


@keras.saving.register_keras_serializable(package="face")
class TensorFlowFunction(keras.layers.Layer):
    """Calls one function of TensorFlow, as Keras 2's TFOpLambda did.

    Args:
        function: its name within `tf`, such as "math.l2_normalize"; one of `_FUNCTIONS`.
        first: the first argument of the call; `{"input": i}` anywhere in it stands for the layer's input i.
        arguments: the named arguments, in the same form.
    """

    def __init__(self, function: str, first: Any = None, arguments: dict[str, Any] | None = None, **kwargs):
        super().__init__(**kwargs)
        self.function, self.first, self.arguments = function, first, arguments or {}

    def call(self, inputs):
        import tensorflow as tf

        if self.function not in _FUNCTIONS:
            raise ValueError(f"{self.function} is not a function that a face net may call")
        inputs = inputs if isinstance(inputs, list | tuple) else [inputs]
        return functools.reduce(getattr, self.function.split("."), tf)(
            _filled(self.first, inputs), **_filled(self.arguments, inputs)
        )

    def get_config(self) -> dict:
        return {
            **super().get_config(), "function": self.function, "first": self.first, "arguments": self.arguments
        }  # fmt: skip


@keras.saving.register_keras_serializable(package="face")
class TensorFlowNode(keras.layers.Layer):
    """Runs one node of a graph, as TensorFlowOpLayer of TensorFlow 2.0 to 2.3 did.

    Args:
        node_def: the node as the dictionary of its protocol buffer; only a pure operation is run.
        constants: values of those of its inputs that are no tensors, by their number as text.
    """

    def __init__(self, node_def: dict, constants: dict[str, Any] | None = None, **kwargs):
        super().__init__(**kwargs)
        self.node_def, self.constants = node_def, constants or {}

    def call(self, inputs):
        import tensorflow as tf

        return tf.function(self._run, autograph=False)(inputs)

    def get_config(self) -> dict:
        return {**super().get_config(), "node_def": self.node_def, "constants": self.constants}

    def _run(self, inputs):
        import tensorflow as tf
        from google.protobuf import json_format

        graph = json_format.ParseDict({"node": [self.node_def]}, tf.compat.v1.GraphDef())
        check_ops(graph, self.name)
        (node,) = graph.node
        values, types = list(inputs if isinstance(inputs, list | tuple) else [inputs]), list(_input_types(node))
        for index in sorted(map(int, self.constants)):
            values.insert(index, tf.constant(self.constants[str(index)], types[index]))
        names = [f"input_{i}" for i in range(len(values))]
        graph.node.extend(_placeholder(name, value) for name, value in zip(names, values, strict=True))
        node.name = "node"
        node.input[:] = names
        node.device = ""
        return tf.graph_util.import_graph_def(graph, dict(zip(names, values, strict=True)), ["node:0"], name="")[0]


def in_keras3(config: dict) -> dict:
    """The description of a model that Keras 2 wrote, so that Keras 3 reads it. One that Keras 3 wrote is unchanged.

    Args:
        config: a parsed `model_config`. It is not changed.

    Raises:
        FaceError: a layer that has no counterpart.
    """
    return _renewed(config)


def _renewed(value: Any) -> Any:
    if isinstance(value, list):
        return [_renewed(item) for item in value]
    if not isinstance(value, dict):
        return value
    kind, config = value.get("class_name"), value.get("config")
    if kind in ("Policy", "PolicyV1") and isinstance(config, dict):
        return config.get("name", "float32")
    if "module" in value:  # written by Keras 3
        return value
    if kind in ("TFOpLambda", "TensorFlowOpLayer") and isinstance(config, dict):
        return _function(value) if kind == "TFOpLambda" else _node(value)
    value = {key: _renewed(item) for key, item in value.items()}
    if len(value.get("input_layers") or ()) == 1:
        value["input_layers"] = value["input_layers"][0]  # a list of one input makes Keras 3 warn at each call
    if kind in ("Functional", "Model") and isinstance(value["config"], dict):
        value["config"] = _with_first_calls(value["config"])
    elif isinstance(kind, str) and isinstance(value.get("config"), dict):
        value["class_name"], value["config"] = renew_layer(kind, value["config"])
    return value


def _with_first_calls(net: dict) -> dict:
    """A net whose references to nets within it count their calls from 0. Keras 2 counted their making as a call."""
    layers = [layer for layer in net.get("layers", ()) if isinstance(layer, dict)]
    inner = {layer.get("name") for layer in layers if layer.get("class_name") in ("Functional", "Model", "Sequential")}
    calls: dict[str, set[int]] = {}

    def renewed(value: Any, lowest: dict[str, int] | None) -> Any:
        if not isinstance(value, list):
            return value
        if len(value) >= 3 and isinstance(value[0], str) and type(value[1]) is int:
            if value[0] in inner:
                calls.setdefault(value[0], set()).add(value[1])
                return [value[0], value[1] - (lowest or {}).get(value[0], 0), *value[2:]]
            return value
        return [renewed(item, lowest) for item in value]

    places = [*(layer.get("inbound_nodes") for layer in layers), net.get("output_layers")]
    for place in places:
        renewed(place, None)
    lowest = {name: min(numbers) for name, numbers in calls.items()}
    layers = [{**layer, "inbound_nodes": renewed(layer.get("inbound_nodes", []), lowest)} for layer in layers]
    return {**net, "layers": layers, "output_layers": renewed(net.get("output_layers"), lowest)}


def _function(layer: dict) -> dict:
    """A TFOpLambda as a `TensorFlowFunction`: all tensors of its call become inputs of the layer."""
    config, nodes = layer["config"], layer.get("inbound_nodes", [])
    name = config.get("function", "")
    if name.startswith("__operators__."):
        name = "math." + _OPERATORS.get(name.partition(".")[2], "?")
    if name not in _FUNCTIONS or len(nodes) != 1:
        raise FaceError(
            f"The layer {short_name(layer.get('name'))} calls TensorFlow's {short_name(config.get('function'))}, "
            "which face nets may not call here. Save the model again with a Keras layer instead."
        )
    tensors: list[list] = []

    def taken(value: Any) -> Any:
        """`value` with the references to tensors in it replaced; [layer, node, tensor] is a reference."""
        if isinstance(value, list) and len(value) >= 3 and isinstance(value[0], str) and type(value[1]) is int:
            if value[0] == "_CONSTANT_VALUE":
                return value[2]
            tensors.append(value[:3])
            return {"input": len(tensors) - 1}
        return [taken(item) for item in value] if isinstance(value, list) else value

    (node,) = nodes
    is_one = bool(node) and isinstance(node[0], str)  # one call with one tensor may be written flat
    calls = [node] if is_one else node
    firsts = [taken(call) for call in calls]
    arguments = {key: taken(item) for key, item in calls[0][3].items() if key != "name"} if len(calls[0]) > 3 else {}
    new = {"name": config["name"], "function": name, "first": firsts[0] if len(firsts) == 1 else firsts,
           "arguments": arguments, "dtype": _renewed(config.get("dtype", "float32"))}  # fmt: skip
    return {**layer, "class_name": "face>TensorFlowFunction", "config": new,
            "inbound_nodes": [[[*tensor, {}] for tensor in tensors]]}  # fmt: skip


def _node(layer: dict) -> dict:
    """A TensorFlowOpLayer as a `TensorFlowNode`."""
    config = layer["config"]
    new = {"name": layer.get("name", config.get("name")), "node_def": config.get("node_def"),
           "constants": config.get("constants"), "dtype": _renewed(config.get("dtype", "float32"))}  # fmt: skip
    op = new["node_def"].get("op") if isinstance(new["node_def"], dict) else None
    if op not in PURE_OPS:
        raise FaceError(
            f"The layers of a face net must only compute. The layer {short_name(layer.get('name'))} is TensorFlow's "
            f"operation {short_name(op)}, which may do other things or is not known here. Save the model again with a "
            "Keras layer instead."
        )
    return {**layer, "class_name": "face>TensorFlowNode", "config": new}


def _filled(value: Any, inputs: list) -> Any:
    if isinstance(value, dict):
        if set(value) == {"input"}:
            return inputs[value["input"]]
        return {key: _filled(item, inputs) for key, item in value.items()}
    return [_filled(item, inputs) for item in value] if isinstance(value, list | tuple) else value


def _input_types(node):
    """The type of each input of a node, from its attributes as the operation's definition says."""
    from tensorflow.python.framework import op_def_registry

    for arg in op_def_registry.get(node.op).input_arg:
        kind = node.attr[arg.type_attr].type if arg.type_attr else arg.type
        yield from [kind] * (node.attr[arg.number_attr].i if arg.number_attr else 1)


def _placeholder(name: str, value):
    import tensorflow as tf

    node = tf.compat.v1.NodeDef(name=name, op="Placeholder")
    node.attr["dtype"].type = value.dtype.as_datatype_enum
    return node
