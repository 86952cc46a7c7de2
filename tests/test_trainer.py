"""The training loop and its run directory on a network of one layer: stages, resumes, and what interruptions leave."""

import errno
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf

from face_loss_k import ArcFace
from facelib import trainer as trainer_module
from facelib.checkpoint import list_checkpoints, load_checkpoint
from facelib.cli import FaceError
from facelib.recipe import Recipe, StageConfig, load_recipe
from facelib.run_dir import RunDir
from facelib.sidecar import check_sidecar
from facelib.trainer import Trainer

STEPS, BATCH, CLASSES = 3, 4, 5
STAGE = StageConfig(epochs=2, scale=8.0, margin=0.1, learning_rate=0.05)
RECIPE = Recipe(name="tiny", stage=(STAGE,))
IMAGES = np.random.default_rng(0).integers(0, 256, (STEPS * BATCH, 6, 6, 3), np.uint8)
LABELS = np.random.default_rng(1).integers(0, CLASSES, STEPS * BATCH).astype(np.int32)


class Records(list):
    """What the trainer asks of the records."""

    meta, num_classes, fingerprint = {}, CLASSES, "f"

    def describe(self, i):
        return f"record {i}"


class Data:
    """Batches of IMAGES in order; `fails_at` is the global step that raises instead."""

    steps_per_epoch = STEPS

    def __init__(self, fails_at=None):
        self.fails_at = fails_at
        self.records = Records(LABELS)

    def __len__(self):
        return len(IMAGES)

    def bounds(self, step):
        return step * BATCH, (step + 1) * BATCH

    def stream(self, epoch, step, *, last_epoch):
        for e in range(epoch, last_epoch + 1):
            for s in range(step if e == epoch else 0, STEPS):
                if e * STEPS + s + 1 == self.fails_at:
                    raise OSError(errno.ENOSPC, "full")
                idx = np.arange(*self.bounds(s))
                yield SimpleNamespace(images=IMAGES[idx], labels=LABELS[idx], record_idx=idx, epoch=e, step=s)


def evaluation(**accuracies):
    """What an evaluate function returns, for sets of these accuracies."""
    results = [
        SimpleNamespace(name=n, as_dict=lambda a=a: {"acc": a, "acc_std": 0.0, "auc": a, "eer": 0.0, "vr": {}})
        for n, a in accuracies.items()
    ]
    return SimpleNamespace(results=results, table=lambda: "")


def make_trainer(path, recipe=RECIPE, data=None, evaluate=None, **options):
    keras.utils.set_random_seed(0)
    faces = keras.Input((6, 6, 3), name="input_1")
    x = keras.layers.Flatten(name="flat")(keras.layers.Rescaling(1 / 255, name="scaled")(faces))
    embedder = keras.Model(faces, keras.layers.Dense(4, name="embeddings")(x), name="tiny")
    head = ArcFace(CLASSES, name="head")
    head.build((None, 4), (None,))
    run = RunDir(path, recipe, Path("data"), "f")
    options = {"checkpoint_every": 1, "log_every": 1} | options
    return Trainer(recipe, embedder, head, [], data or Data(), evaluate, run, **options)


def fit(*args, **options):
    """A whole process's worth: opens, trains, and lets go of the run directory even when it fails."""
    made = make_trainer(*args, **options)
    try:
        return made, made.fit()
    finally:
        made.run.close()


def lines(path, kind):
    found = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [line for line in found if line["kind"] == kind]


@pytest.fixture(autouse=True)
def no_plots(monkeypatch):
    monkeypatch.setattr(trainer_module, "write_training_plots", lambda path: None)


def test_each_stage_has_its_own_scale(tmp_path):
    still = replace(STAGE, epochs=1, margin=0.0, learning_rate=1e-12, weight_decay=0.0)
    recipe = replace(RECIPE, stage=(replace(still, scale=1.0), replace(still, scale=64.0)))

    made, _ = fit(tmp_path / "run", recipe)

    rows, centres = (
        v / np.linalg.norm(v, axis=1, keepdims=True)
        for v in (made.embedder(IMAGES[:BATCH].astype("float32")).numpy(), made.head.centres.numpy())
    )
    for scale, step in ((1.0, 0), (64.0, STEPS)):
        logits = scale * rows @ centres.T
        expected = np.mean(np.log(np.exp(logits).sum(1)) - logits[np.arange(BATCH), LABELS[:BATCH]])
        assert lines(tmp_path / "run", "step")[step]["loss"] == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_run_resumes_in_its_second_stage(tmp_path, optimizer):
    recipe = replace(RECIPE, stage=(STAGE, replace(STAGE, optimizer=optimizer, learning_rate=0.01)))
    whole, _ = fit(tmp_path / "whole", recipe)
    with pytest.raises(OSError):
        fit(tmp_path / "run", recipe, Data(fails_at=2 * STEPS + 3))

    resumed, is_complete = fit(tmp_path / "run", recipe)

    assert is_complete
    for a, b in zip(resumed._variables().items(), whole._variables().items(), strict=True):
        assert a[0] == b[0]
        np.testing.assert_array_equal(a[1].numpy(), b[1].numpy(), err_msg=a[0])


def test_a_kill_between_an_epochs_metrics_and_its_checkpoint_repeats_neither(tmp_path, monkeypatch):
    def killed(path):
        raise KeyboardInterrupt

    monkeypatch.setattr(trainer_module, "write_training_plots", killed)
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "run")
    monkeypatch.setattr(trainer_module, "write_training_plots", lambda path: None)

    fit(tmp_path / "run")

    assert [line["epoch"] for line in lines(tmp_path / "run", "epoch")] == [1, 2]
    assert [line["step"] for line in lines(tmp_path / "run", "step")] == list(range(1, 2 * STEPS + 1))


