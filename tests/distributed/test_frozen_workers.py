"""Workers that freeze (SIGSTOP) in real trainings: all others end in time, with one line each.

python -m pytest -m slow -s tests/distributed/test_frozen_workers.py    prints the rows of docs/reliability.md
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.helpers.launched import is_running, state

ROOT = Path(__file__).resolve().parents[2]
CHILD = Path(__file__).parents[1] / "helpers" / "worker_training.py"
LIMIT = 60.0  # seconds, as docs/scaling.md promises


class Training:
    """A launch.py with workers of which one freezes.

    Args:
        run: the run directory.
        count: number of workers.
        who: rank that freezes.
        when: see worker_training.py.
        grace: seconds that the launcher waits.
        options: more of worker_training.py.
    """

    def __init__(self, run, count, who, when, grace=60, **options):
        self.log = run.with_name("log.txt")
        launch = [sys.executable, str(ROOT / "launch.py"), "-n", str(count), "--grace", str(grace)]
        command = [*launch, str(CHILD), str(run), json.dumps({"freeze": [who, when], **options})]
        with open(self.log, "wb") as log:
            self.launcher = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        self.pids = self._find_pids(count)
        self._wait(lambda: state(self.pids[who]) == "T", 200)
        self.began, self.frozen = time.monotonic(), self.pids[who]

    def _find_pids(self, count):
        """{rank: pid}"""
        found = {}

        def look():
            children = Path(f"/proc/{self.launcher.pid}/task/{self.launcher.pid}/children").read_text().split()
            for pid in map(int, children):
                with contextlib.suppress(ProcessLookupError, FileNotFoundError):  # it made the private network
                    config = re.search(rb"TF_CONFIG=([^\0]*)", Path(f"/proc/{pid}/environ").read_bytes())
                    if config and CHILD.name.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                        found[json.loads(config[1])["task"]["index"]] = pid
            return len(found) == count

        self._wait(look, 60)
        return found

    def _wait(self, condition, seconds):
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, self.output
            time.sleep(0.05)

    def wait_for_end(self, *pids, seconds=LIMIT):
        """Seconds from the freeze to the end of the last of these processes."""
        self._wait(lambda: not any(map(is_running, pids)), seconds - time.monotonic() + self.began)
        return time.monotonic() - self.began

    def wait_for_others(self):
        """Seconds from the freeze to the end of the last worker that was not frozen."""
        return self.wait_for_end(*(pid for pid in self.pids.values() if pid != self.frozen))

    @property
    def output(self):
        return self.log.read_text()

    @property
    def errors(self):
        """The lines of errors, those of the launcher too."""
        return re.findall(r"^(?:\[worker \d\] )?error: .*", self.output.replace("\r", "\n"), re.M)

    def end(self):
        for pid in (self.launcher.pid, *self.pids.values()):
            if is_running(pid):
                os.kill(pid, signal.SIGKILL)
        self.launcher.wait()


@pytest.fixture
def start(tmp_path):
    started = []

    def begin(*args, **options):
        started.append(Training(tmp_path / "run", *args, **options))
        return started[-1]

    yield begin
    for one in started:
        one.end()


CASES = [
    (2, 1, 3, "in a step"),
    (2, 0, 3, "in a step"),
    (3, 1, 3, "in a step"),
    (3, 0, 3, "in a step"),
    (2, 0, "evaluation", "while it evaluates"),
    (3, 1, "checkpoint", "before it writes a checkpoint"),
]


@pytest.mark.slow
@pytest.mark.parametrize("count, who, when, words", CASES)
def test_all_others_end_within_the_limit_with_one_line(start, count, who, when, words):
    one = start(count, who, when)

    others, launcher = one.wait_for_others(), one.wait_for_end(one.launcher.pid)

    code = one.launcher.wait()
    print(f"\n| worker {who} of {count} | {words} | {others:.0f} | {launcher:.0f} | {code} |", *one.errors, sep="\n")
    assert code == 1 and "Traceback" not in one.output, one.output
    assert any(f" {who} (127.0.0.1:" in line for line in one.errors), one.output  # launch.py shows equal lines once
    assert len(one.errors) <= count + 1, one.output  # one line a worker, and one of the launcher


@pytest.mark.slow
def test_frozen_while_all_connect_is_one_line_after_the_time_to_join(start):
    one = start(2, 1, "connect", join=15)

    others, launcher = one.wait_for_others(), one.wait_for_end(one.launcher.pid)

    code = one.launcher.wait()
    print(f"\n| worker 1 of 2 | while all connect | {others:.0f} | {launcher:.0f} | {code} |", *one.errors, sep="\n")
    assert code == 1 and "Traceback" not in one.output and others < 25, one.output
    assert one.errors[0].startswith("error: All workers must connect to each other after the rendezvous. One worker is")


@pytest.mark.slow
def test_a_frozen_launcher_keeps_no_worker_from_ending(start):
    one = start(2, 1, 3)
    os.kill(one.launcher.pid, signal.SIGSTOP)

    others = one.wait_for_others()
    os.kill(one.launcher.pid, signal.SIGCONT)
    launcher = one.wait_for_end(one.launcher.pid)

    print(f"\n| worker 1 of 2 and launch.py | in a step | {others:.0f} | {launcher:.0f} |", *one.errors, sep="\n")
    assert one.launcher.wait() == 1


@pytest.mark.slow
def test_when_the_whole_machine_was_suspended_the_training_continues(start):
    one = start(2, 1, 3)
    others = [pid for pid in (*one.pids.values(), one.launcher.pid) if pid != one.frozen]
    for pid in others:
        os.kill(pid, signal.SIGSTOP)

    time.sleep(LIMIT + 30)
    for pid in (*others, one.frozen):
        os.kill(pid, signal.SIGCONT)
        time.sleep(0.5)

    assert one.launcher.wait(120) == 0, one.output
    assert one.errors == []
