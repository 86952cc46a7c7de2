"""The training loop: Keras layers, optimizers and callbacks in one visible loop.

`Model.fit` is not used: under Keras 3 it does not run on several workers (keras-team/keras#20585), and it cannot stop
and resume inside an epoch exactly. Here the position (epoch, step) names the next batch, and a checkpoint holds
everything else.

A loss or a weight that is NaN or infinite is a `NonFiniteLoss` (loss_meter.py). The training then goes back to its last
checkpoint and continues at half the learning rate, at most `nan_retries` times.
"""

from collections.abc import Callable, Sequence
from contextlib import closing, nullcontext
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np

from facelib.distributed.workers import ONE_WORKER, Workers
from facelib.errors import FaceError
from facelib.losses.protocols import MakeHead
from facelib.models.layers import FusedBatchNorm
from facelib.training.callbacks import Callbacks
from facelib.training.checkpoint import (
    NonFiniteVariable,
    Position,
    head_to_save,
    list_checkpoints,
    load_checkpoint,
    restore_parts,
    save_parts,
)
from facelib.training.device_batches import copied_ahead
from facelib.training.epoch_files import EpochFiles, measure
from facelib.training.head_memory import check_memory
from facelib.training.init_from import write_classes
from facelib.training.loss_meter import LossMeter, NonFiniteLoss
from facelib.training.progress import Progress
from facelib.training.protocols import Batch, Evaluate, Initialise, TeacherEmbeddings, TrainingBatches
from facelib.training.recipe.rules import check_recipe
from facelib.training.recipe.schema import Recipe, Stage
from facelib.training.recipe.toml import flatten
from facelib.training.run_dir import FollowedRun, RunDir, open_run
from facelib.training.schedules import learning_rate_at, margin_at, margin_share_at, mixup_share_at, warmup_steps
from facelib.training.stage_setup import StageParts
from facelib.training.stop_signals import StopRequests, agree_on_stop
from facelib.training.trackers import TRACKERS, TrackedRun

RETRY_RATE = 0.5  # of the learning rate, after each roll-back


