"""Trainings on several workers, real processes on loopback, against one: losses, kills, resumes on another number."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from facelib.data.conversion.job import convert
from facelib.data.synthetic.files import SyntheticSet, write_folders, write_pairs
from facelib.runtimes.keras_h5 import load_head_centres, load_model
from facelib.training.checkpoint import list_checkpoints, load_checkpoint, read_rows
from tests.distributed.test_workers import free_ports

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "tests" / "helpers" / "tiny_train.py"  # train.py with a small net
CHILD = Path(__file__).parents[1] / "helpers" / "worker_training.py"
STEPS, EPOCHS = 5, 2


def train(run, count, **options):
    """Runs a training on so many workers: (exit code, output)."""
    launch = [sys.executable, str(ROOT / "launch.py"), "-n", str(count), "--grace", "20"]
    command = [*launch, str(CHILD), str(run), json.dumps(options)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=400)
    return done.returncode, done.stdout


def losses(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["kind"] == "step"]
    assert [line["step"] for line in steps] == list(range(1, len(steps) + 1))  # nothing repeated, nothing skipped
    return [line["loss"] for line in steps]


def arrays(run):
    """All variables of the last checkpoint, whoever wrote which rows."""
    path = list_checkpoints(run / "checkpoint")[-1]
    found, state = load_checkpoint(path)
    files = state.get("row_files", [])
    wanted = {name for file in files for name in np.load(path.parent / file).files}
    return found | read_rows(path, files, wanted, 0, 10**9)


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """The run of one worker."""
    run = tmp_path_factory.mktemp("one") / "run"
    code, output = train(run, 1)
    assert code == 0, output
    return run


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3])
def test_a_training_on_several_workers_is_that_of_one(one, tmp_path, count):
    code, output = train(tmp_path / "run", count)

    assert code == 0, output
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(one), rtol=2e-4)
    mine, theirs = arrays(tmp_path / "run"), arrays(one)
    assert mine.keys() == theirs.keys()
    for name, array in theirs.items():
        np.testing.assert_allclose(mine[name], array, rtol=2e-2, atol=2e-3, err_msg=name)
    assert len(list((tmp_path / "run" / "checkpoint").glob("step-*010.rows-*.npz"))) == count
    np.testing.assert_allclose(
        load_head_centres(tmp_path / "run" / "epoch-002.h5"), load_head_centres(one / "epoch-002.h5"), atol=2e-3
    )
    faces = np.random.default_rng(0).uniform(0, 255, (3, 6, 6, 3)).astype(np.float32)
    embeddings = [load_model(run / "embedder.h5")(faces).numpy() for run in (tmp_path / "run", one)]
    np.testing.assert_allclose(*embeddings, atol=5e-3)


@pytest.mark.slow
def test_killed_on_two_resumed_on_three_stopped_resumed_on_one_is_the_uninterrupted_run(one, tmp_path):
    run = tmp_path / "run"
    start = time.monotonic()
    code, output = train(run, 2, kill=[1, 3])
    assert code == 137, output
    assert time.monotonic() - start < 60 + 60  # the start and two steps, and then at most a minute
    assert "Worker 1 was killed by SIGKILL" in output and "Traceback" not in output, output
    assert list_checkpoints(run / "checkpoint")[-1].name == "step-000000002.npz"

    code, output = train(run, 3, stop=[2, 4])  # one worker's SIGTERM stops all, at the same step
    assert code == 143 and "resuming at epoch 1, step 2" in output and "stopped by SIGTERM" in output, output
    assert "\nerror: " not in output and re.search(r"Worker \d was stopped by SIGTERM", output), output
    code, output = train(run, 1)
    assert code == 0 and "resuming at epoch 2, step" in output, output

    assert len(losses(run)) == STEPS * EPOCHS
    np.testing.assert_allclose(losses(run), losses(one), rtol=2e-4)


@pytest.mark.slow
def test_triplets_are_formed_over_all_workers(tmp_path):
    for count in (1, 2):
        code, output = train(tmp_path / str(count), count, loss="triplet")
        assert code == 0, output
    np.testing.assert_allclose(losses(tmp_path / "2"), losses(tmp_path / "1"), rtol=2e-4)


@pytest.mark.slow
def test_a_sampled_and_split_training_resumes_as_if_never_killed(tmp_path):
    code, output = train(tmp_path / "whole", 2, sample_rate=0.5, mixup=0.4)
    assert code == 0, output
    code, output = train(tmp_path / "run", 2, sample_rate=0.5, mixup=0.4, kill=[0, 7])
    assert code == 137, output
    code, output = train(tmp_path / "run", 2, sample_rate=0.5, mixup=0.4)
    assert code == 0, output

    np.testing.assert_allclose(losses(tmp_path / "run"), losses(tmp_path / "whole"), rtol=1e-5)
    assert np.mean(losses(tmp_path / "whole")[-5:]) < np.mean(losses(tmp_path / "whole")[:5])


# ------------------------------------------------------------------------------------------------- train.py


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """(data directory, verification set, recipe) of a few synthetic faces."""
    folder = tmp_path_factory.mktemp("toy")
    write_folders(folder / "faces", SyntheticSet(12, 4))
    convert(folder / "faces", folder / "data", progress=False)
    write_pairs(folder / "toy.bin", SyntheticSet(20, 4, first_identity=10**6), 100)
    recipe = folder / "tiny.toml"
    recipe.write_text(
        "[model]\nembedding_size = 8\n"
        "[data]\nbatch_size = 16\n[[stage]]\nscale = 16.0\nsample_rate = 0.5\nlearning_rate = 0.01\n"
    )
    return folder / "data", folder / "toy.bin", recipe


def train_py(toy, run, *more):
    data, valid, recipe = map(str, toy)
    return [str(TINY), recipe, "--data", data, "--valid", valid, "--out", str(run), "--log-every", "1", *more]


@pytest.mark.slow
def test_train_py_on_two_workers_prints_one_table_and_writes_one_run(toy, tmp_path):
    launch = [sys.executable, "launch.py", "-n", "2", *train_py(toy, tmp_path / "run", "--checkpoint-every", "2")]
    done = subprocess.run(launch, cwd=ROOT, capture_output=True, text=True, timeout=500)

    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("VR @ FAR") == 1 and "; 2 workers" in done.stdout
    assert len(losses(tmp_path / "run")) == 3
    assert load_model(tmp_path / "run" / "embedder.h5").output_shape == (None, 8)
    assert load_head_centres(tmp_path / "run" / "epoch-001.h5").shape == (12, 8)


@pytest.mark.slow
def test_workers_with_another_recipe_are_named(toy, tmp_path):
    addresses = [f"127.0.0.1:{port}" for port in free_ports(2)]
    processes = []
    for rank in range(2):
        config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": rank}}
        command = [sys.executable, *train_py(toy, tmp_path / "run", "--set", f"seed={rank}")]
        env = os.environ | {"TF_CONFIG": json.dumps(config)}
        processes.append(subprocess.Popen(command, cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True))
    outputs = [process.communicate(timeout=400)[1] for process in processes]

    assert [process.returncode for process in processes] == [1, 1], outputs
    for output in outputs:
        errors = [line for line in output.split("\n") if line.startswith("error: ")]
        assert (
            len(errors) == 1 and "All workers must train with the same recipe. Worker 1 has a different" in errors[0]
        ), output
        assert "Traceback" not in output
