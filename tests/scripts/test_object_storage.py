"""The whole road over S3: prepare there, train from there, killed and resumed. moto's server is a real S3 endpoint."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from facelib.data.synthetic.files import HELD_OUT_IDENTITY, SyntheticSet, write_folders, write_pairs

ROOT = Path(__file__).parents[2]
TINY = ROOT / "tests" / "helpers" / "tiny_train.py"  # train.py with a small net
SHORT = [
    *("--set", "deterministic=true"), *("--set", "stage.0.epochs=1"), *("--set", "model.width=0.25"),
    *("--set", "data.batch_size=20"), *("--set", "data.shuffle=blocks"), *("--checkpoint-every", "4"),
]  # fmt: skip


@pytest.fixture(scope="module")
def bucket(tmp_path_factory):
    """(Address of an empty bucket, environment that reaches it), on a port of the loopback interface."""
    pytest.importorskip("moto.server")
    pytest.importorskip("s3fs")
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    _, port = server.get_host_and_port()
    address = f"http://127.0.0.1:{port}"
    urllib.request.urlopen(urllib.request.Request(f"{address}/faces", method="PUT"), timeout=30).close()
    yield (
        "s3://faces",
        {
            **os.environ,
            "AWS_ENDPOINT_URL": address,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "XDG_CACHE_HOME": str(tmp_path_factory.mktemp("cache")),
        },
    )
    server.stop()


def run(environ, *words):
    done = subprocess.run(
        [sys.executable, *map(str, words)], cwd=ROOT, env=environ, capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def losses(run_dir):
    """{step: loss} of the last line of each step."""
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines if line["kind"] in ("step", "epoch")}


@pytest.mark.slow
def test_a_training_from_s3_that_was_killed_ends_as_one_from_local_files(bucket, tmp_path):
    stored, environ = f"{bucket[0]}/data", bucket[1]
    write_folders(tmp_path / "faces", SyntheticSet(30, 10))
    write_pairs(tmp_path / "valid.bin", SyntheticSet(20, 4, HELD_OUT_IDENTITY), 40)
    words = ["train.py", "recipes/toy.toml", "--valid", tmp_path / "valid.bin", *SHORT]
    run(environ, "prepare_data.py", tmp_path / "faces", tmp_path / "local", "--shards", "3")
    run(environ, *words, "--data", tmp_path / "local", "--out", tmp_path / "a")

    wrote = run(environ, "prepare_data.py", tmp_path / "faces", stored, "--shards", "3")
    again = run(environ, "prepare_data.py", tmp_path / "faces", stored, "--shards", "3")
    assert "wrote s3://faces/data: 300 images" in wrote
    assert "already there, nothing to do" in again

    command = [sys.executable, *map(str, words), "--data", stored, "--out", str(tmp_path / "b")]
    process = subprocess.Popen(command, cwd=ROOT, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 300
    while not list((tmp_path / "b" / "checkpoint").glob("step-000000004.npz")):
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    out = run(environ, *words, "--data", stored, "--out", tmp_path / "b")

    assert "resuming at epoch 1, step" in out
    assert losses(tmp_path / "b") == losses(tmp_path / "a")


@pytest.mark.slow
def test_two_workers_train_from_s3_as_from_local_files(bucket, tmp_path):
    stored, environ = f"{bucket[0]}/shared", bucket[1]
    write_folders(tmp_path / "faces", SyntheticSet(30, 10))
    run(environ, "prepare_data.py", tmp_path / "faces", tmp_path / "local", "--shards", "3")
    run(environ, "prepare_data.py", tmp_path / "faces", stored, "--shards", "3")
    write_pairs(tmp_path / "valid.bin", SyntheticSet(20, 4, HELD_OUT_IDENTITY), 40)
    words = ["launch.py", "-n", "2", TINY, "recipes/toy.toml", "--valid", tmp_path / "valid.bin", *SHORT]

    for name, data in (("a", tmp_path / "local"), ("b", stored)):
        out = run(environ, *words, "--log-every", "1", "--data", data, "--out", tmp_path / name)
        assert "; 2 workers" in out

    found, expected = losses(tmp_path / "b"), losses(tmp_path / "a")
    assert found.keys() == expected.keys() and len(found) == 15
    assert found == pytest.approx(expected, rel=1e-4)  # sums between workers are in no fixed order


@pytest.mark.slow
def test_another_source_for_the_same_address_is_refused(bucket, tmp_path):
    stored, environ = f"{bucket[0]}/other", bucket[1]
    write_folders(tmp_path / "faces", SyntheticSet(3, 3))
    write_folders(tmp_path / "more", SyntheticSet(4, 3))
    run(environ, "prepare_data.py", tmp_path / "faces", stored)

    done = subprocess.run(
        [sys.executable, "prepare_data.py", str(tmp_path / "more"), stored],
        cwd=ROOT, env=environ, capture_output=True, text=True, timeout=100,
    )  # fmt: skip

    assert done.returncode == 1
    assert "'s3://faces/other' was made with different face data" in done.stderr


@pytest.mark.slow
def test_storage_that_does_not_answer_is_one_line(bucket, tmp_path):
    environ = {**bucket[1], "AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_MAX_ATTEMPTS": "1"}
    done = subprocess.run(
        [sys.executable, "train.py", "recipes/toy.toml", "--data", "s3://faces/data", "--out", str(tmp_path / "run")],
        cwd=ROOT, env=environ, capture_output=True, text=True, timeout=200,
    )  # fmt: skip

    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: 's3://faces/data/meta.json' cannot be read: ")
