"""Trainings on several hosts, as network namespaces of this machine: lost, frozen, slow and unknown hosts.

python -m pytest -m slow -s tests/distributed/test_hosts.py    prints the rows of docs/scaling.md
"""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from facelib.distributed.rendezvous import WAITING_LINE_AFTER
from tests.helpers.launched import environment, is_running
from tests.helpers.network_hosts import network_hosts
from tests.helpers.toy_data import logged_steps, write_data

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "tests" / "helpers" / "tiny_train.py"  # train.py with a small net
LIMIT = 60.0  # seconds, as docs/scaling.md promises
PORT = 23456
RECIPE = """
name = "tiny"
[model]
embedding_size = 32
[data]
batch_size = 12
[[stage]]
epochs = 60
scale = 16.0
margin = 0.2
"""

pytestmark = [pytest.mark.slow, pytest.mark.needs_tool("ip", "tc")]


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """A folder with data (600 images, 50 steps an epoch) and a recipe of 3,000 steps."""
    folder = tmp_path_factory.mktemp("toy")
    write_data(folder, 20, 30)
    (folder / "tiny.toml").write_text(RECIPE)
    return folder


@pytest.fixture
def hosts():
    yield from network_hosts(3)


class Training:
    """A training on some hosts, one worker each, started by launch.py on each as docs/scaling.md has it.

    Args:
        hosts: `NetworkHosts`.
        names: of the hosts of this training.
        toy: folder with data and recipe.
        run: the run directory.
        flags: more of train.py.
        listed: what --hosts says; the names by default.
    """

    def __init__(self, hosts, names, toy, run, *flags, listed=None):
        self.logs = {name: run.with_name(f"{run.name}-{name}-{time.monotonic_ns()}.txt") for name in names}
        self.run, self.processes = run, {}
        words = [
            toy / "tiny.toml",
            "--data",
            toy / "data",
            "--out",
            run,
            "--log-every",
            "5",
            "--checkpoint-every",
            "20",
        ]
        for index, name in enumerate(names):
            places = ["--hosts", listed or ",".join(names), "--host-index", index, "--port", PORT]
            command = [sys.executable, ROOT / "launch.py", "-n", "1", "--grace", "10", *places, TINY, *words, *flags]
            with open(self.logs[name], "wb") as log:
                self.processes[name] = hosts.start(
                    name, command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=run.parent,
                    env=environment(MOBILEARC_TOKEN="t"),
                )  # fmt: skip

    def output(self, name):
        return self.logs[name].read_text()

    def errors(self, name):
        """The lines of errors of a worker; its launcher adds one that sends the reader there."""
        lines = re.findall(r"^(?:\[worker \d\] )?error: .*", self.output(name).replace("\r", "\n"), re.M)
        return [line for line in lines if not re.search(r"error: Worker \d ended with exit code", line)]

    def steps(self):
        """The steps in metrics.jsonl."""
        return logged_steps(self.run)

    def wait_for_step(self, step, seconds=200):
        end = time.monotonic() + seconds
        while max(self.steps(), default=0) < step:
            alive = [process.poll() is None for process in self.processes.values()]
            assert all(alive) and time.monotonic() < end, self.all_output()
            time.sleep(0.1)

    def wait_for_end(self, *names, began):
        """{name: seconds from `began` to the end of the launcher of that host}."""
        took = {}
        while len(took) < len(names):
            for name in names:
                if name not in took and self.processes[name].poll() is not None:
                    took[name] = round(time.monotonic() - began)
            assert time.monotonic() < began + LIMIT, self.all_output()
            time.sleep(0.05)
        return took

    def stop(self):
        """SIGTERM to the first launcher: {name: exit code} of all."""
        self.processes[next(iter(self.processes))].send_signal(signal.SIGTERM)
        return {name: process.wait(120) for name, process in self.processes.items()}

    def all_output(self):
        return "\n".join(f"--- {name}\n{self.output(name)}" for name in self.logs)


@pytest.fixture
def start(hosts, toy, tmp_path):
    """`start(names, *flags)` starts a training into tmp_path/run. No process outlives the test."""
    started = []

    def begin(names, *flags, **options):
        started.append(Training(hosts, names, toy, tmp_path / "run", *flags, **options))
        return started[-1]

    yield begin
    for one in started:
        for process in one.processes.values():
            children = _descendants(process.pid)
            for pid in (process.pid, *children):
                if is_running(pid):
                    os.kill(pid, signal.SIGKILL)
            process.wait()


