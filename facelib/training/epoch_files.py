"""The files of an epoch: epoch-NNN.h5 with its class centres, and embedder.h5 if it is the best one so far."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

from facelib.runtimes.keras_h5 import KerasEmbedder, save_h5
from facelib.self_test import make_self_test
from facelib.sidecar import write_sidecar
from facelib.training.checkpoint import Position
from facelib.training.protocols import Evaluate
from facelib.training.recipe.schema import Recipe

_LOGGED = ("acc", "acc_std", "auc", "eer", "vr")  # of the results of each set


def measure(evaluate: Evaluate | None, embedder: keras.Model) -> tuple[str, dict[str, dict]]:
    """Evaluates an embedder on the verification sets.

    Returns:
        (the table to print, {set: {'acc', 'acc_std', 'auc', 'eer', 'vr'}}); ("", {}) without `evaluate`.
    """
    if evaluate is None:
        return "", {}
    evaluation = evaluate(embedder)
    results = {result.name: result.as_dict() for result in evaluation.results}
    return evaluation.table(), {name: {key: values[key] for key in _LOGGED} for name, values in results.items()}


class EpochFiles:
    """Writes the files of epochs into a run directory, each with its sidecar.

    Args:
        run: path of the run directory.
        embedder: Keras model, float raw RGB pixels [N, H, W, 3] -> float32 [N, D].
        records: the training records, named in the sidecars.
        recipe: named in the sidecars.
        made_from: the model that the training began with, or None.
    """

    def __init__(self, run: Path, embedder: keras.Model, records, recipe: Recipe, made_from: Path | None = None):
        self.run, self.embedder, self.records, self.recipe = run, embedder, records, recipe
        self.made_from = made_from
        io = self.recipe.face_io(tuple(embedder.input_shape[1:3]))
        self._model = KerasEmbedder(embedder, replace(io, embedding_size=embedder.output_shape[-1]))

    def save(self, head, position: Position, sets: dict[str, dict]) -> None:
        """Writes `epoch-NNN.h5`, and `embedder.h5` if the verification is the best so far.

        Args:
            head: margin head that goes on top of epoch-NNN.h5, or None for the embedder alone.
            position: within the epoch; its best scores are updated.
            sets: results by set. Without any the latest epoch is the best.
        """
        model, number = self.embedder, position.epoch_number
        self_test = make_self_test(self._model, "h5")  # both files hold this embedder
        if head is not None:
            labels = keras.Input((), dtype="int32", name="labels")
            logits, _ = head(model.output, labels)
            model = keras.Model([model.input, labels], logits, name="training")
        self._write(model, f"epoch-{number:03d}.h5", number, sets, self_test)
        score = [float(np.mean([r[key] for r in sets.values()])) for key in ("acc", "auc")] if sets else [float(number)]
        if position.note_score(score, sorted(sets)):
            self._write(self.embedder, "embedder.h5", number, sets, self_test)

    def _write(self, model: keras.Model, name: str, number: int, sets: dict[str, dict], self_test: dict) -> None:
        path, records = self.run / name, self.records
        save_h5(model, path)
        training_data = {
            "source": records.meta.get("source", {}).get("path"),
            "num_images": len(records),
            "num_classes": records.num_classes,
            "fingerprint": records.fingerprint,
        }
        accuracies = {set_name: result["acc"] for set_name, result in sets.items()}
        extra: dict[str, Any] = {"recipe": self.recipe.name, "epoch": number, "acc": accuracies}
        if self.recipe.teacher:
            extra["teacher"] = Path(self.recipe.teacher).name
        extra["self_test"] = self_test
        io = self._model.io
        write_sidecar(path, kind="h5", made_from=self.made_from, io=io, training_data=training_data, **extra)
