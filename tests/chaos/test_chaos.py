"""A writer survives a few kills and a full disk; a script that writes its result in place is found."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
IN_PLACE = """
with open("result.txt", "w") as file:
    file.write("one ")
with open("result.txt", "a") as file:
    file.write("two")
"""
LEAVES_A_PART = """
import os, secrets
part = f".{secrets.token_hex(4)}.part"
open(part, "w").write("whole")
os.replace(part, "result.txt")
"""
TRY = """
import re
import sys
from pathlib import Path
from tests.chaos.children import Kill
from tests.chaos.tries import Bench
from tests.chaos.writers import WRITERS, Writer

for name, kill in (("in_place", Kill(2)), ("in_place", Kill(2, 0.2)), ("part", Kill(2)), ("part", Kill(1))):
    WRITERS[name] = Writer((f"{sys.argv[1]}/{name}.py",))
    bench = Bench(name, Path(sys.argv[1]))
    faults = [re.sub("[0-9a-f]{8}", "XXXXXXXX", line) for line in bench.kill(kill)]
    print(len(bench.events), *(line.split(":")[0] for line in faults))
"""


def python(*words):
    """The output and the exit code of a Python of its own: a process with TensorFlow's threads may not be forked."""
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout, done.returncode


@pytest.mark.slow
def test_a_kill_finds_what_looks_finished_and_what_stays(tmp_path):
    (tmp_path / "in_place.py").write_text(IN_PLACE + "import time; time.sleep(1)")  # the second kill comes in the sleep
    (tmp_path / "part.py").write_text(LEAVES_A_PART)

    printed, _ = python("-c", TRY, str(tmp_path))

    assert printed.splitlines() == [
        "2 killed at open b'result.txt' looks finished",
        "2",
        "2 killed at os.rename b'.XXXXXXXX.part' additional left",
        "2",
    ]


@pytest.mark.slow
def test_some_kills_and_a_full_disk_change_no_data_directory():
    printed, code = python("-m", "tests.chaos.run", "--writers", "prepare_data", "--tries", "3", "--levels", "1")

    assert code == 0, printed
    assert "kills      prepare_data      3     3       0" in printed
    assert ("full disk  prepare_data      1     1       0" in printed) != ("full disk: skipped" in printed)
