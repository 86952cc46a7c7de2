"""The training loop and its run directory on a network of one layer: stages, resumes, and what interruptions leave."""

import os
import signal
from dataclasses import replace
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf

from face_loss_k import make_head
from facelib.errors import FaceError
from facelib.sidecar import check_sidecar
from facelib.training import epoch_files
from facelib.training.checkpoint import list_checkpoints, load_checkpoint, save_checkpoint
from facelib.training.recipe.schema import Stage
from facelib.training.recipe.toml import load_recipe
from facelib.training.schedules import learning_rate_at
from tests.helpers.slow import slow_unless_quick
from tests.helpers.training_runs import (
    BATCH,
    CLASSES,
    IMAGES,
    LABELS,
    RECIPE,
    STAGE,
    STEPS,
    Data,
    evaluation,
    fit,
    lines,
    make_trainer,
)


@pytest.mark.parametrize(("epochs", "stopped_by"), [(1, None), (2, "SIGTERM")])
def test_a_signal_in_the_last_evaluation_stops_nothing_more(tmp_path, capsys, epochs, stopped_by):
    def evaluate(_):
        os.kill(os.getpid(), signal.SIGTERM)
        return evaluation(lfw=0.5)

    recipe = replace(RECIPE, stage=(replace(RECIPE.stage[0], epochs=epochs),))
    trainer, is_complete = fit(tmp_path / "run", recipe, evaluate=evaluate)

    assert is_complete == (stopped_by is None)
    assert trainer.stopped_by == stopped_by
    assert ("stopped by" in capsys.readouterr().out) == bool(stopped_by)


def test_each_stage_has_its_own_scale(tmp_path):
    still = replace(STAGE, epochs=1, margin=0.0, learning_rate=1e-12, weight_decay=0.0)
    recipe = replace(RECIPE, stage=(replace(still, scale=1.0), replace(still, scale=64.0)))

    made, _ = fit(tmp_path / "run", recipe)

    rows, centres = (
        v / np.linalg.norm(v, axis=1, keepdims=True)
        for v in (made.embedder(IMAGES[:BATCH].astype("float32")).numpy(), made.parts.centres_head.centres.numpy())
    )
    for scale, step in ((1.0, 0), (64.0, STEPS)):
        logits = scale * rows @ centres.T
        expected = np.mean(np.log(np.exp(logits).sum(1)) - logits[np.arange(BATCH), LABELS[:BATCH]])
        assert lines(tmp_path / "run", "step")[step]["loss"] == pytest.approx(expected, rel=1e-3)


@pytest.mark.slow
def test_a_checkpoint_of_an_older_version_resumes_to_the_uninterrupted_run(tmp_path):
    """Its position was a dict of these keys, and 'plateau' was null until the first plateau epoch ended."""
    recipe = replace(RECIPE, stage=(replace(STAGE, schedule="plateau", epochs=3),))
    whole, _ = fit(tmp_path / "whole", recipe, evaluate=lambda _: evaluation(a=0.9))
    with pytest.raises(OSError):
        fit(tmp_path / "run", recipe, Data(fails_at=3), evaluate=lambda _: evaluation(a=0.9))
    path = list_checkpoints(tmp_path / "run" / "checkpoint")[-1]
    arrays, state = load_checkpoint(path)
    older = {
        "stage": 0, "epoch": 0, "step": 2, "global_step": 2, "seconds": 0.25, "best": [], "best_on": [],
        "rollbacks": 0, "plateau": None, "stage_step": 2,
    }  # fmt: skip
    assert state["position"].keys() == older.keys()
    save_checkpoint(path.parent, 2, arrays, {"position": older, "sums": state["sums"]})

    resumed, is_complete = fit(tmp_path / "run", recipe, evaluate=lambda _: evaluation(a=0.9))

    assert is_complete
    assert_equal_weights(resumed, whole)
    assert resumed.position.plateau == whole.position.plateau


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_run_resumes_in_its_second_stage(tmp_path, optimizer):
    recipe = replace(RECIPE, stage=(STAGE, replace(STAGE, optimizer=optimizer, learning_rate=0.01)))
    whole, _ = fit(tmp_path / "whole", recipe)
    with pytest.raises(OSError):
        fit(tmp_path / "run", recipe, Data(fails_at=2 * STEPS + 3))

    resumed, is_complete = fit(tmp_path / "run", recipe)

    assert is_complete
    assert_equal_weights(resumed, whole)


