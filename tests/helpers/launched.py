"""A launch.py that runs a tiny script in the place of a training, for the tests to watch."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOON = 60.0  # seconds; what must happen happens in a few of them, even on a busy machine
OURS = ("TF_CONFIG", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "PYTHONUNBUFFERED",
        "MOBILEARC_TOKEN")  # fmt: skip

# What every script below begins with. `say` writes a file for the test: NAME.RANK
PRELUDE = """
import json, os, signal, sys, time
from pathlib import Path
RANK = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
def say(name, text=""):
    part = Path(__file__).with_name(f"part.{name}.{RANK}")
    part.write_text(str(text))
    part.rename(part.with_name(f"{name}.{RANK}"))  # whole at once
def wait_for(*names):
    end = time.monotonic() + 60
    while not all(Path(__file__).with_name(name).exists() for name in names):
        assert time.monotonic() < end
        time.sleep(0.02)
"""


def environment(**changes):
    environ = {key: value for key, value in os.environ.items() if key not in OURS}
    return {**environ, **changes}


class Launch:
    """A launch.py that runs a script of the test, in a folder of its own."""

    def __init__(self, folder, script, *flags, args=(), environ=None, **options):
        self.folder = folder
        (folder / "script.py").write_text(PRELUDE + script)
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "launch.py"), *flags, str(folder / "script.py"), *args],
            env=environment() if environ is None else environ,
            **{
                "stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE,
                # Under nohup, or in the background of a shell, the tests themselves ignore these.
                "preexec_fn": lambda: [signal.signal(s, signal.SIG_DFL) for s in (signal.SIGHUP, signal.SIGINT)],
                **options,
            },
        )  # fmt: skip

    def wait(self):
        """(exit code, standard output, standard error)"""
        out, err = self.process.communicate(timeout=SOON)
        return self.process.returncode, (out or b"").decode(), (err or b"").decode()

    def read(self, name):
        """What a worker said, as soon as it has."""
        path, end = self.folder / name, time.monotonic() + SOON
        while not path.exists():
            assert time.monotonic() < end, f"no {name}"
            time.sleep(0.02)
        return path.read_text()


def starting(folder):
    """What a fixture yields: `start(script, *flags, **options) -> Launch`. None of them outlives the test."""
    started = []

    def start(script, *flags, **options):
        started.append(Launch(folder, script, *flags, **options))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.process.kill()
        one.process.communicate()


def state(pid):
    """'R', 'S', 'T' (stopped), 'Z' (a zombie), ... of a process; '' when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def is_running(pid):
    return state(pid) not in ("", "Z")


def wait_until_gone(*pids):
    end = time.monotonic() + SOON
    while any(map(is_running, pids)):
        assert time.monotonic() < end, "still running"
        time.sleep(0.02)