def test_metrics_of_steps_before_any_checkpoint_are_not_kept_twice(tmp_path):
    with pytest.raises(OSError):
        fit(tmp_path / "run", data=Data(fails_at=3), checkpoint_every=1000)

    fit(tmp_path / "run")

    assert [line["step"] for line in lines(tmp_path / "run", "step")] == list(range(1, 2 * STEPS + 1))


def test_a_line_that_a_full_disk_cut_is_written_anew(tmp_path):
    with pytest.raises(OSError):
        fit(tmp_path / "run", data=Data(fails_at=4))
    metrics = tmp_path / "run" / "metrics.jsonl"
    metrics.write_bytes(metrics.read_bytes().removesuffix(b"\n"))

    fit(tmp_path / "run")

    assert [line["epoch"] for line in lines(tmp_path / "run", "epoch")] == [2]  # the cut one is lost, not garbled
    assert [line["step"] for line in lines(tmp_path / "run", "step")] == list(range(1, 2 * STEPS + 1))


@pytest.mark.parametrize(("later", "best"), [({"a": 0.5}, 1), ({"b": 0.5}, 2), ({"a": 0.5, "b": 0.5}, 2)])
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

    write_sidecar = trainer_module.write_sidecar
    monkeypatch.setattr(trainer_module, "write_sidecar", killed)
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "run", evaluate=lambda _: evaluation(a=0.9))
    monkeypatch.setattr(trainer_module, "write_sidecar", write_sidecar)

    fit(tmp_path / "run", evaluate=lambda _: evaluation(a=0.9))

    assert check_sidecar(tmp_path / "run" / "embedder.h5").rest["epoch"] == 2  # check_sidecar compares the hashes


def test_weights_that_are_not_finite_are_never_checkpointed(tmp_path):
    class Spoil(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 1:
                self.model.get_layer("embeddings").bias.assign([np.inf] * 4)

    with pytest.raises(FaceError, match=r"weights must stay finite.*embeddings/bias.*at step 2 .*records 4, 5, 6, 7"):
        fit(tmp_path / "run", callbacks=[Spoil()])

    checkpoints = list_checkpoints(tmp_path / "run" / "checkpoint")
    assert [path.stem for path in checkpoints] == ["step-000000001"]
    assert all(np.isfinite(array).all() for array in load_checkpoint(checkpoints[0])[0].values())


def test_a_full_disk_under_tensorboard_is_a_full_disk(tmp_path, monkeypatch):
    def full(name, value):
        raise tf.errors.ResourceExhaustedError(None, None, "events.out; No space left on device")

    monkeypatch.setattr(tf.summary, "scalar", full)

    with pytest.raises(OSError, match="tensorboard") as caught:
        fit(tmp_path / "run")

    assert caught.value.errno == errno.ENOSPC


# ------------------------------------------------------------------------------------------- run directory


def open_run(path, recipe=RECIPE, fingerprint="f"):
    return RunDir(path, recipe, Path("data"), fingerprint)


def test_two_processes_do_not_share_a_run(tmp_path):
    first = open_run(tmp_path / "run")
    with pytest.raises(FaceError, match="Another process trains into"):
        open_run(tmp_path / "run")

    first.close()

    open_run(tmp_path / "run").close()


def test_a_run_that_was_refused_is_not_locked(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    for _ in range(2):
        with pytest.raises(FaceError, match="holds other files"):
            open_run(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("left", [["provenance.json"], ["provenance.json", "config.toml"]])
def test_a_run_without_a_checkpoint_may_begin_with_another_recipe(tmp_path, left):
    open_run(tmp_path / "run").close()
    for file in (tmp_path / "run").iterdir():
        if file.name not in left:
            file.unlink()
    other = replace(RECIPE, seed=7)

    open_run(tmp_path / "run", other, "g").close()

    assert load_recipe(tmp_path / "run" / "config.toml") == other
    assert json.loads((tmp_path / "run" / "provenance.json").read_text())["data"]["fingerprint"] == "g"


def test_the_config_of_another_program_is_not_overwritten(tmp_path):
    (tmp_path / "config.toml").write_text("mine = 1\n")
    with pytest.raises(FaceError, match="holds other files"):
        open_run(tmp_path)
    assert (tmp_path / "config.toml").read_text() == "mine = 1\n"


def test_half_written_files_of_a_killed_process_are_removed(tmp_path):
    open_run(tmp_path / "run").close()
    (tmp_path / "run" / "checkpoint").mkdir()
    left = [tmp_path / "run" / name for name in (".epoch-001.h5.7.h5", "checkpoint/.step-000000001.npz.7.part")]
    for file in left:
        file.write_bytes(b"x")

    open_run(tmp_path / "run").close()

    assert not any(file.exists() for file in left)


def test_a_run_with_a_model_keeps_its_recipe_and_data(tmp_path):
    fit(tmp_path / "run")
    for path in list_checkpoints(tmp_path / "run" / "checkpoint"):
        path.unlink()

    with pytest.raises(FaceError, match="begun with another recipe \\(seed: 0 -> 7\\)"):
        open_run(tmp_path / "run", replace(RECIPE, seed=7))
    with pytest.raises(FaceError, match="begun on other data"):
        open_run(tmp_path / "run", fingerprint="g")
