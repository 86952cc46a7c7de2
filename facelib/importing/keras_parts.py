"""Keras models whose net and weights lie apart: .keras, and an .h5 with weights only."""

import json
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from facelib.errors import FaceError
from facelib.files import require_file
from facelib.importing.job import Imported, Job
from facelib.runtimes.declared_size import check_declared
from facelib.runtimes.keras_h5 import UNREADABLE, from_description

MAX_BYTES = 4 * 2**30  # of what a .keras holds, unpacked
MAX_CONFIG_BYTES = 64 * 2**20


def read_structured(job: Job) -> tuple[Any, dict[str, str]]:
    """The net of a weights-only .h5 with the structure of `job.structure`; and its margin heads, by name."""
    from facelib.importing.stored_weights import fill, read_weights

    path = require_file(job.structure or Path(), "structure of the net")
    text = path.read_text(encoding="utf-8", errors="replace")
    try:
        config = json.loads(text)
    except ValueError as error:
        raise FaceError(
            f"--structure must be the JSON file that net.to_json() writes. '{path}' is not JSON ({error}). Save "
            "the file again."
        ) from error
    version = config.get("keras_version") if isinstance(config, dict) else None
    model, heads = build(config, version, path, job.path.stat().st_size)
    stored = [one for one in read_weights(job.path) if one.name not in heads]
    rest = fill(model, stored, job.path, f"the structure '{path.name}'")
    if rest:
        raise FaceError(
            f"'{job.path}' does not match the structure '{path.name}', which ends before {rest[0].describe()}. Use "
            "the JSON file of the same net."
        )
    return model, heads


def read_known(job: Job) -> Imported:
    """The net of a weights-only .h5 whose structure `job.known_as` is known here."""
    from facelib.importing import known_nets
    from facelib.importing.as_ours import as_ours
    from facelib.importing.stored_weights import fill, read_weights

    name, stored, pixels = job.known_as, read_weights(job.path), job.pixels or known_nets.PIXELS
    if name != "mobilefacenet" and name not in known_nets.KNOWN:
        known = ", ".join(["mobilefacenet", *known_nets.KNOWN])
        raise FaceError(f"--as must be one of {known}. Received: {name}. Use one of these, or --structure model.json.")
    norms = [one for one in stored if len(one.values) == 4]
    size = norms[-1].values[0].shape[0] if norms else 0
    if name == "mobilefacenet":
        model = job.build_ours(name, pixels, embedding_size=size)
        rest = fill(model, stored, job.path, name)
        imported = _as_mobilefacenet(model, job, pixels)
    else:
        model = known_nets.KNOWN[name](size)
        rest = fill(model, stored, job.path, name)
        imported = as_ours(model, {}, job, pixels)
    if rest:
        imported.lines.append(f"margin head '{rest[0].name}' was left out")
        imported.centres = rest[0].values[0].T if rest[0].values[0].ndim == 2 else None
    return imported


def _as_mobilefacenet(model, job: Job, pixels: str) -> Imported:
    """A mobilefacenet of ours with another system's weights and the epsilon of our own nets: the same function."""
    import keras

    from facelib.importing.known_nets import EPSILON
    from facelib.models.layers import FusedBatchNorm, PReLU

    slopes = [layer.alpha.numpy().max() for layer in model.layers if isinstance(layer, PReLU)]
    for layer in model.layers:
        if isinstance(layer, FusedBatchNorm):
            variance = layer.moving_variance.numpy().astype(np.float64)
            layer.gamma.assign(layer.gamma.numpy() * np.sqrt((variance + layer.epsilon) / (variance + EPSILON)))
    if job.colour == "bgr":
        kernel = model.get_layer("stem_conv").kernel
        kernel.assign(keras.ops.flip(kernel, 2))
    table = {"backbone": "mobilefacenet", "embedding_size": model.output_shape[-1]}
    imported = Imported(model, pixels, what="mobilefacenet", table=table)
    if max(slopes) > 1:  # our PReLU is max(x, a x)
        imported.model, imported.table = _with_steep_slopes(model), None
        imported.lines.append("slopes above 1: PReLU layers of Keras are used instead of those of MobileArc")
    return imported


def _with_steep_slopes(model):
    """A copy whose PReLU layers compute slopes above 1."""
    import keras

    from facelib.models.layers import PReLU

    def copied(layer):
        if isinstance(layer, PReLU):
            return keras.layers.PReLU(shared_axes=[1, 2], name=layer.name)
        return type(layer).from_config(layer.get_config())

    copy = keras.models.clone_model(model, clone_function=copied)
    for old, new in zip(model.layers, copy.layers, strict=True):
        new.set_weights(
            [value.reshape(place.shape) for value, place in zip(old.get_weights(), new.weights, strict=True)]
        )
    return copy


def read_zip(path: Path) -> tuple[Any, dict[str, str]]:
    """The net of a .keras; and its margin heads, by name. No code in it is run, and nothing but its three parts read.

    Raises:
        FaceError: damaged, far too large, or a layer that holds code or has no counterpart.
    """
    with tempfile.TemporaryDirectory() as folder:
        config, version, weights = _unpack(path, Path(folder))
        if version.startswith("2."):
            model, heads = build(config, version, path, weights.stat().st_size)
            _fill_by_class(model, config, weights, heads, path)
            return model, heads
        return _load_keras3(config, version, weights, path)


