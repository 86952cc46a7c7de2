"""The description of a Keras model in a file: read, made free of code, and put into the terms of Keras 3.

A layer that holds code is refused. The one exception is a Lambda that divides by the L2 norm, which
`facelib.runtimes.lambda_code` recognises without running it: a Keras layer takes its place. The margin head of another
system's training model, whose class is not here, becomes a `CutHead`.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras

from facelib.errors import FaceError, short_name
from facelib.runtimes.keras2 import in_keras3
from facelib.runtimes.lambda_code import norm_axis

# Layers of Keras that hold code, load another model or read a file that the description names.
_NOT_PURE = ("Lambda", "__lambda__", "TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer", "StringLookup",
             "IntegerLookup", "IndexLookup", "TextVectorization")  # fmt: skip
# Margin heads of training models, by their class in other systems.
_HEADS = ("NormDense", "NormDenseVPL", "ArcFaceLossLayer", "ArcMarginProduct", "ArcMarginPenaltyLogists", "ArcFace",
          "ArcFaceLayer", "ArcLayer", "CosFace", "SphereFace", "AddMargin")  # fmt: skip
_NETS = ("Functional", "Model", "Sequential")


@keras.saving.register_keras_serializable(package="face")
class CutHead(keras.layers.Layer):
    """Stands for a margin head of another system, whose class is not here. It gives its first input."""

    def call(self, inputs):
        return inputs[0] if isinstance(inputs, list | tuple) else inputs

    def compute_output_shape(self, input_shape):
        return input_shape[0] if isinstance(input_shape[0], list | tuple) else input_shape


def parse_config(text: Any, path: Path) -> dict:
    """The description of a model from its JSON text.

    Raises:
        FaceError: no description of a Keras model.
    """
    config = json.loads(text) if isinstance(text, str | bytes) else None
    if not isinstance(config, dict):
        raise FaceError(
            f"'{path}' does not describe a Keras model. The file may be a different kind of HDF5 file: use an "
            "embedder.h5."
        )
    return config


def readable(config: dict, version: Any, path: Path) -> tuple[dict, dict[str, str]]:
    """The description without code, in the terms of Keras 3.

    Args:
        config: as the file has it. It is not changed.
        version: of the Keras that wrote it, as the file has it; None where it has none.
        path: of the file, for errors.

    Returns:
        (the description, {name of a layer: class of the margin head that it was}).

    Raises:
        FaceError: a layer that holds code, or one that has no counterpart.
    """
    heads: dict[str, str] = {}
    is_keras3 = str(version.decode() if isinstance(version, bytes) else version).startswith("3.")
    config = _without_code(config if is_keras3 else _without_modules(config), heads)
    found = _find_not_pure(config)
    if found is not None:
        raise FaceError(
            f"The layers of a face net must only compute. '{path}' has a layer that can run Python code or read other "
            f"files: {found}. It was not run. Save the model again with a different Keras layer instead."
        )
    if is_keras3:
        _check_classes(config, path)
        return config, heads
    slashed = {name for layer in layers_of(config) if "/" in (name := str(layer.get("name") or ""))}
    renewed = in_keras3(_without_slashes(config, slashed))
    _check_classes(renewed, path)
    return renewed, heads


def _check_classes(config: dict, path: Path) -> None:
    """Refuses a layer whose class is in no library here."""
    for layer in layers_of(config):
        kind, registered = layer.get("class_name"), layer.get("registered_name")
        is_keras = hasattr(keras.layers, str(kind)) or kind in _NETS
        if "module" in layer:  # operations and layers of Keras 3 itself have no registered name
            is_keras = str(layer["module"]).split(".")[0] == "keras" or not registered
        if not is_keras and keras.saving.get_registered_object(str(registered or kind)) is None:
            raise FaceError(
                f"'{path}' has the layer {short_name(layer.get('name'))} of the class {short_name(kind)}, whose code "
                "is not in the file. Export the net to ONNX where it was trained (tf2onnx), and import the ONNX file."
            )


def layers_of(config: dict) -> Iterator[dict]:
    """The layers in a description, those of nets within it included."""
    inner = config.get("config")
    layers = inner if isinstance(inner, list) else inner.get("layers", ()) if isinstance(inner, dict) else ()
    for layer in layers if isinstance(layers, list | tuple) else ():
        if isinstance(layer, dict):
            yield layer
            if layer.get("class_name") in _NETS:
                yield from layers_of(layer)


def _without_code(value: Any, heads: dict[str, str]) -> Any:
    if isinstance(value, list):
        return [_without_code(item, heads) for item in value]
    if not isinstance(value, dict):
        return value
    kind, config = value.get("class_name"), value.get("config")
    if isinstance(kind, str) and isinstance(config, dict):
        name = str(value.get("name") or config.get("name") or kind)
        if kind == "Lambda" and (axis := norm_axis(config)) is not None:
            return _replaced(value, "UnitNormalization", {"name": name, "trainable": True, "axis": axis})
        is_ours = keras.saving.get_registered_object(str(value.get("registered_name") or kind)) is not None
        if kind.split(">")[-1] in _HEADS and not is_ours:
            heads[name] = kind.split(">")[-1]
            return _replaced(value, "face>CutHead", {"name": name})
    return {key: _without_code(item, heads) for key, item in value.items()}


def _without_modules(value: Any) -> Any:
    """A description of Keras 2 in its older form: from 2.12 on it could name the module of each layer."""
    if isinstance(value, list):
        return [_without_modules(item) for item in value]
    if not isinstance(value, dict):
        return value
    if value.get("class_name") == "__tuple__":
        return _without_modules(value.get("items"))
    is_object = "class_name" in value
    left_out = ("module", "registered_name", "build_config") if is_object else ()
    return {key: _without_modules(item) for key, item in value.items() if key not in left_out}


def _without_slashes(value: Any, names: set[str]) -> Any:
    """The description with other names for layers whose name has a slash, which Keras 3 does not allow."""
    if isinstance(value, dict):
        return {key: _without_slashes(item, names) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_slashes(item, names) for item in value]
    return value.replace("/", "_") if isinstance(value, str) and value in names else value


def _replaced(layer: dict, kind: str, config: dict) -> dict:
    """The layer with another class, in the form of the Keras that wrote it."""
    new = {key: value for key, value in layer.items() if key not in ("module", "registered_name", "build_config")}
    if "module" in layer:  # Keras 3 finds a layer by module and name
        is_ours = kind.startswith("face>")
        place = {"module": None if is_ours else "keras.layers", "registered_name": kind if is_ours else None}
        return {**new, "class_name": kind.split(">")[-1], "config": config, **place}
    return {**new, "class_name": kind, "config": config}


def _find_not_pure(value: Any) -> str | None:
    """Class and name of a layer of `_NOT_PURE` in a model's description; None if there is none."""
    if isinstance(value, dict) and value.get("class_name") in _NOT_PURE:
        config = value.get("config")
        name = value.get("name") or (config.get("name", "") if isinstance(config, dict) else "")
        return f"{value['class_name']} {short_name(name)}"
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return next((found for item in items if (found := _find_not_pure(item)) is not None), None)
