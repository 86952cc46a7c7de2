"""Initialises a training with the weights of another one: the embedder, and the class centres of common identities."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from facelib.errors import FaceError
from facelib.files import read_json, write_json
from facelib.sidecar import check_sidecar, require_raw_pixels

CLASSES = "classes.json"


def write_classes(run: Path, names: Sequence[str]) -> None:
    """Writes RUN/classes.json: the identities of a run in the order of its class centres."""
    write_json(Path(run) / CLASSES, {"class_names": list(names)})


def class_map(old_names: Sequence[str], new_names: Sequence[str]) -> np.ndarray:
    """The old class of the same name for each new class, or -1: int64 [len(new_names)]."""
    number = {name: i for i, name in enumerate(old_names)}
    return np.array([number.get(name, -1) for name in new_names], np.int64)


def apply_init(embedder, head, path: Path, class_names: Sequence[str]) -> str:
    """Loads the weights of an .h5 into a new training.

    An embedder.h5 gives the backbone. An epoch-NNN.h5 gives the class centres too, for the identities that
    RUN/classes.json beside it and the new data have in common. If the embedding size differs, the layers after the
    global operator and the class centres are re-initialised.

    Args:
        embedder: the new model.
        head: its built head with class centres, or None.
        path: of the .h5.
        class_names: identities of the new data.

    Returns:
        A line that says which weights were loaded.

    Raises:
        FaceError: no readable model, or one of another structure. Nothing is changed then.
    """
    from facelib.runtimes.keras_h5 import load_head_centres, load_model

    old = load_model(path)
    _check_scaling(old, embedder, path)
    pairs, fresh = _match_layers(old, embedder, path)
    centres = None if head is None or fresh else load_head_centres(path)
    old_names = None if centres is None else _read_classes(path)
    for layer, theirs in pairs:  # everything has been read and checked
        for mine, value in zip(layer.weights, theirs.weights, strict=True):
            mine.assign(value)
    parts = [f"weights loaded: backbone of {path}"]
    if fresh:
        parts.append(
            f"re-initialised: {', '.join(fresh)} (embedding size {old.output_shape[-1]} -> {embedder.output_shape[-1]})"
        )
    if centres is None:
        said = "class centres re-initialised"
    elif old_names is None:
        said = (
            f"class centres re-initialised: there is no {CLASSES} beside the model with the names of their identities"
        )
    else:
        said = _copy_centres(head, centres, old_names, class_names)
    return "; ".join([*parts, said])


def _check_scaling(old, new, path: Path) -> None:
    """Refuses weights that were trained with another pixel scaling: the structure is the same, the function is not."""
    scalings = []
    for model in (old, new):
        layer = next((layer for layer in model.layers if layer.name == "pixel_scale"), None)
        scalings.append([np.broadcast_to(v, 3).tolist() for v in (layer.mean, layer.std)] if layer else None)
    first, second = scalings
    if check_sidecar(path) is not None or (first is None and second is not None):
        require_raw_pixels(path)
    if first is not None and second is not None and not np.allclose(first, second):
        raise FaceError(
            f"--init-from needs a model with the pixel scaling of the recipe, (x - mean) / std. '{path}' has mean and "
            f"std {first}, but {new.name} has {second}. Train this model as it is (--set model.backbone=imported), "
            "set its scaling in the recipe (model.pixels), or use the model as a teacher."
        )


def _match_layers(old, new, path: Path) -> tuple[list[tuple], list[str]]:
    """([(new layer, old layer)] with weights, names of the layers that another embedding size changes)."""
    by_name = {layer.name: layer for layer in old.layers if layer.weights}
    pairs, fresh = [], []
    for layer in new.layers:
        theirs = by_name.pop(layer.name, None)
        if layer.weights and theirs and [w.shape for w in layer.weights] == [w.shape for w in theirs.weights]:
            pairs.append((layer, theirs))
        elif layer.weights:
            is_resized = layer.name.startswith("embedding") and old.output_shape[-1] != new.output_shape[-1]
            if not (theirs and is_resized):
                raise FaceError(
                    f"--init-from needs a model with the structure of the recipe. '{path}' has no layer "
                    f"'{layer.name}' with the shape in {new.name}: check model.backbone, width, activation and stem, "
                    "or train the net of the file: --set model.backbone=imported."
                )
            fresh.append(layer.name)
    if by_name:
        raise FaceError(
            f"--init-from needs a model with the structure of the recipe. {new.name} has no layer that matches "
            f"'{next(iter(by_name))}' of '{path}': check model.backbone, width, activation and stem."
        )
    return pairs, fresh


def _read_classes(path: Path) -> list[str] | None:
    """The identities of the run that the .h5 at `path` belongs to; None without a classes.json."""
    note = Path(path).parent / CLASSES
    if not note.is_file():
        return None
    names = read_json(note, "list of classes").get("class_names")
    if not isinstance(names, list):
        raise FaceError(
            f"A {CLASSES} must have a list 'class_names'. '{note}' has no such list: copy the file again, or delete it."
        )
    return names


def _copy_centres(head, centres: np.ndarray, old_names: Sequence[str], class_names: Sequence[str]) -> str:
    mine = np.array(head.centres.numpy())
    first, last = head.split.bounds(len(class_names))
    each = len(mine) // (last - first)
    if len(centres) != each * len(old_names):
        return f"class centres re-initialised: the file has {len(centres)} centres for {len(old_names)} identities"
    known = class_map(old_names, class_names)
    is_known = known >= 0
    if not is_known.any():
        return "class centres re-initialised: no identity is in both data sets"
    by_class, here = mine.reshape(last - first, each, -1), is_known[first:last]  # of this worker
    by_class[here] = centres.reshape(len(old_names), each, -1)[known[first:last][here]]
    head.centres.assign(by_class.reshape(mine.shape))
    rest = "" if is_known.all() else ", the others re-initialised"
    return f"class centres of {is_known.sum():,} of {len(class_names):,} identities{rest}"
