"""Ctrl-C at any moment ends a script with 130 and no traceback, in the imports of NumPy and TensorFlow too."""

import ast
import signal
import subprocess
import sys
import time

import pytest

from facelib import script_start
from facelib.__main__ import FOLDERS
from facelib.data.conversion.job import convert
from facelib.data.synthetic.files import SyntheticSet, write_folders
from tests.helpers.checkout import ROOT

# Every file that is run as a script and takes seconds to start.
SCRIPTS = [
    path
    for folder in (*FOLDERS, "docs/demo")
    for path in sorted(ROOT.glob(f"{folder}/*.py"))
    if "\n    run_cli(" in path.read_text(encoding="utf-8")
]


@pytest.fixture(scope="module")
def training(tmp_path_factory):
    """The arguments of a training that starts TensorFlow."""
    folder = tmp_path_factory.mktemp("toy")
    write_folders(folder / "faces", SyntheticSet(6, 4))
    convert(folder / "faces", folder / "data", progress=False)
    recipe = folder / "tiny.toml"
    recipe.write_text('[model]\nwidth = 0.25\nembedding_size = 8\nactivation = "relu"\n[data]\nbatch_size = 8\n'
                      "[[stage]]\nepochs = 100\n")  # fmt: skip
    return [str(recipe), "--data", str(folder / "data"), "--out"]


def interrupt(command, delay):
    """(exit code, standard error) of a command that gets SIGINT after so many seconds."""
    process = subprocess.Popen(
        [sys.executable, *command], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # tests in the background of a shell ignore it
    )  # fmt: skip
    time.sleep(delay)
    process.send_signal(signal.SIGINT)
    error = process.communicate(timeout=120)[1]
    return process.returncode, error


@pytest.mark.parametrize("delay", [0.3, 0.8, 1.4])
def test_ctrl_c_at_the_start_ends_with_130_and_no_traceback(training, tmp_path, delay):
    code, error = interrupt(["train.py", *training, str(tmp_path / "run")], delay)

    assert code == 130 and error in ("interrupted\n", "")  # TensorFlow is imported with its stderr closed


@pytest.mark.slow
@pytest.mark.parametrize("program", [["train.py"], ["-m", "facelib", "train"]])
@pytest.mark.parametrize("delay", [0.1, 0.15, 0.2, 0.3, 0.5, 0.8, 1.2, 1.7, 2.3, 3.0, 6.0])
def test_ctrl_c_at_any_moment_ends_with_130_and_no_traceback(training, tmp_path, program, delay):
    code, error = interrupt([*program, *training, str(tmp_path / "run")], delay)

    assert code == 130 and "Traceback" not in error, error


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_script_imports_facelib_before_anything_slow(path):
    """In a folder it first finds the root of the project."""
    lines = [ast.unparse(node) for node in ast.parse(path.read_text(encoding="utf-8")).body[1:6]]

    before = lines[: lines.index("import facelib")]
    assert before == [] or (before[:2] == ["import sys", "from pathlib import Path"] and len(before) == 3)


def test_only_scripts_of_the_project_are_guarded(monkeypatch):
    for name, is_ours in [
        (str(ROOT / "train.py"), True),
        (str(ROOT / "tools" / "doctor.py"), True),
        ("-m", True),
        ("/usr/local/bin/mobilearc", True),
        (str(ROOT / "tests" / "x.py"), False),
        (sys.executable.replace("python", "pytest"), False),
        ("-c", False),
        ("", False),
    ]:
        monkeypatch.setattr(sys, "argv", [name])
        assert script_start._is_script() == is_ours, name
    monkeypatch.setattr(sys, "argv", [])
    assert not script_start._is_script()


def test_what_python_runs_for_somebody_else_keeps_its_handler():
    program = "import facelib, signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"

    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip

    assert done.stdout == "True\n"
