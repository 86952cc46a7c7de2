"""The training loop: Keras layers, optimizers and callbacks in one visible loop. Names TensorFlow.

Not `Model.fit`: that cannot stop and resume inside an epoch exactly, and does not run on several workers under Keras 3
(keras-team/keras#20585). One position (epoch, step) names the next batch; everything else is in the checkpoint.
"""

import errno
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from facelib.checkpoint import list_checkpoints, load_checkpoint, save_checkpoint
from facelib.cli import FaceError
from facelib.keras_files import save_h5
from facelib.optimizing import apply_gradients, make_optimizer, weight_decays
from facelib.recipe import Recipe
from facelib.run_dir import RunDir
from facelib.schedules import learning_rate_at, margin_at
from facelib.sidecar import Io, write_sidecar
from facelib.stopping import StopRequests
from facelib.training_plots import write_training_plots


class Trainer:
    """Trains `embedder` with `head` through the recipe's stages, into a run directory.

    Args:
        embedder: Keras model, float raw RGB pixels [N, H, W, 3] -> float32 [N, D].
        head: built layer with `loss_and_accuracy(embeddings, labels, margin)`, e.g. `ArcFace`; each stage sets its
            `margin`, `scale` and `past_pi`.
        last_layers: variables after the global operator; the head's are added. See `weight_decays`.
        data: `dataset.TrainingData`.
        evaluate: embedder -> evaluation with `.results` and `.table()`, run after each epoch; None to skip.
        run: where everything goes, and what is resumed.
        checkpoint_every, log_every: steps. A checkpoint is also written after each epoch and on a stop.
        callbacks: any `keras.callbacks.Callback`.
    """

    def __init__(
        self,
        recipe: Recipe,
        embedder: keras.Model,
        head: keras.layers.Layer,
        last_layers: Sequence,
        data,
        evaluate: Callable | None,
        run: RunDir,
        *,
        checkpoint_every: int = 1000,
        log_every: int = 20,
        callbacks: Sequence[keras.callbacks.Callback] = (),
    ):
        self.recipe, self.embedder, self.head, self.data, self.run = recipe, embedder, head, data, run
        self.evaluate, self.checkpoint_every, self.log_every = evaluate, checkpoint_every, log_every
        self.last_layers = [*last_layers, *head.trainable_variables]
        self.callbacks = keras.callbacks.CallbackList(list(callbacks), model=embedder)
        with self._writing_tensorboard():
            self.tensorboard = tf.summary.create_file_writer(str(run.path / "tensorboard"))
        self.position = {"stage": 0, "epoch": 0, "step": 0, "global_step": 0, "seconds": 0.0}
        self.position |= {"best": [], "best_on": []}  # score of embedder.h5, and the sets that it is a mean of
        self.sums = np.zeros(3)  # of this epoch: images, loss x images, accuracy x images
        self._pending: list[tuple] = []  # steps whose loss has not been looked at
        self._looked_at = (0, np.zeros(0, np.uint32))  # step and records of the last loss that was fetched
        self._clock = time.perf_counter()
        checkpoints = list_checkpoints(run.checkpoints)
        arrays, state = load_checkpoint(checkpoints[-1]) if checkpoints else (None, None)
        self._begin_stage(state["position"]["stage"] if state else 0)
        if state:
            self._restore(arrays, state, checkpoints[-1])
        run.forget_after(self.position["global_step"], self.position["epoch"])

    # ------------------------------------------------------------------ the loop

    def fit(self) -> bool:
        """Runs to the end of the last stage, or to the user's stop. Returns whether the training is complete."""
        first_epoch = 0
        with StopRequests() as stop:
            self.callbacks.on_train_begin()
            for number, stage in enumerate(self.recipe.stage):
                last_epoch = first_epoch + stage.epochs - 1
                if self.position["epoch"] <= last_epoch:
                    if self.position["stage"] != number:
                        self._begin_stage(number)
                    if not self._fit_stage(first_epoch, last_epoch, stop):
                        return False
                first_epoch = last_epoch + 1
            self.callbacks.on_train_end()
        return True

    def _fit_stage(self, first_epoch: int, last_epoch: int, stop: StopRequests) -> bool:
        at, bar = self.position, None
        if at["step"] == self.data.steps_per_epoch:  # ended between the last step of an epoch and its evaluation
            self._end_epoch()
            self._save()
        with closing(self.data.stream(at["epoch"], at["step"], last_epoch=last_epoch)) as batches:
            try:
                for batch in batches:
                    bar = bar or self._begin_epoch(last_epoch)
                    self._take_step(batch, (batch.epoch - first_epoch) * self.data.steps_per_epoch + batch.step, bar)
                    is_last = at["step"] == self.data.steps_per_epoch
                    if is_last:
                        bar.close()
                        bar = None
                        self._save()  # the evaluation may take longer than a scheduler's patience
                        self._end_epoch()
                    if stop.now or (is_last and stop.after_epoch):
                        why, where = stop.now or "n + Enter", f"epoch {at['epoch'] + 1}, step {at['step']}"
                        print(f"\nstopped by {why} at {where}; wrote {self._save()}")
                        print("next: the same command again continues there")
                        return False
                    if is_last or at["global_step"] % self.checkpoint_every == 0:
                        self._save()
            finally:
                if bar is not None:
                    bar.close()  # an error message begins a line of its own
        return True

    def _begin_epoch(self, last_epoch: int) -> tqdm:
        at = self.position
        self.callbacks.on_epoch_begin(at["epoch"])
        self._clock = time.perf_counter()
        first, _ = self.data.bounds(at["step"])
        interval = 0.2 if os.isatty(2) else 30  # seconds; a log file wants few lines
        bar = tqdm(total=len(self.data), initial=first, unit="img", mininterval=interval, maxinterval=2 * interval)
        bar.set_description(f"epoch {at['epoch'] + 1}/{last_epoch + 1}")
        return bar

    def _take_step(self, batch, stage_step: int, bar: tqdm) -> None:
        at, stage = self.position, self.recipe.stage[self.position["stage"]]
        rate = learning_rate_at(stage, stage_step, self.data.steps_per_epoch)
        self.optimizer.learning_rate = rate
        self.callbacks.on_train_batch_begin(batch.step)
        loss, accuracy = self._step(batch.images, batch.labels, np.float32(margin_at(stage, stage_step)))
        self.callbacks.on_train_batch_end(batch.step)
        at["step"] += 1
        at["global_step"] += 1
        self._pending.append((at["global_step"], batch.record_idx, loss, accuracy))
        if at["global_step"] % self.log_every == 0:
            self._look_at_losses(bar)
        bar.update(len(batch.labels))

    def _look_at_losses(self, bar: tqdm | None = None) -> None:
        """Fetches the pending losses; not at every step, so that a GPU need not wait for Python."""
        pending, self._pending = self._pending, []
        if not pending:
            return
        num_images = 0
        for step, record_idx, loss, accuracy in pending:
            loss, accuracy = float(loss), float(accuracy)
            self._looked_at = (step, record_idx)
            if not math.isfinite(loss):
                raise self._non_finite("loss", loss)
            self.sums += np.array([1.0, loss, accuracy]) * len(record_idx)
            num_images += len(record_idx)
        now = time.perf_counter()
        seconds, self._clock = max(now - self._clock, 1e-9), now
        self.position["seconds"] += seconds
        if bar is not None:
            epoch, rate = self.position["epoch"] + 1, float(self.optimizer.learning_rate)
            values = {
                "loss": loss,
                "accuracy": accuracy,
                "learning_rate": rate,
                "images_per_s": round(num_images / seconds, 2),
            }
            self.run.log(kind="step", step=step, epoch=epoch, **values)
            self._log_tensorboard(step, values)
            bar.set_postfix(loss=f"{loss:.3f}", acc=f"{100 * accuracy:.1f}%", lr=f"{rate:.4f}", refresh=False)

    def _non_finite(self, what: str, received: object) -> FaceError:
        step, record_idx = self._looked_at
        records = ", ".join(self.data.records.describe(int(i)) for i in record_idx[:4])
        good = list_checkpoints(self.run.checkpoints)
        at = self.position
        return FaceError(
            f"The {what} must stay finite. Received: {received} at step {step} (epoch {at['epoch'] + 1}), with records "
            f"{', '.join(map(str, record_idx.tolist()))} (the first: {records}). Last good checkpoint: "
            f"{good[-1] if good else 'none yet'}. Lower stage.{at['stage']}.learning_rate or lengthen warmup_steps, "
            f"and give another --out."
        )

    def _end_epoch(self) -> None:
        at = self.position
        self._look_at_losses()
        number = at["epoch"] + 1
        images, loss, accuracy = self.sums
        logs = {"loss": loss / images, "accuracy": accuracy / images}
        print(
            f"epoch {number}: loss {logs['loss']:.4f}, accuracy without margin {100 * logs['accuracy']:.2f} %, "
            f"{at['seconds'] / 60:.1f} min, {images / at['seconds']:.1f} images/s"
        )
        evaluation = self.evaluate(self.embedder) if self.evaluate else None
        sets = {}
        if evaluation:
            print(evaluation.table(), flush=True)
            sets = {r.name: r.as_dict() for r in evaluation.results}
            sets = {n: {k: r[k] for k in ("acc", "acc_std", "auc", "eer", "vr")} for n, r in sets.items()}
        self._save_epoch(number, sets)
        self.run.log(
            kind="epoch", step=at["global_step"], epoch=number, **logs, seconds=round(at["seconds"], 1), sets=sets
        )
        self._log_tensorboard(at["global_step"], {f"epoch_{k}": v for k, v in logs.items()})
        self._log_tensorboard(at["global_step"], {f"{n}_acc": r["acc"] for n, r in sets.items()})
        with self._writing_tensorboard():
            self.tensorboard.flush()
        write_training_plots(self.run.path)
        self.callbacks.on_epoch_end(at["epoch"], logs)
        at.update(epoch=number, step=0, seconds=0.0)
        self.sums = np.zeros(3)

    def _log_tensorboard(self, step: int, values: dict) -> None:
        with self._writing_tensorboard(), self.tensorboard.as_default(step):
            for name, value in values.items():
                tf.summary.scalar(name, value)

    @contextmanager
    def _writing_tensorboard(self) -> Iterator[None]:
        try:
            yield
        except tf.errors.ResourceExhaustedError as error:  # TensorFlow's word for a full disk
            folder = str(self.run.path / "tensorboard")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), folder) from error
        except tf.errors.OpError as error:
            raise FaceError(f"TensorBoard's log in '{self.run.path}' cannot be written: {error.message}.") from error

    # ------------------------------------------------------------------ the step

    def _begin_stage(self, number: int) -> None:
        self.position["stage"] = number
        stage = self.recipe.stage[number]
        self.head.margin, self.head.scale, self.head.past_pi = stage.margin, stage.scale, stage.past_pi
        variables = list(self.head.trainable_variables)
        if not stage.freeze_backbone:
            variables = [*self.embedder.trainable_variables, *variables]
        decays = weight_decays(variables, self.last_layers, stage)
        self.optimizer = make_optimizer(stage)
        self.optimizer.build(variables)
        optimizer, embedder, head = self.optimizer, self.embedder, self.head

        def replica_step(images, labels, margin):
            with tf.GradientTape() as tape:
                embeddings = embedder(images, training=not stage.freeze_backbone)
                loss, accuracy = head.loss_and_accuracy(embeddings, labels, margin)
                scaled = optimizer.scale_loss(loss)
            apply_gradients(optimizer, variables, tape.gradient(scaled, variables), decays, stage)
            return loss, accuracy

        # The batch dimension is free: sizes differ by one within an epoch, and must not compile twice.
        shape = (None, *self.embedder.input_shape[1:])
        signature = [tf.TensorSpec(shape, tf.uint8), tf.TensorSpec([None], tf.int32), tf.TensorSpec([], tf.float32)]
        strategy = tf.distribute.get_strategy()
        self._step = tf.function(lambda *batch: strategy.run(replica_step, args=batch), input_signature=signature)

    # ------------------------------------------------------------------ files

    def _variables(self) -> dict:
        groups = {
            "embedder": self.embedder.variables,
            "head": self.head.variables,
            "optimizer": self.optimizer.variables,
        }
        return {f"{group}/{i:04d}/{v.path}": v for group, values in groups.items() for i, v in enumerate(values)}

    def _save(self) -> Path:
        self._look_at_losses()  # a step that went wrong is never checkpointed
        state = {"position": self.position, "sums": self.sums.tolist()}
        arrays = {name: variable.numpy() for name, variable in self._variables().items()}
        for name, array in arrays.items():  # a last good checkpoint must be good
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise self._non_finite("weights", name)
        return save_checkpoint(self.run.checkpoints, self.position["global_step"], arrays, state)

    def _restore(self, arrays: dict, state: dict, path: Path) -> None:
        variables = self._variables()
        if variables.keys() != arrays.keys():
            odd = sorted(variables.keys() ^ arrays.keys())[0]
            raise FaceError(
                f"The checkpoint '{path}' is of another network (at '{odd}'). Start anew with another --out."
            )
        for name, variable in variables.items():
            variable.assign(arrays[name])
        self.position, self.sums = self.position | state["position"], np.array(state["sums"])
        print(f"resuming at epoch {self.position['epoch'] + 1}, step {self.position['step']}, from {path}")

    def _save_epoch(self, number: int, sets: dict) -> None:
        at = self.position
        labels = keras.Input((), dtype="int32", name="labels")
        logits, _ = self.head(self.embedder.output, labels)
        with_head = keras.Model([self.embedder.input, labels], logits, name="training")
        self._write_h5(with_head, self.run.path / f"epoch-{number:03d}.h5", number, sets)
        score = [np.mean([r[key] for r in sets.values()]) for key in ("acc", "auc")] if sets else [number]
        if at["best_on"] != sorted(sets) or score >= at["best"]:  # scores on other sets cannot be compared
            at.update(best=[float(value) for value in score], best_on=sorted(sets))
            self._write_h5(self.embedder, self.run.path / "embedder.h5", number, sets)

    def _write_h5(self, model: keras.Model, path: Path, number: int, sets: dict) -> None:
        save_h5(model, path)
        size = tuple(self.embedder.input_shape[1:3])
        io = Io(size=size, embedding_size=self.embedder.output_shape[-1])
        meta = self.data.records.meta
        records = self.data.records
        training_data = {
            "source": meta.get("source", {}).get("path"),
            "num_images": len(records),
            "num_classes": records.num_classes,
            "fingerprint": records.fingerprint,
        }
        accuracies = {name: result["acc"] for name, result in sets.items()}
        extra = {"recipe": self.recipe.name, "epoch": number, "acc": accuracies}
        write_sidecar(path, kind="h5", made_from=None, io=io, training_data=training_data, **extra)
