"""The scales of a network that was trained for ESP-DL (tools/quantize_aware.py --target esp32s3): powers of two.

Its FakeQuant nodes round to -128 s .. 127 s, s = 2 ** exponent. `take_exponents` takes them out of the graph, ONNX
carries them as a property of the model, and esp/onnx_2_espdl.py gives them to esp-ppq in place of measured ones.
"""

import json
import math
from pathlib import Path

import numpy as np

from facelib.export.fold_batch_norm import constants_of
from facelib.runtimes.frozen_graph import node_of, prune

PROPERTY = "power_of_two_exponents"  # of an ONNX model: JSON, {tensor: exponent}


def take_exponents(graph, output: str):
    """(a GraphDef without the FakeQuant nodes of powers of two, {name of a node: exponent of its output}).

    Args:
        graph: an optimised GraphDef.
        output: node name that the result is pruned to.
    """
    import tensorflow as tf

    constants = constants_of(graph)
    found = {node.name: exponent for node in graph.node if (exponent := _exponent_of(node, constants)) is not None}
    if not found:
        return graph, {}
    by_name = {node.name: node for node in graph.node}
    exponents: dict[str, int] = {}
    for name, exponent in found.items():
        source = node_of(by_name[name].input[0])
        if source not in found:  # a term of a sum is rounded twice: as it was made, and for the sum
            exponents[source] = exponent
    result = tf.compat.v1.GraphDef()
    result.CopyFrom(graph)
    for node in result.node:
        node.input[:] = [_before(each, found, by_name) for each in node.input]
    return prune(result, [output]), exponents


def _before(reference: str, found: dict[str, int], by_name: dict) -> str:
    """What `reference` rounds; itself where it is no FakeQuant node."""
    while node_of(reference) in found:
        reference = by_name[node_of(reference)].input[0]
    return reference


def _exponent_of(node, constants: dict[str, np.ndarray]) -> int | None:
    """The exponent of a FakeQuant node whose scale is a power of two and whose range is that of int8; else None."""
    if node.op != "FakeQuantWithMinMaxVars":
        return None
    low, high = (constants.get(node_of(name)) for name in node.input[1:3])
    if low is None or high is None or not float(high) > 0:
        return None
    exponent = round(math.log2(float(high) / 127))
    return exponent if (float(low), float(high)) == (-128 * 2.0**exponent, 127 * 2.0**exponent) else None


def keep_exponents(model, exponents: dict[str, int]) -> None:
    """Writes the exponents of tensors into an `onnx.ModelProto`, as its property `PROPERTY`."""
    from onnx import helper

    helper.set_model_props(model, {PROPERTY: json.dumps(exponents)})


def read_exponents(path: Path) -> dict[str, int] | None:
    """The exponents that an ONNX file carries; None for a network that was not trained for powers of two."""
    import onnx

    properties = {each.key: each.value for each in onnx.load(path, load_external_data=False).metadata_props}
    return json.loads(properties[PROPERTY]) if PROPERTY in properties else None
