"""Beginning a training with the weights of an older one: embedder, and class centres where identities are the same."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from facelib.errors import FaceError
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
    from facelib.runtimes.keras_h5 import load_head_centres, load_model

    old = load_model(path)
    _check_scaling(old, embedder, path)
    pairs, fresh = _match_layers(old, embedder, path)
    centres = None if head is None or fresh else load_head_centres(path)
    old_names = None if centres is None else _read_classes(path)
    for layer, theirs in pairs:  # all has been read and checked
        for mine, value in zip(layer.weights, theirs.weights, strict=True):
            mine.assign(value)
    parts = [f"begun with the backbone of {path}"]
    if fresh:
        parts.append(f"new: {', '.join(fresh)} (embedding size {old.output_shape[-1]} -> {embedder.output_shape[-1]})")
    if centres is None:
        said = "new class centres"
    elif old_names is None:
        said = f"new class centres, for no {CLASSES} beside it says whose the old ones are"
    else:
        said = _copy_centres(head, centres, old_names, class_names)
    return "; ".join([*parts, said])


def _check_scaling(old, new, path: Path) -> None:
    """Refuses weights that were learned on other pixel values: the structure is the same, the function is not."""
    scalings = []
    for model in (old, new):
        layer = next((layer for layer in model.layers if layer.name == "pixel_scale"), None)
        scalings.append([np.broadcast_to(v, 3).tolist() for v in (layer.mean, layer.std)] if layer else None)
    if None not in scalings and not np.allclose(*scalings):
        raise FaceError(
            f"--init-from takes a model with the same scaling of pixels, (x - mean) / std. '{path}' has mean, std "
            f"{scalings[0]}, {new.name} has {scalings[1]}: train it on as it is with swap_activation.py or "
            f"quantize_aware.py, or take it as a teacher."
        )


def _match_layers(old, new, path: Path) -> tuple[list[tuple], list[str]]:
    """(new layer, old layer) for all that have weights; and the embedding's layers that another size leaves new."""
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
                    f"--init-from takes a model of the recipe's structure. '{path}' has no layer '{layer.name}' of the "
                    f"shape that {new.name} has: check model.backbone, width, activation and stem."
                )
            fresh.append(layer.name)
    if by_name:
        raise FaceError(
            f"--init-from takes a model of the recipe's structure. {new.name} has no place for layer "
            f"'{next(iter(by_name))}' of '{path}': check model.backbone, width, activation and stem."
        )
    return pairs, fresh


def _read_classes(path: Path) -> list[str] | None:
    """The identities of the run that the .h5 at `path` lies in; None where it does not say."""
    note = Path(path).parent / CLASSES
    if not note.is_file():
        return None
    names = read_json(note, "list of classes").get("class_names")
    if not isinstance(names, list):
        raise FaceError(f"A {CLASSES} has a list 'class_names'. '{note}' has none: copy it again, or remove it.")
    return names


def _copy_centres(head, centres: np.ndarray, old_names: Sequence[str], class_names: Sequence[str]) -> str:
    mine = np.array(head.centres.numpy())
    first, last = head.split.bounds(len(class_names))
    each = len(mine) // (last - first)
    if len(centres) != each * len(old_names):
        return f"new class centres, for the old ones are {len(centres)} of {len(old_names)} identities"
    known = class_map(old_names, class_names)
    is_known = known >= 0
    if not is_known.any():
        return "new class centres, for the old identities are others"
    by_class, here = mine.reshape(last - first, each, -1), is_known[first:last]  # of this worker
    by_class[here] = centres.reshape(len(old_names), each, -1)[known[first:last][here]]
    head.centres.assign(by_class.reshape(mine.shape))
    rest = "" if is_known.all() else ", the others new"
    return f"class centres of {is_known.sum():,} of {len(class_names):,} identities{rest}"
