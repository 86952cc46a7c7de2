"""The training loop: Keras layers, optimizers and callbacks in one visible loop. Names TensorFlow.

Not `Model.fit`: that cannot stop and resume inside an epoch exactly, and does not run on several workers under Keras 3
(keras-team/keras#20585). One position (epoch, step) names the next batch; everything else is in the checkpoint.
"""

import os
import time
from collections.abc import Callable, Sequence
from contextlib import closing, nullcontext
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
from tqdm import tqdm

from facelib.distributed.workers import ONE_WORKER, Workers
from facelib.errors import FaceError
from facelib.models.layers import FusedBatchNorm
from facelib.reports.training_plots import write_training_plots
from facelib.training.checkpoint import (
    NotFiniteError,
    head_to_save,
    list_checkpoints,
    load_checkpoint,
    restore_parts,
    save_parts,
)
from facelib.training.epoch_files import save_epoch
from facelib.training.head_memory import check_memory
from facelib.training.init_from import write_classes
from facelib.training.loss_meter import DivergedError, StepLosses
from facelib.training.recipe.rules import check_recipe
from facelib.training.recipe.schema import Recipe, Stage
from facelib.training.run_dir import FollowedRun, RunDir, open_run
from facelib.training.schedules import Plateau, learning_rate_at, margin_share_at
from facelib.training.stage_setup import StageParts
from facelib.training.stop_signals import StopRequests
from facelib.training.tensorboard import NoLog, TensorBoardLog

RETRY_RATE = 0.5  # of the learning rate, after each roll-back


