"""train.py as a user runs it: complete runs, resumes after kill -9, stops, and errors."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest

import train
from facelib.errors import FaceError
from facelib.training.checkpoint import list_checkpoints, load_checkpoint
from tests.helpers.fake_gpu import A100, fake_gpu
from tests.helpers.tiny_train import tiny_backbone
from tests.helpers.toy_data import write_data, write_toy_pairs

ROOT = Path(__file__).parents[2]
TINY = ROOT / "tests" / "helpers" / "tiny_train.py"  # train.py with a small net
STEPS_PER_EPOCH = 5
RECIPE = """
name = "tiny"
deterministic = true
[model]
width = 0.25
embedding_size = 32
dropout = 0.2
[data]
batch_size = 16
[[stage]]
epochs = 2
scale = 16.0
margin = 0.2
margin_warmup_steps = 4
warmup_steps = 2
"""

STAGES = """
[[stage]]
loss = "softmax"
epochs = 1
optimizer = "adam"
learning_rate = 0.01
[[stage]]
loss = "softmax"
center_loss = 0.1
epochs = 1
learning_rate = 0.01
[[stage]]
loss = "arcface"
scale = 16.0
epochs = 1
optimizer = "sgd"
[[stage]]
loss = "semi_hard_triplet"
images_per_identity = 4
epochs = 1
learning_rate = 0.01
"""


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """Eighty toy images of ten people, a bin of 40 pairs, and a recipe of two epochs of five steps."""
    folder = tmp_path_factory.mktemp("toy")
    write_data(folder, 10, 8)
    write_toy_pairs(folder)
    (folder / "tiny.toml").write_text(RECIPE)
    (folder / "staged.toml").write_text(RECIPE[: RECIPE.index("[[stage]]")] + STAGES)
    return folder


def command(toy, out, *more, recipe="tiny.toml", script=TINY):
    return [sys.executable, str(script), toy / recipe, "--data", toy / "data",
            "--valid", toy / "toy.bin", "--out", out, "--log-every", "1", "--checkpoint-every", "1", *more]  # fmt: skip


def run(toy, out, *more, script=TINY, **keywords):
    words = command(toy, out, *more, script=script)
    return subprocess.run(words, capture_output=True, text=True, timeout=300, **keywords)


def start(toy, out, *more):
    return subprocess.Popen(command(toy, out, *more), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_step(out, step, process):
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and process.poll() is None:
        if any(int(path.stem[5:]) >= step for path in list_checkpoints(out / "checkpoint")):
            return
        time.sleep(0.01)
    pytest.fail(f"step {step} was never reached: {process.communicate()}")


def lines(out, kind):
    found = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [line for line in found if line["kind"] == kind]


@pytest.fixture(scope="module")
def whole(toy):
    """A run that nothing interrupts."""
    result = run(toy, toy / "whole")
    assert result.returncode == 0, result.stderr
    return toy / "whole", result.stdout


def test_a_run_leaves_everything_the_next_stage_needs(whole):
    out, stdout = whole

    expected = {"config.toml", "provenance.json", "metrics.jsonl", "tensorboard", "checkpoint", "plots"}
    expected |= {"epoch-001.h5", "epoch-002.h5", "embedder.h5", "embedder.h5.json"}
    assert expected <= {path.name for path in out.iterdir()}
    assert [line["step"] for line in lines(out, "step")] == list(range(1, 2 * STEPS_PER_EPOCH + 1))
    assert [line["epoch"] for line in lines(out, "epoch")] == [1, 2]
    assert re.match(r"training on the CPU, \d+ threads?\n", stdout)
    assert "data set | AUC" in stdout and "toy" in stdout
    assert stdout.rstrip().endswith(f"next: python h5_2_pb.py {out / 'embedder.h5'}")


def test_the_embedder_is_the_best_epoch_without_its_head(whole):
    from facelib.runtimes.keras_h5 import load_model

    out, _ = whole
    scores = [(line["sets"]["toy"]["acc"], line["sets"]["toy"]["auc"]) for line in lines(out, "epoch")]
    best = max(range(2), key=lambda i: (scores[i], i)) + 1
    faces = np.random.default_rng(0).integers(0, 256, (2, 112, 112, 3)).astype("float32")

    embedder, epoch = load_model(out / "embedder.h5"), load_model(out / f"epoch-{best:03d}.h5")

    assert embedder.output_shape == (None, 32)
    np.testing.assert_array_equal(embedder(faces), epoch(faces))
    assert (out / f"epoch-{best:03d}.h5").stat().st_size > (out / "embedder.h5").stat().st_size  # it has the centres


@pytest.mark.slow
def test_a_kill_inside_the_third_of_four_stages_changes_no_loss(toy, tmp_path):
    for name, killed_at in (("whole", None), ("run", 2 * STEPS_PER_EPOCH + 2)):
        staged = command(toy, tmp_path / name, recipe="staged.toml")
        if killed_at:
            process = subprocess.Popen(staged, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            wait_for_step(tmp_path / name, killed_at, process)
            process.send_signal(signal.SIGKILL)
            process.communicate()
            assert lines(tmp_path / name, "stage")[-1]["loss"] == "arcface"
        done = subprocess.run(staged, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr

    assert "resuming at epoch 3" in done.stdout
    losses = [[line["loss"] for line in lines(tmp_path / name, "step")] for name in ("whole", "run")]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 4 * STEPS_PER_EPOCH
    stages = [line["loss"] for line in lines(tmp_path / "run", "stage")]
    assert stages == ["softmax", "softmax", "arcface", "semi_hard_triplet"]


@pytest.mark.slow
@pytest.mark.parametrize("killed_at", [3, STEPS_PER_EPOCH + 2])
def test_kill_minus_nine_and_resume_is_bitwise_the_uninterrupted_run(toy, whole, tmp_path, killed_at):
    process = start(toy, tmp_path / "run")
    wait_for_step(tmp_path / "run", killed_at, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()

    result = run(toy, tmp_path / "run")

    assert result.returncode == 0, result.stderr
    assert "resuming at epoch" in result.stdout
    resumed, uninterrupted = lines(tmp_path / "run", "step"), lines(whole[0], "step")
    assert [line["step"] for line in resumed] == [line["step"] for line in uninterrupted]
    assert [line["loss"] for line in resumed] == [line["loss"] for line in uninterrupted]
    last = [load_checkpoint(list_checkpoints(out / "checkpoint")[-1])[0] for out in (tmp_path / "run", whole[0])]
    for name, array in last[1].items():
        np.testing.assert_array_equal(last[0][name], array, err_msg=name)
    epochs = [[{k: line[k] for k in ("loss", "accuracy", "sets")} for line in lines(out, "epoch")]
              for out in (tmp_path / "run", whole[0])]  # fmt: skip
    assert epochs[0] == epochs[1]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_signal_writes_a_checkpoint_and_ends_cleanly(toy, tmp_path, number):
    process = start(toy, tmp_path / "run", "--checkpoint-every", "1000", "--set", "stage.0.epochs=50")
    deadline, metrics = time.monotonic() + 200, tmp_path / "run" / "metrics.jsonl"
    while not (metrics.exists() and '"kind": "step"' in metrics.read_text()) and time.monotonic() < deadline:
        time.sleep(0.01)

    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=100)

    assert process.returncode == 128 + number, stderr
    assert f"stopped by {signal.Signals(number).name}" in stdout
    step = lines(tmp_path / "run", "step")[-1]["step"]
    assert int(list_checkpoints(tmp_path / "run" / "checkpoint")[-1].stem[5:]) == step


@pytest.mark.slow
def test_in_lanes_kill_minus_nine_and_resume_is_bitwise_the_uninterrupted_run(toy, tmp_path):
    lanes = ["--set", "train.batch_norm=part", "train.part=8", "train.lanes=2"]
    uninterrupted = run(toy, tmp_path / "whole", *lanes)
    process = start(toy, tmp_path / "run", *lanes)
    wait_for_step(tmp_path / "run", 3, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()

    result = run(toy, tmp_path / "run", *lanes)

    assert uninterrupted.returncode == result.returncode == 0, result.stderr
    assert "training on the CPU, 2 lanes of" in result.stdout and "resuming at epoch" in result.stdout
    for kind in ("step", "epoch"):
        resumed, whole = ([(line["loss"], line.get("sets")) for line in lines(tmp_path / name, kind)]
                          for name in ("run", "whole"))  # fmt: skip
        assert resumed == whole


@pytest.mark.slow
def test_n_and_enter_ends_after_the_epoch(toy, tmp_path):
    result = run(toy, tmp_path / "run", input="n\n")

    assert result.returncode == 0, result.stderr
    assert "stopped by n + Enter at epoch 2, step 0" in result.stdout
    assert lines(tmp_path / "run", "step")[-1]["step"] == STEPS_PER_EPOCH


@pytest.mark.slow
def test_a_finished_run_does_nothing_more(toy, whole):
    before = (whole[0] / "metrics.jsonl").read_bytes()

    result = run(toy, whole[0])

    assert result.returncode == 0, result.stderr
    assert (whole[0] / "metrics.jsonl").read_bytes() == before


@pytest.mark.slow
def test_a_non_finite_loss_names_step_records_and_last_good_checkpoint(toy, tmp_path):
    result = run(toy, tmp_path / "run", "--set", "stage.0.learning_rate=1e30", "--set", "stage.0.clip_norm=0.0")

    assert result.returncode == 1
    error = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(error) == 1 and "Traceback" not in result.stderr
    assert "must stay finite" in error[0] and "train-00000-of-00001.tfrecord record" in error[0]
    step = int(error[0].split(" at step ")[1].split()[0])
    good = list_checkpoints(tmp_path / "run" / "checkpoint")[-1]
    assert str(good) in error[0] and int(good.stem[5:]) == step - 1
    assert all(np.isfinite(array).all() for array in load_checkpoint(good)[0].values())


def test_bad_input_is_one_line_and_nothing_is_written(toy, whole, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    cases = [
        (["--data", tmp_path / "none"], "There are no training data"),
        (["--valid", tmp_path / "empty"], "make_bin.py"),
        (["--set", "stage.0.epoch=3"], "Did you mean 'stage.0.epochs'"),
        (["--set", "data.batch_size=many"], "must be int"),
        (["--out", tmp_path / "full"], "holds other files"),
        (["--out", tmp_path / "file"], "is a file"),
        (["--out", whole[0], "--set", "model.width=0.5"], "model.width: 0.25 -> 0.5"),
        (["--set", "model.backbone=resnet"], "mobilefacenet"),
    ]
    for more, expected in cases:
        with pytest.raises(FaceError) as error:
            train.main([str(word) for word in command(toy, tmp_path / "run", *more)[2:]])

        assert expected in str(error.value) and "\n" not in str(error.value), more
    result = run(toy, tmp_path / "run", *cases[0][0])
    assert result.returncode == 1
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1, result.stderr
    assert not (tmp_path / "run").exists()
    assert (tmp_path / "full" / "notes.txt").read_text() == "mine"


def test_a_gpu_that_tensorflow_does_not_see_stops_before_anything_is_written(toy, tmp_path, monkeypatch):
    fake_gpu(tmp_path, monkeypatch, A100)
    words = [str(word) for word in command(toy, tmp_path / "run")[2:]]
    with pytest.raises(FaceError, match=r"Found: nvidia-smi lists NVIDIA A100-SXM4-40GB, .*Missing: libcudart"):
        train.main(words)
    assert not (tmp_path / "run").exists()

    def goes_on(*args):
        raise KeyError("it goes on")

    monkeypatch.setattr(train, "open_run", goes_on)
    with pytest.raises(KeyError, match="it goes on"):
        train.main([*words, "--device", "cpu"])


def test_a_dry_run_prints_schedule_memory_and_time_and_writes_a_picture_alone(toy, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "backbones", SimpleNamespace(build_backbone=tiny_backbone))
    words = command(toy, tmp_path / "runs" / "a", "--dry-run", "--set", "stage.0.warmup_steps=99")

    assert train.main([str(word) for word in words[2:]]) == 0

    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["a.schedule.png"]
    out = capsys.readouterr().out
    assert "data:   80 images, 10 identities; 16 images a step, 5 steps an epoch; 1 verification set" in out
    assert "arcface" in out and "0, from step 5 0.2" in out
    assert "warning: stage.0.warmup_steps: the warm-up takes 99 steps, the stage has 10 steps" in out
    assert re.search(r"memory: host \d+\.\d\d GB at most so far .*; device the same", out)
    assert re.search(r"time:   \d+\.\d{3} s a step, .* images/s \(20 steps of stage 0, .*; all 10 steps", out)


@pytest.mark.slow
def test_a_damaged_record_stops_the_run_by_name(toy, tmp_path):
    shutil.copytree(toy / "data", tmp_path / "data")
    shard = next((tmp_path / "data").glob("*.tfrecord"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 0xFF
    shard.write_bytes(content)

    result = run(toy, tmp_path / "run", "--data", tmp_path / "data")

    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert f"{shard.name} record" in result.stderr.splitlines()[-1]


@pytest.mark.slow
def test_mixed_precision_trains_and_embeds_in_float32(toy, tmp_path):
    sets = ("--set", "precision=mixed_float16", "--set", "stage.0.epochs=1")

    result = run(toy, tmp_path / "run", *sets, script=ROOT / "train.py")

    assert result.returncode == 0, result.stderr
    assert all(np.isfinite(line["loss"]) for line in lines(tmp_path / "run", "step"))


@pytest.mark.slow
def test_adamw_and_a_frozen_stage_change_only_what_they_should(toy, tmp_path):
    stages = '[[stage]]\nepochs = 1\noptimizer = "adamw"\nlearning_rate = 0.001\nschedule = "step"\n'
    stages += "[[stage]]\nepochs = 1\nfreeze_backbone = true\n"
    (tmp_path / "two.toml").write_text(RECIPE.split("[[stage]]")[0] + stages)

    argv = command(toy, tmp_path / "run", script=ROOT / "train.py")
    argv[2] = tmp_path / "two.toml"

    result = subprocess.run(argv, capture_output=True, text=True, timeout=300)

    assert result.returncode == 0, result.stderr
    with h5py.File(tmp_path / "run" / "epoch-001.h5") as one, h5py.File(tmp_path / "run" / "epoch-002.h5") as two:
        changed = {name for name, before in weights(one).items() if not np.array_equal(before, weights(two)[name])}
    assert changed == {name for name in changed if "centres" in name} and len(changed) == 1


def weights(file):
    """{name: array} of all weights of an .h5."""
    found = {}
    file["model_weights"].visititems(
        lambda name, item: found.update({name: item[()]}) if hasattr(item, "dtype") else None
    )
    return found
