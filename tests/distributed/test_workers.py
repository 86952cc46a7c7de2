"""Several workers on loopback, real processes, against one: heads, gradients, sums and gathers."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from facelib.distributed.workers import ONE_WORKER, Workers
from facelib.errors import FaceError
from facelib.losses.partial_fc import SampledClasses, rows_of
from tests.helpers import worker_step

CHILD = Path(__file__).parents[1] / "helpers" / "worker_step.py"


@pytest.fixture(scope="module")
def compute(tmp_path_factory):
    """(number of workers, cases) -> by case: what each worker has computed. All cases go through the same processes."""
    done = {}

    def results(count, cases):
        if (count, cases) not in done:
            done[count, cases] = run_workers(tmp_path_factory.mktemp("workers"), count, cases)
        return done[count, cases]

    return results


def run_workers(folder, count, cases):
    addresses = [f"127.0.0.1:{port}" for port in free_ports(count)]
    processes = []
    for rank in range(count):
        config = f'{{"cluster": {{"worker": {addresses}}}, "task": {{"type": "worker", "index": {rank}}}}}'
        env = os.environ | {"TF_CONFIG": config.replace("'", '"')}
        command = [sys.executable, str(CHILD), str(folder / f"{rank}.npz"), *cases]
        processes.append(subprocess.Popen(command, env=env))
    assert [process.wait(300) for process in processes] == [0] * count
    files = [dict(np.load(folder / f"{rank}.npz")) for rank in range(count)]
    assert not any(file.pop("catches_sigterm") for file in files)  # it would be lost before the first step
    return {
        case: [{key.split("/")[1]: v for key, v in file.items() if key.split("/")[0] == case} for file in files]
        for case in cases
    }


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for sock in sockets:
        sock.bind(("127.0.0.1", 0))
    ports = [sock.getsockname()[1] for sock in sockets]
    for sock in sockets:
        sock.close()
    return ports


@pytest.mark.slow
@pytest.mark.parametrize("case", worker_step.CASES)
@pytest.mark.parametrize("count", [2, 3])
def test_loss_and_all_gradients_are_those_of_one_worker(compute, count, case):
    workers, sample = compute(count, tuple(worker_step.CASES))[case], None
    classes = [np.concatenate([worker[f"classes {number}"] for worker in workers]) for number in range(2)]
    if "sampled" in case:
        assert len(classes[1]) < worker_step.NUM_CLASSES
        sample = sample_of([np.sort(step) for step in classes])
    else:
        assert sorted(classes[1]) == list(range(worker_step.NUM_CLASSES))
    one = worker_step.compute(case, ONE_WORKER, sample)
    for worker in workers:
        assert worker["loss"] == pytest.approx(one["loss"], rel=1e-5)
        assert worker["accuracy"] == pytest.approx(one["accuracy"], abs=1e-6)
    by_face = np.concatenate([worker["by_face"] for worker in workers])
    by_centre = np.concatenate([worker["by_centre"] for worker in workers])
    by_centre = by_centre.reshape(len(classes[1]), -1)[np.argsort(classes[1])].reshape(by_centre.shape)
    for mine, theirs in ((by_face, one["by_face"]), (by_centre, one["by_centre"])):
        assert np.abs(theirs).max() > 1e-4  # there is a gradient at all
        assert np.linalg.norm(mine - theirs) <= 1e-5 * np.linalg.norm(theirs)


def sample_of(classes):
    """The classes that several workers have drawn together in each step, as the sample of one worker."""

    def sample(head, number):
        drawn = tf.cond(number == 0, lambda: tf.constant(classes[0]), lambda: tf.constant(classes[1]))
        rows = tf.gather(head.centres.value, rows_of(drawn, head.sub_centres))
        return SampledClasses(rows, 0, worker_step.NUM_CLASSES, drawn, tf.zeros([0], tf.int64))

    return sample


@pytest.mark.parametrize("name", ["UnavailableError", "AbortedError", "CancelledError", "DeadlineExceededError"])
def test_every_error_about_a_lost_worker_is_one_line(name):
    with pytest.raises(FaceError, match="has lost contact with other workers"), Workers(0, 2).naming_losses():
        raise getattr(tf.errors, name)(None, None, "a frozen worker")