class Trainer:
    """Trains an embedder through the stages of a recipe, into a run directory. In Python:

        Trainer(embedder, TrainingData(path, 128), "runs/x", make_head=make_head).fit([
            Stage(loss="softmax", epochs=2), Stage(loss="arcface", epochs=8)])

    Args:
        embedder: Keras model, float raw RGB pixels [N, H, W, 3] -> float32 [N, D].
        data: `dataset.TrainingData`.
        run: where everything goes, and what is resumed: a `RunDir`, or the path of one.
        make_head: `face_loss_k.make_head`: (loss, num_classes, options, warmup_scale) -> layer.
        recipe: the stages and the seed; what it says of data and model is for train.py.
        evaluate: embedder -> evaluation with `.results` and `.table()`, run after each epoch; None to skip.
        teacher: `facelib.training.teacher.Teacher`, for the stages' distill_weight.
        initialise: (embedder, head) -> a line to print, called when a run begins; see `facelib.training.init_from`.
        workers: the processes that train together, see `facelib.distributed.workers.open_workers`; each calls the same. Of every
            batch each takes its part. Worker 0 evaluates, prints and writes; all read the run directory.
        made_from: the model whose weights that gives; the sidecars name it and inherit its licence.
        checkpoint_every, log_every: steps. A checkpoint is also written after each epoch and on a stop.
        callbacks: any `keras.callbacks.Callback`.
    """

    def __init__(
        self,
        embedder: keras.Model,
        data,
        run: RunDir | FollowedRun | Path | str,
        *,
        make_head: Callable,
        recipe: Recipe | None = None,
        evaluate: Callable | None = None,
        teacher=None,
        initialise: Callable | None = None,
        made_from: Path | None = None,
        workers: Workers = ONE_WORKER,
        checkpoint_every: int = 1000,
        log_every: int = 20,
        callbacks: Sequence[keras.callbacks.Callback] = (),
    ):
        self.recipe, self.embedder, self.run, self.workers = recipe or Recipe(), embedder, run, workers
        self.data = data.shard(workers.rank, workers.count) if workers.count > 1 else data
        self.make_head, self.evaluate, self.teacher, self.initialise = make_head, evaluate, teacher, initialise
        self.made_from, self.checkpoint_every, self.log_every = made_from, checkpoint_every, log_every
        self.callbacks = keras.callbacks.CallbackList(list(callbacks), model=embedder)
        self.position = {"stage": 0, "epoch": 0, "step": 0, "global_step": 0, "seconds": 0.0}
        self.position |= {"best": [], "best_on": []}  # score of embedder.h5, and the sets that it is a mean of
        self.position |= {"rollbacks": 0, "plateau": None, "stage_step": 0}
        self.losses = StepLosses(data.records)  # of this epoch
        self.stopped_by: str | None = None  # SIGTERM, SIGINT or n + Enter
        self._clock = time.perf_counter()

    # ------------------------------------------------------------------ the loop

    def fit(self, stages: Sequence[Stage] | None = None) -> bool:
        """Runs to the end of the last stage, or to the user's stop. Returns whether the training is complete.

        Args:
            stages: in place of the recipe's.
        """
        if stages is not None:
            self.recipe = replace(self.recipe, stage=tuple(stages))
            check_recipe(self.recipe, "fit")
        self._open()
        with StopRequests() as stop:
            self.callbacks.on_train_begin()
            is_complete = None
            while is_complete is None:
                try:
                    is_complete = self._fit_stages(stop)
                except DivergedError as error:
                    self._roll_back(error)
            if is_complete:
                self.callbacks.on_train_end()
        return is_complete

    def _open(self) -> None:
        """The run directory, the parts of the stage to train, and the checkpoint to go on from."""
        if isinstance(self.run, Path | str):
            records, is_chief = self.data.records, self.workers.is_chief
            self.run = open_run(Path(self.run), self.recipe, records.path, records.fingerprint, is_chief)
        self.tensorboard = TensorBoardLog(self.run.path / "tensorboard") if self.workers.is_chief else NoLog()
        self.parts = self._new_parts()
        self.workers.wait()  # until worker 0 has cleared what a killed run has left
        checkpoints = list_checkpoints(self.run.checkpoints)
        if checkpoints:
            arrays, state = load_checkpoint(checkpoints[-1])
            self._go_to_stage(state["position"]["stage"])
            self._restore(arrays, state, checkpoints[-1])
            epoch, num_epochs = self.position["epoch"], sum(stage.epochs for stage in self.recipe.stage)
            at = f"resuming at epoch {epoch + 1}, step {self.position['step']}, from {checkpoints[-1]}"
            self._say(at if epoch < num_epochs else "this run is finished: nothing to train")
        else:
            self._go_to_stage(0)
            if self.initialise:
                self._say(self.initialise(self.embedder, self.parts.centres_head))
        begun = self.position["stage"] if checkpoints else -1  # a new run has no stage yet
        self.run.forget_after(self.position["global_step"], self.position["epoch"], begun)
        if not checkpoints:
            if self.workers.is_chief:
                write_classes(self.run.path, self.data.records.class_names)
            self._save()  # the first good weights, in case the first steps go wrong
            self._log_stage()

    def _new_parts(self) -> StageParts:
        size, num_classes = self.teacher.size if self.teacher else 0, self.data.records.num_classes
        for layer in self.embedder.layers:
            if isinstance(layer, FusedBatchNorm) and self.recipe.sync_batch_norm:
                layer.workers = self.workers
        self._say(check_memory(self.recipe, num_classes, self.embedder.output_shape[-1], self.workers))
        return StageParts(
            self.recipe, self.embedder, self.make_head, num_classes, size, self.workers, self.data.batch_size
        )

    def _say(self, text: str) -> None:
        if self.workers.is_chief and text:
            print(text, flush=True)

    def _go_to_stage(self, number: int) -> None:
        for stage in range(self.parts.number + 1, number + 1):
            self.parts.begin(stage)

    def _fit_stages(self, stop: StopRequests) -> bool:
        first_epoch = 0
        for number, stage in enumerate(self.recipe.stage):
            last_epoch = first_epoch + stage.epochs - 1
            if self.position["epoch"] <= last_epoch:
                if self.position["stage"] != number:
                    self._go_to_stage(number)
                    self.position.update(stage=number, plateau=None, stage_step=0)
                    self._log_stage()
                if not self._fit_stage(stage, first_epoch, last_epoch, stop):
                    return False
            first_epoch = last_epoch + 1
        return True

    def _fit_stage(self, stage: Stage, first_epoch: int, last_epoch: int, stop: StopRequests) -> bool:
        at, bar = self.position, None
        data = self.data.balanced(stage.images_per_identity) if stage.images_per_identity > 1 else self.data
        if at["step"] == data.steps_per_epoch:  # ended between the last step of an epoch and its evaluation
            self._end_epoch()
            self._save()
        with closing(data.stream(at["epoch"], at["step"], last_epoch=last_epoch)) as batches:
            try:
                for batch in batches:
                    bar = bar or self._begin_epoch(data, last_epoch)
                    first, last = data.bounds(batch.step)  # of all workers
                    self._take_step(stage, batch, last - first, data.steps_per_epoch, bar)
                    is_last = at["step"] == data.steps_per_epoch
                    if is_last:
                        bar.close()
                        bar = None
                        self._save()  # the evaluation may take longer than a scheduler's patience
                        self._end_epoch()
                    self.stopped_by = self._why_stopped(stop, is_last)
                    if self.stopped_by:
                        where = f"epoch {at['epoch'] + 1}, step {at['step']}"
                        self._say(f"\nstopped by {self.stopped_by} at {where}; wrote {self._save()}")
                        self._say("next: the same command again continues there")
                        return False
                    if is_last or at["global_step"] % self.checkpoint_every == 0:
                        self._save()
            finally:
                if bar is not None:
                    bar.close()  # an error message begins a line of its own
        return True

    def _why_stopped(self, stop: StopRequests, is_last: bool) -> str | None:
        """Why to stop here, as all workers must; they ask each other only now and then.

        After the last step of all there is nothing to stop.
        """
        if is_last and self.position["epoch"] == sum(stage.epochs for stage in self.recipe.stage):
            return None
        if self.workers.count > 1 and not is_last and self.position["global_step"] % self.log_every:
            return None
        after_epoch = "n + Enter" if is_last and self.workers.is_chief and stop.after_epoch else None
        mine = stop.now or after_epoch
        if not self.workers.any(mine is not None):
            return None
        return next(why for why in ("SIGTERM", "SIGINT", "n + Enter") if self.workers.any(mine == why))

    def _begin_epoch(self, data, last_epoch: int) -> tqdm:
        at = self.position
        self.callbacks.on_epoch_begin(at["epoch"])
        self._clock = time.perf_counter()
        first, _ = data.bounds(at["step"])
        interval = 0.2 if os.isatty(2) else 30  # seconds; a log file wants few lines
        bar = tqdm(total=len(data), initial=first, unit="img", mininterval=interval, maxinterval=2 * interval,
                   disable=not self.workers.is_chief)  # fmt: skip
        bar.set_description(f"epoch {at['epoch'] + 1}/{last_epoch + 1}")
        return bar

    def _take_step(self, stage: Stage, batch, num_images: int, steps_per_epoch: int, bar: tqdm) -> None:
        at = self.position
        rate = learning_rate_at(stage, at["stage_step"], steps_per_epoch) * RETRY_RATE ** at["rollbacks"]
        self.parts.optimizer.learning_rate = rate * (at["plateau"] or {"factor": 1.0})["factor"]
        targets = np.zeros((len(batch.labels), 0), np.float32)
        if self.teacher:
            targets = self.teacher.targets(batch.record_idx, batch.is_flipped)
        mix = (
            np.random.default_rng([self.recipe.seed, at["global_step"]]).beta(stage.mixup, stage.mixup)
            if stage.mixup
            else 1
        )
        margin_share = np.float32(margin_share_at(stage, at["stage_step"]))
        self.callbacks.on_train_batch_begin(batch.step)
        number = np.int64(at["global_step"])
        loss, accuracy = self.parts.step(batch.images, batch.labels, targets, margin_share, np.float32(mix), number)
        if self.parts.average:
            self.parts.average.update(at["stage_step"])
        self.callbacks.on_train_batch_end(batch.step)
        for counter in ("step", "stage_step", "global_step"):
            at[counter] += 1
        self.losses.add(at["global_step"], batch.record_idx, num_images, loss, accuracy)
        if at["global_step"] % self.log_every == 0:
            self._look_at_losses(bar)
        bar.update(num_images)

    def _look_at_losses(self, bar: tqdm | None = None) -> None:
        """Fetches the losses, logs and shows the last; not at every step."""
        epoch = self.position["epoch"]
        fetched = self.losses.fetch(epoch)
        if fetched is None:
            return
        loss, accuracy, num_images = fetched
        now = time.perf_counter()
        seconds, self._clock = max(now - self._clock, 1e-9), now
        self.position["seconds"] += seconds
        if bar is None:
            return
        rate, step = float(self.parts.optimizer.learning_rate), self.position["global_step"]
        values = {
            "loss": loss,
            "accuracy": accuracy,
            "learning_rate": rate,
            "images_per_s": round(num_images / seconds, 2),
        }
        self.run.log(kind="step", step=step, epoch=epoch + 1, **values)
        self.tensorboard.write(step, values)
        bar.set_postfix(loss=f"{loss:.3f}", acc=f"{100 * accuracy:.1f}%", lr=f"{rate:.4f}", refresh=False)

    def _roll_back(self, error: FaceError) -> None:
        """Back to the last checkpoint, at half the rate; after `nan_retries` times, up to the user."""
        rollbacks, stage = self.position["rollbacks"] + 1, self.position["stage"]
        good = list_checkpoints(self.run.checkpoints)[-1]
        if rollbacks > self.recipe.nan_retries:
            raise FaceError(
                f"{error} It was tried {rollbacks} times, from {good}. Lower stage.{stage}.learning_rate or lengthen "
                f"warmup_steps, and give another --out."
            ) from error
        self.losses.forget()
        arrays, state = load_checkpoint(good)
        if state["position"]["stage"] != stage:
            self.parts = self._new_parts()
            self._go_to_stage(state["position"]["stage"])
        self._restore(arrays, state, good)
        at = self.position
        at["rollbacks"] = rollbacks
        self._say(
            f"\n{error}\nroll-back {rollbacks} of at most {self.recipe.nan_retries}: back to epoch {at['epoch'] + 1}, "
            f"step {at['step']} ({good}), at {RETRY_RATE**rollbacks:g} of the learning rate"
        )
        self.run.forget_after(at["global_step"], at["epoch"], at["stage"])
        self.run.log(
            kind="rollback", step=at["global_step"], epoch=at["epoch"] + 1, rollbacks=rollbacks, why=str(error)
        )
        self._save()  # so that a kill does not forget the lower rate

    def _end_epoch(self) -> None:
        at = self.position
        self._look_at_losses()
        number = at["epoch"] + 1
        images, loss, accuracy = self.losses.sums
        logs = {"loss": loss / images, "accuracy": accuracy / images}
        self._say(
            f"epoch {number}: loss {logs['loss']:.4f}, accuracy without margin {100 * logs['accuracy']:.2f} %, "
            f"{at['seconds'] / 60:.1f} min, {images / at['seconds']:.1f} images/s"
        )
        sets = self._measure_and_save(number) if self.workers.is_chief else {}
        self.run.log(
            kind="epoch", step=at["global_step"], epoch=number, **logs, seconds=round(at["seconds"], 1), sets=sets
        )
        self.tensorboard.write(at["global_step"], {f"epoch_{k}": v for k, v in logs.items()})
        self.tensorboard.write(at["global_step"], {f"{n}_acc": r["acc"] for n, r in sets.items()})
        self.tensorboard.flush()
        if self.workers.is_chief:
            write_training_plots(self.run.path)
        self.callbacks.on_epoch_end(at["epoch"], logs)
        stage = self.recipe.stage[at["stage"]]
        if stage.schedule == "plateau":
            plateau = Plateau(at["plateau"])
            score = np.mean([r["acc"] for r in sets.values()]) if sets else -logs["loss"]
            score = self.workers.total(score if self.workers.is_chief else 0.0)[0]  # worker 0's, which has measured
            factor = plateau.end_epoch(stage, score)
            at["plateau"] = plateau.state
            self._say(f"plateau: the learning rate goes on at {factor:g} of the peak")
        at.update(epoch=number, step=0, seconds=0.0)
        self.losses.sums = np.zeros(3)

    def _measure_and_save(self, number: int) -> dict:
        """Evaluates, writes the epoch's files, and returns the results by set."""
        sets = {}
        with self.parts.average or nullcontext():
            evaluation = self.evaluate(self.embedder) if self.evaluate else None
            if evaluation:
                self._say(evaluation.table())
                sets = {r.name: r.as_dict() for r in evaluation.results}
                sets = {n: {k: r[k] for k in ("acc", "acc_std", "auc", "eer", "vr")} for n, r in sets.items()}
            head = head_to_save(self.run.checkpoints, self.parts)
            save_epoch(
                self.run.path, self.embedder, head, self.data.records, self.recipe, self.position,
                number, sets, made_from=self.made_from,
            )  # fmt: skip
        return sets

    def _log_stage(self) -> None:
        at, stage = self.position, self.recipe.stage[self.position["stage"]]
        what = {"stage": at["stage"], "loss": stage.loss, "optimizer": stage.optimizer_kind}
        self.run.log(kind="stage", step=at["global_step"], epoch=at["epoch"] + 1, **what)
        if len(self.recipe.stage) > 1:
            number = f"{at['stage'] + 1}/{len(self.recipe.stage)}"
            self._say(f"stage {number}: {stage.loss}, {stage.optimizer_kind}, {stage.epochs} epochs")

    # ------------------------------------------------------------------ files

    def _save(self) -> Path:
        self._look_at_losses()  # a step that went wrong is never checkpointed
        state = {"position": self.position, "sums": self.losses.sums.tolist()}
        try:
            return save_parts(self.run.checkpoints, self.position["global_step"], self.parts, state)
        except NotFiniteError as error:
            raise self.losses.not_finite("weights", error, self.position["epoch"]) from error

    def _restore(self, arrays: dict, state: dict, path: Path) -> None:
        restore_parts(path, arrays, state, self.parts)
        self.position, self.losses.sums = self.position | state["position"], np.array(state["sums"])