def _descendants(pid):
    """The ids of the processes below this one."""
    try:
        children = [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []
    return children + [below for child in children for below in _descendants(child)]


def freeze(one, name):
    """Stops all processes of a host, as when its machine hangs."""
    pid = one.processes[name].pid
    for each in (pid, *_descendants(pid)):
        os.kill(each, signal.SIGSTOP)


LOST = {
    "cable pulled": lambda hosts, one, name: hosts.pull_cable(name),
    "packets lost": lambda hosts, one, name: hosts.lose_packets(name),
    "frozen": lambda hosts, one, name: freeze(one, name),
}


@pytest.mark.parametrize("how", LOST)
@pytest.mark.parametrize("count, lost", [(3, "node-c"), (2, "node-a")])
def test_a_lost_host_ends_the_others_in_time_with_one_line_and_fewer_go_on(hosts, start, how, count, lost):
    names = hosts.names[:count]
    one = start(names)
    one.wait_for_step(40)
    others = [name for name in names if name != lost]

    began = time.monotonic()
    LOST[how](hosts, one, lost)
    took = one.wait_for_end(*others, began=began)

    for name in others:
        errors = one.errors(name)
        print(f"\n| {lost} of {count} | {how} | {name}: {took[name]} s |", *errors, sep="\n")
        assert len(errors) == 1 and f"{lost}:{PORT}" in errors[0], one.all_output()
        assert not any(f"{other}:" in errors[0] for other in others)
        assert "Traceback" not in one.output(name)
        assert one.processes[name].returncode == 1
    if how != "frozen":  # the lost host sees all others vanish
        one.wait_for_end(lost, began=began)
        assert all(f"{name}:{PORT}" in one.errors(lost)[0] for name in others), one.all_output()
    else:
        for pid in (one.processes[lost].pid, *_descendants(one.processes[lost].pid)):
            os.kill(pid, signal.SIGKILL)

    reached = max(one.steps())
    fewer = start(others)
    fewer.wait_for_step(reached + 5)
    assert re.search(r"resuming at epoch 1, step \d+", fewer.output(others[0]))
    assert fewer.stop() == dict.fromkeys(others, 143), fewer.all_output()
    assert fewer.steps() == list(range(5, max(fewer.steps()) + 1, 5))


def test_a_network_that_is_gone_for_fifteen_seconds_ends_nothing(hosts, start):
    one = start(hosts.names[:2])
    one.wait_for_step(40)

    hosts.pull_cable("node-b")
    time.sleep(15)
    hosts.plug_cable("node-b")

    reached, began = max(one.steps()), time.monotonic()
    one.wait_for_step(reached + 20)
    print(f"\n| link of node-b down for 15 s | it went on after {time.monotonic() - began:.0f} s |")
    assert one.stop() == {"node-a": 143, "node-b": 143}, one.all_output()


def test_a_slow_host_slows_the_training_and_ends_nothing(hosts, start):
    hosts.slow_down("node-b")
    one = start(hosts.names[:3])
    one.wait_for_step(5)
    began, first = time.monotonic(), max(one.steps())
    one.wait_for_step(first + 60)

    print(f"\n| node-b at 5 Mbit/s | {60 / (time.monotonic() - began):.1f} steps a second |")
    assert one.stop() == dict.fromkeys(hosts.names, 143), one.all_output()


def test_a_host_whose_name_nobody_knows_ends_all_in_time(hosts, start):
    one = start(hosts.names[:2], listed="node-a,node-b,nodd-c")
    end = time.monotonic() + 200  # until TensorFlow has started on a busy machine
    while not all("waiting up to 300 s for worker 2 (nodd-c:" in one.output(name) for name in hosts.names[:2]):
        assert time.monotonic() < end, one.all_output()
        time.sleep(0.1)

    took = one.wait_for_end("node-a", "node-b", began=time.monotonic() - WAITING_LINE_AFTER)

    for name in hosts.names[:2]:
        print(f"\n| nodd-c | {name}: {took[name]} s |", one.output(name))
        assert one.processes[name].returncode == 1
        assert len(one.errors(name)) == 1 and f"nodd-c:{PORT}" in one.errors(name)[0], one.all_output()