class Trainer:
    """Trains an embedder through the stages of a recipe, into a run directory. In Python:

        Trainer(embedder, TrainingData(path, 128), "runs/x", make_head=make_head).fit([
            Stage(loss="softmax", epochs=2), Stage(loss="arcface", epochs=8)])

    Args:
        embedder: Keras model, float raw RGB pixels [N, H, W, 3] -> float32 [N, D].
        data: the batches, `dataset.TrainingData`.
        run: the run directory that is written or resumed: a `RunDir`, or a path.
        make_head: `face_loss_k.make_head`.
        recipe: the stages and the seed. train.py has already used its tables for data and model.
        evaluate: measures the embedder after each epoch; None to skip.
        teacher: embeddings for the stages with a `distill_weight`.
        initialise: sets the first weights of a new run; see `facelib.training.init_from`.
        made_from: the model that `initialise` takes the weights from. The sidecars name it and inherit its licence.
        workers: the processes that train together; see `facelib.distributed.rendezvous.open_workers`. Each worker makes
            the same Trainer and computes its part of every batch. Worker 0 alone evaluates, prints and writes.
        checkpoint_every: steps between two checkpoints. One is also written after each epoch and on a stop.
        log_every: steps between two log lines.
        max_steps: `fit` ends after so many steps, with a checkpoint; None to train to the end. The schedules are those
            of the whole training.
        on_epoch_end: called on worker 0 with the path of the run directory, after the files of an epoch are written.
        track: the tracker of the curves, 'tensorboard', 'mlflow', 'wandb' or 'none'; see
            `facelib.training.trackers`.
        callbacks: any `keras.callbacks.Callback`. One that raises is a warning, and is not called again.

    Attributes:
        position: how far the training has come.
        parts: objective, optimizer and step of the current stage; `fit` sets it.
        stopped_by: 'SIGTERM', 'SIGINT', 'n + Enter' or '--steps N'; None for a training that was not stopped.
    """

    def __init__(
        self,
        embedder: keras.Model,
        data: TrainingBatches,
        run: RunDir | FollowedRun | Path | str,
        *,
        make_head: MakeHead,
        recipe: Recipe | None = None,
        evaluate: Evaluate | None = None,
        teacher: TeacherEmbeddings | None = None,
        initialise: Initialise | None = None,
        made_from: Path | None = None,
        workers: Workers = ONE_WORKER,
        checkpoint_every: int = 1000,
        log_every: int = 20,
        max_steps: int | None = None,
        on_epoch_end: Callable[[Path], object] | None = None,
        track: str = TRACKERS[0],
        callbacks: Sequence[keras.callbacks.Callback] = (),
    ):
        self._run, self.recipe, self.embedder, self.workers = run, recipe or Recipe(), embedder, workers
        self.data = data.shard(workers.rank, workers.count) if workers.count > 1 else data
        self.make_head, self.evaluate, self.teacher, self.initialise = make_head, evaluate, teacher, initialise
        self.made_from, self.checkpoint_every, self.log_every = made_from, checkpoint_every, log_every
        self.max_steps, self.on_epoch_end, self.track = max_steps, on_epoch_end, track
        self.callbacks = Callbacks(callbacks, embedder)
        self.position = Position()
        self.losses = LossMeter(data.records)
        self.stopped_by: str | None = None
        self._num_steps = 0  # of this `fit`
        self.was_finished = False  # before this command: nothing was trained
        # Set by `fit`, which may change the stages of the recipe first.
        self.run: RunDir | FollowedRun
        self.progress: Progress
        self.parts: StageParts

    def fit(self, stages: Sequence[Stage] | None = None) -> bool:
        """Trains to the end of the last stage, or until the user stops it. Returns whether the training is complete.

        Args:
            stages: replace those of the recipe.

        Raises:
            FaceError: a recipe, data or run directory that does not fit; or a loss that stays non-finite.
        """
        if stages is not None:
            self.recipe = replace(self.recipe, stage=tuple(stages))
            check_recipe(self.recipe, "fit")
        self._open()
        if not self.was_finished:
            recipe, fingerprint = flatten(self.recipe), self.data.records.fingerprint
            self.progress.track(self.track, TrackedRun(self.run.path, recipe, fingerprint))
        with StopRequests() as stop:
            self.callbacks.call("on_train_begin")
            is_complete = None
            while is_complete is None:
                try:
                    is_complete = self._fit_stages(stop)
                except NonFiniteLoss as error:
                    self._roll_back(error)
            if is_complete:
                self.callbacks.call("on_train_end")
            self.progress.finish(is_complete)
        return is_complete

    # ------------------------------------------------------------------ the beginning

    def _open(self) -> None:
        """Opens the run directory, and resumes from its last checkpoint or begins a new training."""
        records = self.data.records
        if isinstance(self._run, Path | str):
            self._run = open_run(Path(self._run), self.recipe, records.path, records.fingerprint, self.workers.is_chief)
        self.run = self._run
        self.progress = Progress(self.run, self.workers.is_chief)
        self.parts = self._new_parts()
        self.workers.wait()  # until worker 0 has removed the leftovers of a killed run
        checkpoints = list_checkpoints(self.run.checkpoints)
        if checkpoints:
            self._resume(checkpoints[-1])
        else:
            self._begin()

    def _new_parts(self) -> StageParts:
        size, num_classes = self.teacher.size if self.teacher else 0, self.data.records.num_classes
        for layer in self.embedder.layers:
            if isinstance(layer, FusedBatchNorm) and self.recipe.sync_batch_norm:
                layer.workers = self.workers
        self.progress.say(check_memory(self.recipe, num_classes, self.embedder.output_shape[-1], self.workers))
        return StageParts(
            self.recipe, self.embedder, self.make_head, num_classes, size, self.workers, self.data.batch_size,
            self.progress.say,
        )  # fmt: skip

    def _resume(self, checkpoint: Path) -> None:
        state = self._load(checkpoint)
        at = self.position
        resuming = f"resuming at epoch {at.epoch_number}, step {at.step}, from {checkpoint}"
        self.was_finished = self._has_ended()
        self.progress.say("this run is finished: nothing to train" if self.was_finished else resuming)
        self.run.forget_after(at.global_step, at.epoch, at.stage)
        if self.run.changes:
            self.run.log(kind="change", step=at.global_step, epoch=at.epoch_number, changes=self.run.changes)
            self.progress.say(f"changed from this step on: {'; '.join(self.run.changes)}")
        if at.forget_rollbacks(state.get("learning_rates", []), self.recipe.stage):
            self.progress.say(
                "earlier roll-backs do not lower the new learning rate, and their count starts again at 0"
            )

    def _begin(self) -> None:
        self._make_stage(0)
        if self.initialise:
            self.progress.say(self.initialise(self.embedder, self.parts.centres_head))
        self.run.forget_after(0, 0, -1)  # a run that has no checkpoint has not begun any stage
        if self.workers.is_chief:
            write_classes(self.run.path, self.data.records.class_names)
        self._save()  # so that a roll-back is possible from the first step on
        self.progress.begin_stage(self.position, self.recipe.stage)

    # ------------------------------------------------------------------ the loop

    def _fit_stages(self, stop: StopRequests) -> bool:
        end = 0  # epochs of the stages so far
        for number, stage in enumerate(self.recipe.stage):
            end += stage.epochs
            if self.position.epoch < end:
                if self.position.stage != number:
                    self._make_stage(number)
                    self.position.begin_stage(number)
                    self.progress.begin_stage(self.position, self.recipe.stage)
                if not self._fit_stage(stage, end, stop):
                    return False
        return True

    def _fit_stage(self, stage: Stage, end: int, stop: StopRequests) -> bool:
        """Trains to the end of a stage, the epoch before `end`. Returns False if the training is stopped first."""
        at, last_epoch = self.position, end - 1
        data = self.data.balanced(stage.images_per_identity) if stage.images_per_identity > 1 else self.data
        at.fit_epoch(data.steps_per_epoch, end - stage.epochs, warmup_steps(stage, data.steps_per_epoch))
        if at.step == data.steps_per_epoch:  # it was stopped between the last step of an epoch and its evaluation
            self._end_epoch()
            self._save()
        stream = copied_ahead(data.stream(at.epoch, at.step, last_epoch=last_epoch))
        with closing(stream) as batches, closing(self.progress):
            for batch in batches:
                if not self.progress.is_in_epoch:
                    self.callbacks.call("on_epoch_begin", at.epoch)
                    self.progress.begin_epoch(at, data, last_epoch)
                first, last = data.bounds(batch.step)  # of all workers
                self._take_step(stage, batch, last - first, data.steps_per_epoch)
                is_last = at.step == data.steps_per_epoch
                if is_last:
                    self.progress.close()
                    self._save()  # the evaluation may take longer than a scheduler waits
                    self._end_epoch()
                self.stopped_by = self._why_stopped(stop, is_last)
                if self.stopped_by:
                    where = f"epoch {at.epoch_number}, step {at.step}"
                    self.progress.say(f"\nstopped by {self.stopped_by} at {where}; wrote {self._save()}")
                    without = f" without --steps {self.max_steps}" if self.max_steps else " again"
                    if self.max_steps and not is_last:
                        self._draw_plots()
                    self.progress.say(f"next: the same command{without} continues from this step")
                    return False
                if is_last or at.global_step % self.checkpoint_every == 0:
                    self._save()
        return True

    def _take_step(self, stage: Stage, batch: Batch, num_images: int, steps_per_epoch: int) -> None:
        at, parts = self.position, self.parts
        rate = learning_rate_at(stage, at.stage_step, steps_per_epoch) * RETRY_RATE**at.rollbacks
        parts.optimizer.learning_rate = rate * at.plateau.factor
        margin_share = np.float32(margin_share_at(stage, at.stage_step))
        mix = np.float32(mixup_share_at(stage, self.recipe.seed, at.global_step))
        self.callbacks.call("on_train_batch_begin", batch.step)
        loss, accuracy = parts.step(
            batch.images, batch.labels, self._targets(batch), margin_share, mix, np.int32(at.global_step)
        )
        if parts.average:
            parts.average.update(at.stage_step)
        self.callbacks.call("on_train_batch_end", batch.step)
        at.take_step()
        self._num_steps += 1
        self.losses.add(at.global_step, batch.record_idx, num_images, loss, accuracy)
        if at.global_step % self.log_every == 0:
            self._fetch_losses(is_logged=True)
        self.progress.advance(num_images)

    def _targets(self, batch: Batch) -> np.ndarray:
        """The teacher's embeddings of a batch: float32 [B, T]; T is 0 without a teacher."""
        if not self.teacher:
            return np.zeros((len(batch.labels), 0), np.float32)
        return self.teacher.targets(batch.record_idx, batch.is_flipped)

    def _fetch_losses(self, is_logged: bool = False) -> None:
        """Waits for the losses of the latest steps; logs and shows those of the last one if `is_logged`."""
        fetched = self.losses.fetch(self.position.epoch)
        if fetched is None:
            return
        loss, accuracy, num_images = fetched
        seconds = self.progress.lap()
        self.position.seconds += seconds
        if is_logged:
            rate = float(self.parts.optimizer.learning_rate)
            at = self.position
            margin = margin_at(self.recipe.stage[at.stage], at.stage_step - 1)
            self.progress.show_step(at, loss, accuracy, rate, margin, num_images / seconds)

    def _why_stopped(self, stop: StopRequests, is_epoch_end: bool) -> str | None:
        """What stops the training after this step, the same on every worker; None to go on."""
        if self._has_ended():
            return None
        if self.max_steps and self._num_steps >= self.max_steps:
            return f"--steps {self.max_steps}"
        if self.workers.count > 1 and not is_epoch_end and self.position.global_step % self.log_every:
            return None  # to ask the other workers at every step costs time
        return agree_on_stop(stop, self.workers, is_epoch_end)

    def _has_ended(self) -> bool:
        return self.position.epoch >= sum(stage.epochs for stage in self.recipe.stage)

    # ------------------------------------------------------------------ the end of an epoch

    def _end_epoch(self) -> None:
        """Measures and saves the embedder, logs the epoch, and moves to the next one."""
        at, stage = self.position, self.recipe.stage[self.position.stage]
        self._fetch_losses()
        num_images, means = self.losses.means()
        self.progress.end_epoch(at, num_images, means)
        sets = self._measure_and_save() if self.workers.is_chief else {}
        self.progress.log_epoch(at, means, sets)
        self._draw_plots()
        self.callbacks.call("on_epoch_end", at.epoch, means)
        if stage.schedule == "plateau":
            score = np.mean([result["acc"] for result in sets.values()]) if sets else -means["loss"]
            score = self.workers.total(score if self.workers.is_chief else 0.0)[0]  # only worker 0 has measured
            factor = at.plateau.end_epoch(stage, score)
            self.progress.say(f"plateau: the learning rate continues at {factor:g} of the peak")
        at.end_epoch()
        self.losses.begin_epoch()

    def _draw_plots(self) -> None:
        if self.on_epoch_end and self.workers.is_chief:
            try:
                self.on_epoch_end(self.run.path)
            except Exception as error:  # a plot that cannot be drawn or written ends no training
                reason = " ".join(str(error).split())[:200] or type(error).__name__
                self.progress.say(f"warning: the plots of epoch {self.position.epoch_number} were not drawn: {reason}")

    def _measure_and_save(self) -> dict[str, dict]:
        """Evaluates, writes the files of the epoch, and returns the results by set."""
        files = EpochFiles(self.run.path, self.embedder, self.data.records, self.recipe, self.made_from)
        with self.parts.average or nullcontext():
            table, sets = measure(self.evaluate, self.embedder)
            self.progress.say(table)
            files.save(head_to_save(self.run.checkpoints, self.parts), self.position, sets)
        return sets

    # ------------------------------------------------------------------ stages and checkpoints

    def _make_stage(self, number: int) -> None:
        """Makes the parts of stage `number`, after those of the stages before it."""
        for stage in range(self.parts.number + 1, number + 1):
            self.parts.begin(stage)

    def _save(self) -> Path:
        self._fetch_losses()  # weights after a non-finite loss are never saved
        at = self.position
        state = {
            "position": at.to_json(), "sums": self.losses.sums.tolist(), "steps_per_epoch": at.steps_per_epoch,
            "learning_rates": [stage.learning_rate for stage in self.recipe.stage],
        }  # fmt: skip
        try:
            return save_parts(self.run.checkpoints, self.position.global_step, self.parts, state)
        except NonFiniteVariable as error:
            raise self.losses.non_finite("weights", error, self.position.epoch) from error

    def _load(self, checkpoint: Path) -> dict:
        """Makes the stage of a checkpoint and restores everything in it; returns its state."""
        arrays, state = load_checkpoint(checkpoint)
        position = Position.from_json(state["position"])
        position.steps_per_epoch = state.get("steps_per_epoch", 0)
        if position.stage < self.parts.number:  # there is no way back from the parts of a stage
            self.parts = self._new_parts()
        self._make_stage(position.stage)
        restore_parts(checkpoint, arrays, state, self.parts)
        self.position, self.losses.sums = position, np.array(state["sums"])
        return state

    def _roll_back(self, error: NonFiniteLoss) -> None:
        """Goes back to the last checkpoint, at half the learning rate; raises after `nan_retries` times."""
        rollbacks, stage = self.position.rollbacks + 1, self.position.stage
        good = list_checkpoints(self.run.checkpoints)[-1]
        if rollbacks > self.recipe.nan_retries:
            raise FaceError(
                f"{error} This happened {rollbacks} times, most recently after {good}. Lower "
                f"stage.{stage}.learning_rate and run the same command: it continues from this checkpoint. Or raise "
                "warmup_steps and use a different --out."
            ) from error
        self.losses.forget()
        self._load(good)
        at = self.position
        at.rollbacks = rollbacks
        self.progress.say(
            f"\n{error}\nroll-back {rollbacks} of at most {self.recipe.nan_retries}: back to epoch {at.epoch_number}, "
            f"step {at.step} ({good}), at {RETRY_RATE**rollbacks:g} of the learning rate"
        )
        self.run.forget_after(at.global_step, at.epoch, at.stage)
        self.run.log(kind="rollback", step=at.global_step, epoch=at.epoch_number, rollbacks=rollbacks, why=str(error))
        self._save()  # so that a resume after a kill keeps the lower rate