def _unpack(path: Path, folder: Path) -> tuple[dict, str, Path]:
    """(config, version of Keras, the file of the weights) of a .keras."""
    from facelib.runtimes.h5_check import check_h5
    from facelib.runtimes.keras_config import parse_config

    try:
        with zipfile.ZipFile(path) as archive:
            sizes = {info.filename: info.file_size for info in archive.infolist()}
            if sum(sizes.values()) > MAX_BYTES or sizes["config.json"] > MAX_CONFIG_BYTES:
                raise FaceError(
                    f"'{path}' would unpack to {sum(sizes.values()) / 2**30:.1f} GiB: the file is damaged or was made "
                    "to fill the memory. Copy the file again."
                )
            config = parse_config(archive.read("config.json"), path)
            version = (
                json.loads(archive.read("metadata.json")).get("keras_version", "") if "metadata.json" in sizes else ""
            )
            weights = folder / "model.weights.h5"
            with archive.open("model.weights.h5") as source, weights.open("wb") as target:
                while block := source.read(2**20):
                    target.write(block)
                    if target.tell() > MAX_BYTES:
                        raise FaceError(
                            f"The unpacked '{path}' is larger than its header says: the file is damaged or was made "
                            "to fill the memory. Copy the file again."
                        )
    except (zipfile.BadZipFile, KeyError, ValueError, EOFError, NotImplementedError, AttributeError) as error:
        raise FaceError(
            f"'{path}' is not a .keras file, or it is damaged ({str(error)[:100]}). Copy the file again."
        ) from error
    check_h5(weights)
    return config, str(version), weights


def _load_keras3(config: dict, version: str, weights: Path, path: Path) -> tuple[Any, dict[str, str]]:
    """The net of a .keras of Keras 3: its own loader reads a copy whose description has no code."""
    import keras

    from facelib.runtimes.keras_config import readable

    renewed, heads = readable(config, version, path)
    check_declared(lambda: keras.models.model_from_json(json.dumps(renewed)), weights.stat().st_size, path)
    copy = weights.with_name("copy.keras")
    with zipfile.ZipFile(copy, "w") as archive:
        archive.writestr("config.json", json.dumps(renewed))
        archive.writestr("metadata.json", json.dumps({"keras_version": version}))
        archive.write(weights, "model.weights.h5")
    with named_errors(path):
        return keras.models.load_model(copy, compile=False, safe_mode=True), heads


def build(config: Any, version: Any, path: Path, num_bytes: int) -> tuple[Any, dict[str, str]]:
    """The net that a description of Keras 2 or 3 has, with random weights; and its margin heads, by name.

    Args:
        config: the description.
        version: of the Keras that wrote it.
        path: of the file, for errors.
        num_bytes: of the weights that belong to it.

    Raises:
        FaceError: it has no counterpart, holds code, or declares far more weights than there are.
    """
    import keras

    import facelib.models.layers  # noqa: F401 - registers our layers
    from facelib.runtimes.keras_config import parse_config, readable

    renewed, heads = readable(parse_config(json.dumps(config), path), version, path)

    def make():
        if str(version).startswith("3."):
            return keras.models.model_from_json(json.dumps(renewed))
        return from_description(renewed)

    check_declared(make, num_bytes, path)
    with named_errors(path):
        return make(), heads


@contextmanager
def named_errors(path: Path) -> Iterator[None]:
    """Makes what Keras raises for a description that it cannot read a `FaceError`."""
    try:
        yield
    except UNREADABLE as error:
        reason = " ".join(str(error).split())[:200]
        raise FaceError(
            f"'{path}' is not a Keras model that can be read here ({reason}). Export the net to ONNX where it was "
            "trained (tf2onnx), and import the ONNX file."
        ) from error


def _fill_by_class(model, config: dict, weights: Path, heads: dict[str, str], path: Path) -> None:
    """Gives a net the weights of a .keras of Keras 2, which numbers the layers of each class."""
    import h5py

    with h5py.File(weights) as file, named_errors(path):
        _fill_level(model, config["config"], file, heads)


def _fill_level(model, net: dict, group, heads: dict[str, str]) -> None:
    from keras.src.utils.naming import to_snake_case

    counts: dict[str, int] = {}
    stored = group["layers"] if "layers" in group else group["_layer_checkpoint_dependencies"]
    for layer in net["layers"]:
        kind = to_snake_case(layer["class_name"].split(">")[-1])
        place = kind if kind not in counts else f"{kind}_{counts[kind]}"
        counts[kind] = counts.get(kind, 0) + 1
        name = (layer.get("name") or layer["config"]["name"]).replace("/", "_")
        target = model.get_layer(name)
        if name in heads or not target.weights:
            continue
        if layer["class_name"] in ("Functional", "Model", "Sequential"):
            _fill_level(target, layer["config"], stored[place], heads)
            continue
        values = stored[place]["vars"]
        target.set_weights([np.asarray(values[str(number)]) for number in range(len(values))])
