"""Reads TensorFlow SavedModels of Keras 2: the net from the description that Keras put into it, and the variables.

Nothing in the graph is run. It is still checked: one that could do more than compute is refused.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from facelib.errors import FaceError, short_name
from facelib.importing.job import Imported, Job
from facelib.tensorflow_env import quiet_tensorflow

_ROAD = "Convert it to ONNX (python -m tf2onnx.convert --saved-model FOLDER --output net.onnx), and import this file."
_NETS = ("_tf_keras_network", "_tf_keras_model", "_tf_keras_sequential")
# Operations on the variables, and those that save and restore them: they are in every SavedModel.
_OF_VARIABLES = {
    "VarHandleOp", "ReadVariableOp", "AssignVariableOp", "AssignAddVariableOp", "AssignSubVariableOp",
    "VarIsInitializedOp", "RestoreV2", "SaveV2", "ShardedFilename", "StringJoin", "MergeV2Checkpoints",
    "StaticRegexFullMatch", "DisableCopyOnRead",
}  # fmt: skip


def read(job: Job) -> Imported:
    """The net of a SavedModel.

    Raises:
        FaceError: operations that do more than compute, no description of a Keras model, or damaged variables.
    """
    quiet_tensorflow()
    from facelib.importing.as_ours import as_ours
    from facelib.importing.keras_parts import build

    proto = _parse(job.path)
    _check(proto, job.path)
    net = next(_descriptions(proto, job.path), None)
    if net is None:
        raise FaceError(f"'{job.path}' does not describe a Keras model. {_ROAD}")
    num_bytes = sum(file.stat().st_size for file in (job.path / "variables").glob("*") if file.is_file())
    model, heads = build(net, net.get("keras_version", "2"), job.path, num_bytes)
    _fill(model, job.path)
    return as_ours(model, heads, job)


def _parse(path: Path) -> Any:
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf import saved_model_pb2

    proto = saved_model_pb2.SavedModel()
    try:
        proto.ParseFromString((path / "saved_model.pb").read_bytes())
    except DecodeError as error:
        raise FaceError(f"'{path}' is not a SavedModel, or it is damaged. Copy the whole folder again.") from error
    return proto


def _check(proto, path: Path) -> None:
    """Checks that no graph or function in the SavedModel can do more than compute, and keep its variables."""
    import tensorflow as tf

    from facelib.runtimes.pure_ops import check_ops

    for meta in proto.meta_graphs:
        graph = tf.compat.v1.GraphDef()
        graph.CopyFrom(meta.graph_def)
        bodies = [graph.node, *(function.node_def for function in graph.library.function)]
        for body in bodies:
            kept = [node for node in body if node.op not in _OF_VARIABLES]
            del body[:]
            body.extend(kept)
        check_ops(graph, path)


def _descriptions(proto, path: Path) -> Iterator[dict]:
    """The descriptions of the whole net that the SavedModel has, in the words of Keras 2."""
    metadata = path / "keras_metadata.pb"  # TensorFlow 2.5 and later
    texts = list(_strings(metadata.read_bytes())) if metadata.is_file() else []
    for meta in proto.meta_graphs:
        nodes = meta.object_graph_def.nodes[:1]  # the root
        texts += [(node.user_object.identifier, node.user_object.metadata) for node in nodes]
    for identifier, text in texts:
        if identifier in _NETS and text:
            try:
                value = json.loads(text)
            except ValueError as error:
                raise FaceError(f"'{path}' is damaged ({error}). Copy the whole folder again.") from error
            if isinstance(value, dict) and isinstance(value.get("config"), dict) and "layers" in value["config"]:
                yield value


def _strings(data: bytes) -> Iterator[tuple[str, str]]:
    """(identifier, metadata) of the objects in a keras_metadata.pb."""
    for _, message in _fields(data):
        found = dict(_fields(message))
        yield found.get(4, b"").decode("utf-8", "replace"), found.get(5, b"").decode("utf-8", "replace")


def _fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(number, bytes) of the fields with a length in a protocol buffer."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        size, at = _varint(data, at)  # the value itself where the field is a number
        if key & 7 == 2:
            yield key >> 3, data[at : at + size]
            at += size
        elif key & 7:
            return


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 64:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            break
    return value, at


def _fill(model, path: Path) -> None:
    """Gives a net the variables of the SavedModel, which numbers the layers with weights."""
    import tensorflow as tf

    try:
        reader = tf.train.load_checkpoint(str(path / "variables" / "variables"))
        shapes = reader.get_variable_to_shape_map()
        _fill_level(model, "", reader, shapes)
    except (ValueError, tf.errors.OpError) as error:
        raise FaceError(
            f"The variables of '{path}' cannot be read ({str(error)[:120]}). Copy the whole folder again."
        ) from error


def _fill_level(net, prefix: str, reader, shapes: dict) -> None:
    import keras

    with_weights = (layer for layer in net.layers if layer.weights)
    for number, layer in enumerate(with_weights):
        place = f"{prefix}layer_with_weights-{number}/"
        if isinstance(layer, keras.Model):
            _fill_level(layer, place, reader, shapes)
            continue
        for variable in layer.weights:
            names = [
                f"{place}{name}/.ATTRIBUTES/VARIABLE_VALUE" for name in (variable.name, f"depthwise_{variable.name}")
            ]
            name = next((name for name in names if shapes.get(name) == list(variable.shape)), None)
            if name is None:
                raise FaceError(
                    f"The SavedModel has no variable {short_name(variable.name)} {list(variable.shape)} for the layer "
                    f"{short_name(layer.name)} ('{place}'). {_ROAD}"
                )
            variable.assign(reader.get_tensor(name))
