"""Beginning a training with the weights of an older one: embedder, and class centres where identities are the same."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from facelib.cli import FaceError
from facelib.files import read_json, write_json

CLASSES = "classes.json"


def write_classes(run: Path, names: Sequence[str]) -> None:
    """Notes a run's identities in the order of its class centres: RUN/classes.json."""
    write_json(Path(run) / CLASSES, {"class_names": list(names)})


def class_map(old_names: Sequence[str], new_names: Sequence[str]) -> np.ndarray:
    """For each new class the old one of the same name, or -1: int64 [len(new_names)]."""
    number = {name: i for i, name in enumerate(old_names)}
    return np.array([number.get(name, -1) for name in new_names], np.int64)


def apply_init(embedder, head, path: Path, class_names: Sequence[str]) -> str:
    """Gives a new training the weights of the .h5 at `path`; returns the line to print about it.

    An embedder.h5 gives the backbone. An epoch-NNN.h5 gives the class centres too, for the identities that
    RUN/classes.json beside it and the new data have in common. Where the embedding size differs, the layers after the
    global operator begin anew, and so do the centres.

    Args:
        embedder: the new model.   head: its head with class centres, built; or None.   class_names: of the new data.

    Raises:
        FaceError: no readable model, or one of another structure; nothing is changed then.
    """
    from facelib.keras_files import load_head_centres, load_model

    old = load_model(path)
    fresh = _copy_layers(old, embedder, path)
    parts = [f"backbone of {path}"]
    if fresh:
        parts.append(f"new: {', '.join(fresh)} (embedding size {old.output_shape[-1]} -> {embedder.output_shape[-1]})")
    centres = None if head is None or fresh else load_head_centres(path)
    if centres is None:
        return f"begun with the {'; '.join([*parts, 'new class centres'])}"
    return f"begun with the {'; '.join([*parts, _copy_centres(head, centres, path, class_names)])}"


def _copy_layers(old, new, path: Path) -> list[str]:
    """Copies weights layer by layer; returns the names of the embedding's layers that another size leaves new."""
    by_name = {layer.name: layer for layer in old.layers}
    pairs, fresh = [], []
    for layer in new.layers:
        theirs = by_name.get(layer.name)
        if layer.weights and theirs and [w.shape for w in layer.weights] == [w.shape for w in theirs.weights]:
            pairs.append((layer, theirs))
        elif layer.weights:
            is_resized = layer.name.startswith("embedding") and old.output_shape[-1] != new.output_shape[-1]
            if not (theirs and is_resized):
                raise FaceError(
                    f"--init-from takes a model of the recipe's structure. '{path}' has no layer '{layer.name}' of the "
                    f"shape that {new.name} has: check model.backbone, width, activation and stem."
                )
            fresh.append(layer.name)
    for layer, theirs in pairs:
        for mine, value in zip(layer.weights, theirs.weights, strict=True):
            mine.assign(value)
    return fresh


def _copy_centres(head, centres: np.ndarray, path: Path, class_names: Sequence[str]) -> str:
    note = Path(path).parent / CLASSES
    if not note.is_file():
        return f"new class centres, for '{note}' does not say whose the old ones are"
    old_names = read_json(note, "list of classes")["class_names"]
    mine = head.centres.numpy().copy()
    each = len(mine) // len(class_names)
    if len(centres) != each * len(old_names):
        return f"new class centres, for the old ones are {len(centres)} of {len(old_names)} identities"
    known = class_map(old_names, class_names)
    is_known = known >= 0
    by_class = mine.reshape(len(class_names), each, -1)
    by_class[is_known] = centres.reshape(len(old_names), each, -1)[known[is_known]]
    head.centres.assign(by_class.reshape(mine.shape))
    return f"class centres of {is_known.sum():,} of {len(class_names):,} identities, the others new"
