"""What an epoch leaves: epoch-NNN.h5 with its class centres, and embedder.h5 when it is the best. Names Keras."""

from pathlib import Path

import keras
import numpy as np

from facelib.model_input import Io
from facelib.runtimes.keras_h5 import save_h5
from facelib.sidecar import write_sidecar
from facelib.training.recipe.schema import Recipe


def save_epoch(
    run: Path, embedder, head, records, recipe: Recipe, position: dict, number: int, sets: dict,
    made_from: Path | None = None,
) -> None:  # fmt: skip
    """Writes `epoch-<number>.h5`, and `embedder.h5` when the verification is the best so far.

    Args:
        head: margin head to put on top, or None for the embedder alone.
        position: its 'best' and 'best_on' are brought up to date.
        sets: name -> result with 'acc' and 'auc'; empty when nothing was measured, and then the latest is the best.
        made_from: the model that training began with, or None.
    """
    model = embedder
    if head is not None:
        labels = keras.Input((), dtype="int32", name="labels")
        logits, _ = head(embedder.output, labels)
        model = keras.Model([embedder.input, labels], logits, name="training")
    _write_h5(model, run / f"epoch-{number:03d}.h5", embedder, records, recipe, number, sets, made_from)
    score = [np.mean([r[key] for r in sets.values()]) for key in ("acc", "auc")] if sets else [number]
    if position["best_on"] != sorted(sets) or score >= position["best"]:  # scores on other sets cannot be compared
        position.update(best=[float(value) for value in score], best_on=sorted(sets))
        _write_h5(embedder, run / "embedder.h5", embedder, records, recipe, number, sets, made_from)


def _write_h5(model, path: Path, embedder, records, recipe: Recipe, number: int, sets: dict, made_from) -> None:
    save_h5(model, path)
    io = Io(size=tuple(embedder.input_shape[1:3]), embedding_size=embedder.output_shape[-1])
    training_data = {
        "source": records.meta.get("source", {}).get("path"),
        "num_images": len(records),
        "num_classes": records.num_classes,
        "fingerprint": records.fingerprint,
    }
    accuracies = {name: result["acc"] for name, result in sets.items()}
    extra = {"recipe": recipe.name, "epoch": number, "acc": accuracies}
    if recipe.teacher:
        extra["teacher"] = Path(recipe.teacher).name
    write_sidecar(path, kind="h5", made_from=made_from, io=io, training_data=training_data, **extra)