SCHEDULE = (
    Stage(loss="softmax", epochs=1, optimizer="adam", learning_rate=0.01),
    Stage(loss="softmax", epochs=1, center_loss=0.1, freeze_backbone=True, learning_rate=0.01),
    Stage(loss="arcface", epochs=1, margin=0.2, scale=16.0, ema=0.9, optimizer="sgd", label_smoothing=0.1),
    Stage(loss="batch_all_triplet", epochs=1, images_per_identity=2, ema=0.9, learning_rate=0.01),
)


def kernel_of(model):
    return np.array(model.get_layer("embeddings").kernel.numpy())  # a copy: numpy() may be the memory itself


def assert_equal_weights(one, other):
    for a, b in zip(one.parts.variables().items(), other.parts.variables().items(), strict=True):
        assert a[0] == b[0]
        np.testing.assert_array_equal(a[1].numpy(), b[1].numpy(), err_msg=a[0])


@pytest.fixture(scope="module")
def scheduled(tmp_path_factory):
    """(folder, trainer) of a run of SCHEDULE that nothing interrupts."""
    folder = tmp_path_factory.mktemp("scheduled")
    return folder, fit(folder, replace(RECIPE, stage=SCHEDULE))[0]


@pytest.mark.parametrize(
    ("fails_at", "checkpoint_every"),
    slow_unless_quick(
        [(step, every) for step in (2 * STEPS + 1, 2 * STEPS + 2, 3 * STEPS + 1, 3 * STEPS + 3) for every in (1, 1000)],
        [(3 * STEPS + 3, 1000)],
    ),
)
def test_softmax_center_arcface_triplet_killed_anywhere_is_the_uninterrupted_run(
    scheduled, tmp_path, fails_at, checkpoint_every
):
    recipe = replace(RECIPE, stage=SCHEDULE)
    with pytest.raises(OSError):
        fit(tmp_path / "run", recipe, Data(fails_at=fails_at), checkpoint_every=checkpoint_every)

    resumed, is_complete = fit(tmp_path / "run", recipe)

    assert is_complete
    assert_equal_weights(resumed, scheduled[1])
    runs = scheduled[0], tmp_path / "run"
    losses = [[line["loss"] for line in lines(run, "step")] for run in runs]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 4 * STEPS
    for run in runs:
        found = [(line["stage"], line["loss"], line["optimizer"], line["epoch"]) for line in lines(run, "stage")]
        assert found == [(0, "softmax", "adam", 1), (1, "softmax", "adam", 2), (2, "arcface", "sgd", 3),
                         (3, "batch_all_triplet", "sgd", 4)]  # fmt: skip


def test_a_frozen_backbone_stays_bit_for_bit_and_the_centres_do_not(tmp_path):
    trained, _ = fit(tmp_path / "one", replace(RECIPE, stage=SCHEDULE[:1]))
    made, _ = fit(tmp_path / "two", replace(RECIPE, stage=SCHEDULE[:2]))

    for a, b in zip(trained.embedder.variables, made.embedder.variables, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())
    assert np.abs(made.parts.centres_head.centres.numpy() - trained.parts.centres_head.centres.numpy()).max() > 1e-3


@pytest.mark.slow
def test_frozen_layers_stay_for_their_stage_alone(tmp_path):
    frozen = replace(STAGE, epochs=1, freeze_layers=("embed",))
    made, _ = fit(tmp_path / "one", replace(RECIPE, stage=(frozen,)))
    keras.utils.set_random_seed(0)
    start = kernel_of(make_trainer(tmp_path / "none").embedder)
    both, _ = fit(tmp_path / "two", replace(RECIPE, stage=(frozen, replace(STAGE, epochs=1))))

    np.testing.assert_array_equal(kernel_of(made.embedder), start)
    assert np.abs(kernel_of(both.embedder) - start).max() > 1e-4


def test_a_layer_to_freeze_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(
        FaceError, match=r"prefixes of layer names. No layer begins with 'stem'. The layers are: embeddings"
    ):
        fit(tmp_path / "run", replace(RECIPE, stage=(replace(STAGE, freeze_layers=("stem",)),)))


@pytest.mark.slow
def test_stages_can_be_given_in_python(tmp_path):
    in_recipe, _ = fit(tmp_path / "one", replace(RECIPE, stage=SCHEDULE[:2]))
    made = make_trainer(tmp_path / "two")

    assert made.fit(SCHEDULE[:2])

    made.run.close()
    assert_equal_weights(made, in_recipe)
    assert len(load_recipe(tmp_path / "two" / "config.toml").stage) == 2
    with pytest.raises(FaceError, match=r"fit: stage.0.epochs must be at least 1. Received: 0"):
        make_trainer(tmp_path / "three").fit([Stage(epochs=0)])


def test_micro_batches_and_a_whole_batch_are_one_step(tmp_path):
    plain = replace(STAGE, epochs=1, norm_penalty=0.01)
    whole, _ = fit(tmp_path / "whole", replace(RECIPE, stage=(plain,)))
    parts, _ = fit(tmp_path / "parts", replace(RECIPE, stage=(replace(plain, micro_batches=2),)))

    for a, b in zip(whole.parts.variables().values(), parts.parts.variables().values(), strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-4, atol=1e-6)
    losses = [[line["loss"] for line in lines(tmp_path / name, "step")] for name in ("whole", "parts")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.slow
def test_the_norm_penalty_is_the_mean_l1_norm(tmp_path):
    still = replace(STAGE, epochs=1, learning_rate=1e-12)
    made, _ = fit(tmp_path / "with", replace(RECIPE, stage=(replace(still, norm_penalty=0.5),)))
    fit(tmp_path / "without", replace(RECIPE, stage=(still,)))

    first = [lines(tmp_path / name, "step")[0]["loss"] for name in ("with", "without")]

    norms = np.abs(made.embedder(IMAGES[:BATCH].astype("float32")).numpy()).sum(1)
    assert first[0] - first[1] == pytest.approx(0.5 * norms.mean(), rel=1e-4)


def test_the_average_is_what_is_saved_and_measured_and_training_goes_on_from_its_own_weights(tmp_path):
    values, measured = [], []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            values.append(kernel_of(self.model))

    def evaluate(model):
        measured.append(kernel_of(model))
        return evaluation(a=0.9)

    recipe = replace(RECIPE, stage=(replace(STAGE, ema=0.5),))
    start = kernel_of(make_trainer(tmp_path / "none").embedder)
    made, _ = fit(tmp_path / "run", recipe, evaluate=evaluate, callbacks=[Watch()])
    fit(tmp_path / "plain")

    average = start
    for step, value in enumerate(values):
        decay = min(0.5, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * value
        if (step + 1) % STEPS == 0:
            np.testing.assert_allclose(measured[step // STEPS], average, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(kernel_of(made.embedder), values[-1])
    saved = keras.models.load_model(tmp_path / "run" / "embedder.h5", compile=False)
    np.testing.assert_array_equal(kernel_of(saved), measured[-1])
    plain = [line["loss"] for line in lines(tmp_path / "plain", "step")]
    assert [line["loss"] for line in lines(tmp_path / "run", "step")] == plain


def test_sam_takes_the_gradient_at_the_worst_neighbour(tmp_path):
    """On one weight matrix, w <- w - rate * grad(w + rho * grad(w) / |grad(w)|): eq. 2 of the SAM paper."""
    stage = replace(STAGE, epochs=1, momentum=0.0, clip_norm=0.0, weight_decay=0.0, sam=0.5, learning_rate=0.1)
    head = make_head("arcface", CLASSES, {"margin": 0.1, "scale": 8.0}, None)
    values = []

    class Watch(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            values.append(
                [np.array(v.numpy()) for v in (*self.model.trainable_variables, made.parts.centres_head.centres)]
            )

        def on_train_batch_end(self, batch, logs=None):
            self.on_train_begin()

    made = make_trainer(tmp_path / "run", callbacks=[Watch()])
    made.fit([stage])
    made.run.close()
    variables = list(made.embedder.trainable_variables)

    head.build((None, 4))
    trained = [*variables, head.centres]

    def gradients(at):
        for variable, value in zip(trained, at, strict=True):
            variable.assign(value)
        with tf.GradientTape() as tape:
            loss, _ = head.loss_and_accuracy(made.embedder(IMAGES[:BATCH]), LABELS[:BATCH])
        return [g.numpy() for g in tape.gradient(loss, trained)]

    first = gradients(values[0])
    norm = np.sqrt(sum((g**2).sum() for g in first))
    worst = gradients([v + 0.5 * g / norm for v, g in zip(values[0], first, strict=True)])
    for start, gradient, found in zip(values[0], worst, values[1], strict=True):
        np.testing.assert_allclose(found, start - 0.1 * gradient, rtol=1e-3, atol=1e-6)


def test_mixup_is_the_mean_of_both_losses_on_the_mixed_images(tmp_path):
    still = replace(STAGE, epochs=1, learning_rate=1e-12, mixup=0.4)
    made, _ = fit(tmp_path / "run", replace(RECIPE, stage=(still,)))
    share = np.random.default_rng([RECIPE.seed, 0]).beta(0.4, 0.4)  # of the first step

    images = IMAGES[:BATCH].astype("float32")
    embeddings = made.embedder(share * images + (1 - share) * images[::-1])
    head = made.parts.centres_head
    losses = [float(head.loss_and_accuracy(embeddings, labels)[0]) for labels in (LABELS[:BATCH], LABELS[:BATCH][::-1])]

    expected = share * losses[0] + (1 - share) * losses[1]
    assert lines(tmp_path / "run", "step")[0]["loss"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.slow
def test_a_plateau_lowers_the_rate_and_a_resume_keeps_it_low(tmp_path):
    stage = replace(STAGE, epochs=4, schedule="plateau", lr_drop=0.5, patience=1)
    recipe = replace(RECIPE, stage=(stage,))
    with pytest.raises(OSError):
        fit(tmp_path / "run", recipe, Data(fails_at=2 * STEPS + 2), evaluate=lambda _: evaluation(a=0.9))
    fit(tmp_path / "run", recipe, evaluate=lambda _: evaluation(a=0.9))

    rates = [line["learning_rate"] for line in lines(tmp_path / "run", "step")]

    assert rates == pytest.approx([0.05] * 2 * STEPS + [0.025] * STEPS + [0.0125] * STEPS)


class SpoilOnce(keras.callbacks.Callback):
    """Makes the weights infinite after batch `step`, `times` times."""

    def __init__(self, step, times=1):
        super().__init__()
        self.step, self.left = step, times

    def on_train_batch_end(self, batch, logs=None):
        if batch == self.step and self.left:
            self.left -= 1
            self.model.get_layer("embeddings").bias.assign([np.inf] * 4)


@pytest.mark.parametrize("checkpoint_every", [1, 1000])
def test_a_diverged_run_goes_back_and_on_at_half_the_rate(tmp_path, capsys, checkpoint_every):
    steady = replace(STAGE, schedule="constant")

    made, is_complete = fit(
        tmp_path / "run", replace(RECIPE, stage=(steady,)), callbacks=[SpoilOnce(1)], checkpoint_every=checkpoint_every
    )

    assert is_complete
    assert all(np.isfinite(v.numpy()).all() for v in made.parts.variables().values())
    good = 1 if checkpoint_every == 1 else 0
    rates = [line["learning_rate"] for line in lines(tmp_path / "run", "step")]
    assert rates == pytest.approx([0.05] * good + [0.025] * (2 * STEPS - good))
    assert [line["step"] for line in lines(tmp_path / "run", "rollback")] == [good]
    assert "roll-back 1 of at most 3" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("learning_rate", "expected"), slow_unless_quick([(0.05, 0.025), (0.02, 0.02)], [(0.02, 0.02)])
)
def test_a_rate_that_the_user_changes_on_a_resume_is_not_halved(tmp_path, capsys, learning_rate, expected):
    steady = replace(STAGE, schedule="constant")
    fit(tmp_path / "run", replace(RECIPE, stage=(steady,)), callbacks=[SpoilOnce(1)], max_steps=STEPS + 1)
    changed = replace(RECIPE, stage=(replace(steady, learning_rate=learning_rate),))

    fit(tmp_path / "run", changed, max_steps=1)
    made, _ = fit(tmp_path / "run", changed)

    rates = [line["learning_rate"] for line in lines(tmp_path / "run", "step")]
    assert rates == pytest.approx([0.05] + [0.025] * (STEPS - 1) + [expected] * STEPS)
    assert made.position.rollbacks == (learning_rate == 0.05)
    assert ("earlier roll-backs do not lower the new learning rate" in capsys.readouterr().out) == (
        learning_rate != 0.05
    )


@pytest.mark.slow
def test_the_halved_rate_of_a_stage_stays_when_that_of_a_later_one_is_changed(tmp_path):
    recipe = replace(RECIPE, stage=(replace(STAGE, schedule="constant"), Stage(loss="softmax", epochs=1)))
    fit(tmp_path / "run", recipe, callbacks=[SpoilOnce(1)], max_steps=STEPS + 1)
    changed = replace(recipe, stage=(recipe.stage[0], replace(recipe.stage[1], learning_rate=0.01)))

    made, _ = fit(tmp_path / "run", changed, max_steps=1)

    assert lines(tmp_path / "run", "step")[-1]["learning_rate"] == pytest.approx(0.025)
    assert made.position.rollbacks == 1


@pytest.mark.slow
def test_roll_backs_are_bounded_and_a_kill_does_not_give_new_ones(tmp_path):
    with pytest.raises(FaceError, match=r"must stay finite.*This happened 4 times.*Lower stage.0.learning_rate"):
        fit(tmp_path / "run", callbacks=[SpoilOnce(1, times=99)])
    with pytest.raises(FaceError, match="This happened 4 times"):
        fit(tmp_path / "run", callbacks=[SpoilOnce(1, times=99)])
    with pytest.raises(FaceError, match="This happened 1 times"):
        fit(tmp_path / "other", replace(RECIPE, nan_retries=0), callbacks=[SpoilOnce(1)])


class Vectors:
    """A teacher that knows `size` numbers of each record."""

    def __init__(self, size):
        self.size = size
        self.rows = np.random.default_rng(5).normal(size=(STEPS * BATCH, 2, size)).astype(np.float32)
        self.rows /= np.linalg.norm(self.rows, axis=-1, keepdims=True)

    def targets(self, record_idx, is_flipped):
        return self.rows[record_idx, is_flipped.astype(int)]


@pytest.mark.parametrize(("loss", "size"), slow_unless_quick([("distill", 6), ("arcface", 4)], ()))
def test_a_teacher_is_learned_alone_or_beside_a_margin_head(tmp_path, loss, size):
    own = {} if loss == "distill" else {"margin": 0.1, "scale": 8.0}
    stage = Stage(loss=loss, epochs=60, optimizer="adamw", learning_rate=0.02, weight_decay=0.0, **own)
    recipe = replace(RECIPE, teacher="t", stage=(stage,), data=replace(RECIPE.data, flip=False))
    teacher = Vectors(size)

    made, _ = fit(tmp_path / "run", recipe, teacher=teacher, checkpoint_every=1000)

    student = made.embedder(IMAGES).numpy()
    if size != 4:
        student = student @ made.parts.objective.distiller.projection.numpy()
    student /= np.linalg.norm(student, axis=1, keepdims=True)
    assert np.mean(np.sum(student * teacher.rows[:, 0], axis=1)) > (0.75 if loss == "distill" else 0.6)
    losses = [line["loss"] for line in lines(tmp_path / "run", "step")]
    assert losses[-1] < 0.5 * losses[0]


def test_a_mirrored_face_has_the_teachers_vector_of_the_mirrored_face(tmp_path):
    asked = []

    class Asked(Vectors):
        def targets(self, record_idx, is_flipped):
            asked.append(is_flipped.tolist())
            return super().targets(record_idx, is_flipped)

    stage = Stage(loss="distill", epochs=1)
    fit(tmp_path / "run", replace(RECIPE, teacher="t", stage=(stage,)), Data(flip=True), teacher=Asked(4))

    assert asked == [[False, True, False, True]] * STEPS


def test_a_new_run_begins_with_the_weights_it_is_given_and_a_resumed_one_does_not(tmp_path, capsys):
    calls = []

    def initialise(embedder, head):
        calls.append(head.centres.shape)
        return "weights of X"

    with pytest.raises(OSError):
        fit(tmp_path / "run", data=Data(fails_at=2), initialise=initialise)
    fit(tmp_path / "run", initialise=initialise)

    assert calls == [(CLASSES, 4)]
    assert "weights of X" in capsys.readouterr().out


def test_a_kill_between_an_epochs_metrics_and_its_checkpoint_repeats_neither(tmp_path):
    def killed(path):
        assert path == tmp_path / "run"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "run", on_epoch_end=killed)

    fit(tmp_path / "run")

    assert [line["epoch"] for line in lines(tmp_path / "run", "epoch")] == [1, 2]
    assert [line["step"] for line in lines(tmp_path / "run", "step")] == list(range(1, 2 * STEPS + 1))


def test_a_plot_that_fails_is_a_warning(tmp_path, capsys):
    def fails(path):
        raise ValueError("Double\nsubscript")

    fit(tmp_path / "run", on_epoch_end=fails)

    assert [line["epoch"] for line in lines(tmp_path / "run", "epoch")] == [1, 2]
    out = capsys.readouterr().out
    assert all(f"warning: the plots of epoch {n} were not drawn: Double subscript\n" in out for n in (1, 2))


@pytest.mark.slow
def test_metrics_of_steps_before_any_checkpoint_are_not_kept_twice(tmp_path):
    with pytest.raises(OSError):
        fit(tmp_path / "run", data=Data(fails_at=3), checkpoint_every=1000)

    fit(tmp_path / "run")

    assert [line["step"] for line in lines(tmp_path / "run", "step")] == list(range(1, 2 * STEPS + 1))
    assert [line["stage"] for line in lines(tmp_path / "run", "stage")] == [0]


def test_a_line_that_a_full_disk_cut_is_removed(tmp_path):
    with pytest.raises(OSError):
        fit(tmp_path / "run", data=Data(fails_at=4))
    metrics = tmp_path / "run" / "metrics.jsonl"
    metrics.write_bytes(metrics.read_bytes().removesuffix(b"\n"))

    fit(tmp_path / "run")

    assert [line["epoch"] for line in lines(tmp_path / "run", "epoch")] == [2]  # the cut one is lost, not garbled
    assert [line["step"] for line in lines(tmp_path / "run", "step")] == list(range(1, 2 * STEPS + 1))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("later", "best"),
    slow_unless_quick([({"a": 0.5}, 1), ({"b": 0.5}, 2), ({"a": 0.5, "b": 0.5}, 2)], [({"b": 0.5}, 2)]),
)
def test_best_compares_epochs_on_the_same_sets_only(tmp_path, later, best):
    with pytest.raises(OSError):
        fit(tmp_path / "run", data=Data(fails_at=STEPS + 2), evaluate=lambda _: evaluation(a=0.9))

    fit(tmp_path / "run", evaluate=lambda _: evaluation(**later))

    assert check_sidecar(tmp_path / "run" / "embedder.h5").rest["epoch"] == best


def test_a_kill_between_embedder_and_sidecar_is_mended_by_the_resume(tmp_path, monkeypatch):
    def killed(path, **more):
        if path.name == "embedder.h5":
            raise KeyboardInterrupt
        write_sidecar(path, **more)

    write_sidecar = epoch_files.write_sidecar
    monkeypatch.setattr(epoch_files, "write_sidecar", killed)
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "run", evaluate=lambda _: evaluation(a=0.9))
    monkeypatch.setattr(epoch_files, "write_sidecar", write_sidecar)

    fit(tmp_path / "run", evaluate=lambda _: evaluation(a=0.9))

    assert check_sidecar(tmp_path / "run" / "embedder.h5").rest["epoch"] == 2  # check_sidecar compares the hashes


def test_weights_that_are_not_finite_are_never_checkpointed(tmp_path):
    class Spoil(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 1:
                self.model.get_layer("embeddings").bias.assign([np.inf] * 4)

    with pytest.raises(FaceError, match=r"weights must stay finite.*embeddings/bias.*at step 2 .*records 4, 5, 6, 7"):
        fit(tmp_path / "run", replace(RECIPE, nan_retries=0), callbacks=[Spoil()])

    checkpoints = list_checkpoints(tmp_path / "run" / "checkpoint")
    assert [path.stem for path in checkpoints] == ["step-000000000", "step-000000001"]
    assert all(np.isfinite(array).all() for path in checkpoints for array in load_checkpoint(path)[0].values())


@pytest.mark.parametrize(
    "fails", slow_unless_quick(["create_file_writer", "scalar", "flush", "folder removed"], ["scalar"])
)
def test_a_tensorboard_log_that_cannot_be_written_is_one_warning(tmp_path, monkeypatch, capsys, fails):
    def full(*_):
        raise tf.errors.ResourceExhaustedError(None, None, "events.out; No space left on device")

    if fails == "folder removed":
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "provenance.json").write_text("{}")
        (tmp_path / "run" / "tensorboard").write_text("a file where the folder should be")
    else:
        writer = type(tf.summary.create_file_writer(str(tmp_path / "other")))
        monkeypatch.setattr(writer if fails == "flush" else tf.summary, fails, full)

    _, is_complete = fit(tmp_path / "run")

    assert is_complete
    assert capsys.readouterr().out.count("warning: the TensorBoard log") == 1
    assert len(lines(tmp_path / "run", "step")) == 6


@pytest.mark.parametrize(
    "method",
    slow_unless_quick(["on_train_begin", "on_train_batch_end", "on_epoch_end", "on_train_end"], ["on_epoch_end"]),
)
def test_a_callback_that_fails_is_one_warning(tmp_path, capsys, method):
    def fail(*_):
        raise ConnectionError("no answer\nfrom the tracker")

    tracker, other, called = keras.callbacks.Callback(), keras.callbacks.Callback(), []
    setattr(tracker, method, fail)
    setattr(other, method, lambda *_: called.append(1))

    _, is_complete = fit(
        tmp_path / "run", replace(RECIPE, stage=(replace(STAGE, epochs=1),)), callbacks=[tracker, other]
    )

    assert is_complete and called
    output = capsys.readouterr().out
    assert output.count(f"warning: the callback Callback failed in {method}") == 1 and "answer from" in output


def test_an_error_of_ours_in_a_callback_ends_the_training(tmp_path):
    class Refuse(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            raise FaceError("enough")

    with pytest.raises(FaceError, match="enough"):
        fit(tmp_path / "run", callbacks=[Refuse()])


def test_a_finished_run_says_so_and_trains_nothing(tmp_path, capsys):
    recipe = replace(RECIPE, stage=(replace(STAGE, epochs=1),))
    fit(tmp_path / "run", recipe)
    before = (tmp_path / "run" / "metrics.jsonl").read_text()
    capsys.readouterr()

    trainer, is_complete = fit(tmp_path / "run", recipe)

    assert is_complete and trainer.was_finished
    assert capsys.readouterr().out == "this run is finished: nothing to train\n"
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == before


def test_margin_and_accuracies_in_percent_are_logged_and_shown(tmp_path, capsys):
    recipe = replace(RECIPE, stage=(replace(STAGE, margin_warmup_steps=4), Stage(loss="softmax", learning_rate=0.01)))

    fit(tmp_path / "run", recipe, evaluate=lambda _: evaluation(toy=0.75))

    steps, epochs = lines(tmp_path / "run", "step"), lines(tmp_path / "run", "epoch")
    assert [line.get("margin") for line in steps[: 2 * STEPS]] == pytest.approx([0, 0.025, 0.05, 0.075, 0.1, 0.1])
    assert all("margin" not in line for line in steps[2 * STEPS :])  # softmax has none
    assert {line["accuracy"] % 25 for line in steps} == {0} and any(line["accuracy"] >= 25 for line in steps)
    assert {line["accuracy_unit"] for line in steps + epochs} == {"%"}
    assert epochs[0]["accuracy"] == pytest.approx(np.mean([line["accuracy"] for line in steps[:STEPS]]))
    assert {line["sets"]["toy"]["acc"] for line in epochs} == {75}
    assert "margin=0.050" in capsys.readouterr().err


@pytest.mark.slow
def test_steps_end_a_training_anywhere_and_the_resume_is_the_whole_run(tmp_path, capsys):
    drawn = []
    for name, steps in (("whole", (None,)), ("run", (2, 1, None))):
        for max_steps in steps:
            made, is_complete = fit(tmp_path / name, max_steps=max_steps, on_epoch_end=drawn.append)
            assert is_complete == (max_steps is None)
            assert made.stopped_by == (f"--steps {max_steps}" if max_steps else None)

    assert "stopped by --steps 2 at epoch 1, step 2" in capsys.readouterr().out
    assert drawn.count(tmp_path / "run") == 3  # after step 2, and after both epochs
    whole, run = (lines(tmp_path / name, "step") for name in ("whole", "run"))
    assert [(line["step"], line["loss"], line["learning_rate"]) for line in run] == [
        (line["step"], line["loss"], line["learning_rate"]) for line in whole
    ]


def test_a_finished_run_trains_longer_at_another_rate(tmp_path, capsys):
    fit(tmp_path / "run")
    longer = replace(RECIPE, stage=(replace(STAGE, epochs=3, learning_rate=0.01), Stage(loss="softmax")))

    _, is_complete = fit(tmp_path / "run", longer)

    assert is_complete and load_recipe(tmp_path / "run" / "config.toml") == longer
    out = capsys.readouterr().out
    assert "changed from this step on: " in out and "stage.0.epochs: 2 -> 3" in out
    (change,) = lines(tmp_path / "run", "change")
    assert change["step"] == 2 * STEPS and "stage.0.learning_rate: 0.05 -> 0.01" in change["changes"]
    steps = lines(tmp_path / "run", "step")
    assert [line["step"] for line in steps] == list(range(1, 4 * STEPS + 1))
    rates = [learning_rate_at(longer.stage[0], step, STEPS) for step in range(2 * STEPS, 3 * STEPS)]
    assert [line["learning_rate"] for line in steps[2 * STEPS : 3 * STEPS]] == pytest.approx(rates)
    assert [line["loss"] for line in lines(tmp_path / "run", "stage")] == ["arcface", "softmax"]


def test_another_batch_size_keeps_the_place_in_the_epoch(tmp_path):
    class Halves(Data):
        steps_per_epoch, batch_size = 2 * STEPS, BATCH // 2

        def bounds(self, step):
            return step * BATCH // 2, (step + 1) * BATCH // 2

        def stream(self, epoch, step, *, last_epoch):
            for batch in Data().stream(epoch, step // 2, last_epoch=last_epoch):
                for half in range(step % 2 if (batch.epoch, batch.step) == (epoch, step // 2) else 0, 2):
                    rows = slice(half * BATCH // 2, (half + 1) * BATCH // 2)
                    yield SimpleNamespace(
                        images=batch.images[rows], labels=batch.labels[rows], record_idx=batch.record_idx[rows],
                        epoch=batch.epoch, step=2 * batch.step + half, is_flipped=batch.is_flipped[rows],
                    )  # fmt: skip

    fit(tmp_path / "run", max_steps=STEPS + 1)
    smaller = replace(RECIPE, data=replace(RECIPE.data, batch_size=BATCH))

    made, is_complete = fit(tmp_path / "run", smaller, Halves())

    assert is_complete
    steps = lines(tmp_path / "run", "step")
    assert [line["step"] for line in steps] == list(range(1, STEPS + 1 + 2 * STEPS - 2 + 1))  # four halves were left
    assert made.position.stage_step == 4 * STEPS  # as if all steps had been of halves
    rates = [learning_rate_at(STAGE, step, 2 * STEPS) for step in range(2 * STEPS + 2, 4 * STEPS)]
    assert [line["learning_rate"] for line in steps[STEPS + 1 :]] == pytest.approx(rates)
