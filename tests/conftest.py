"""Fixtures that tests of several rooms share, the markers, the order of the files, and the count of skips."""

import importlib.util
import json
import os
import random
import shutil
import signal
import sys
import threading
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest

from facelib.data.verification.bins import write_bin
from facelib.model_input import Io
from facelib.sidecar import write_sidecar
from tests.helpers.chromium import CHROMIUM
from tests.helpers.mean_colour import draw_face

# The tests compute on the CPU, also on a machine with GPUs: results are compared bitwise, files run side by side.
os.environ["CUDA_VISIBLE_DEVICES"] = ""

ROOT = Path(__file__).parents[1]
DURATIONS = ROOT / "tests" / "durations.json"  # seconds of each file; pytest --write-durations writes it


@pytest.fixture(scope="module")
def shades(tmp_path_factory):
    """A folder with a model of `tests.helpers.mean_colour` and shades.bin: 60 pairs, one face in many of them."""
    random = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("shades")
    colours, shared = random.integers(40, 200, (60, 3)), draw_face(random, [90, 60, 200])
    is_same = [k // 3 % 2 == 0 for k in range(60)]
    images = []
    for k, same in enumerate(is_same):
        first = shared if not same else draw_face(random, colours[k])
        images += [first, draw_face(random, colours[k])]
    write_bin(folder / "shades.bin", images, is_same)
    artefact = folder / "model.fake"
    artefact.write_bytes(b"weights")
    write_sidecar(artefact, kind="fake", made_from=None, io=Io())
    return folder


@pytest.fixture(autouse=True)
def no_determinism_is_left():
    """A training in this process switches TensorFlow's determinism on; then no later test may draw without a seed."""
    yield
    if "tensorflow" in sys.modules:
        from tensorflow.python.framework import config

        if config.is_op_determinism_enabled():
            config.disable_op_determinism()


def _seed():
    """Weights that a test or a fixture draws without a seed are the same in every run, whatever ran before."""
    random.seed(0)  # Keras draws the seeds of its initialisers from it
    np.random.seed(0)


@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup(fixturedef, request):
    _seed()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item):
    _seed()


# ------------------------------------------------------------------------------------------------------------ markers


def has_tool(name: str) -> bool:
    """Whether a program or a Python package is installed; `nncase` and `.venv-NAME` are environments of the
    Makefile."""
    if name == "nncase":
        return (ROOT / "k210" / ".venv" / "ready").is_file()
    if name.startswith(".venv-"):
        return (ROOT / name / "ready").is_file()
    if name == "chromium":
        return CHROMIUM is not None
    return shutil.which(name) is not None or importlib.util.find_spec(name) is not None


def pytest_runtest_setup(item):
    """Skips a test whose data or tools are not here."""
    for marker in item.iter_markers("needs_data"):
        if not all(Path(path).exists() for path in marker.args):
            pytest.skip("needs_data: real faces are not here")
    for marker in item.iter_markers("needs_tool"):
        for name in marker.args:
            if not has_tool(name):
                pytest.skip(f"needs_tool: {name} is not installed")


# ------------------------------------------------------------------------------------------------------ runs anywhere


def pytest_configure():
    """Takes back signals that nohup, or a shell that starts us in the background, told us to ignore.

    Programs that tests start would ignore them too. A handler of ours ends at exec, so they get the default.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTERM):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else lambda *_: None)


# ------------------------------------------------------------------------------------------------ order and last lines


def pytest_addoption(parser):
    parser.addoption("--write-durations", action="store_true", help=f"write {DURATIONS.name} from this run")


def pytest_collection_modifyitems(items):
    """The file that takes longest comes first, so that no core waits for it at the end; unknown files before all."""
    seconds = json.loads(DURATIONS.read_text())
    items.sort(key=lambda item: -seconds.get(item.path.relative_to(ROOT).as_posix(), 1e9))


def pytest_terminal_summary(terminalreporter, config):
    """One line that counts the skipped tests by reason."""
    reports = [report for kind in terminalreporter.stats.values() for report in kind if hasattr(report, "when")]
    if config.getoption("--write-durations"):
        write_durations(reports)
    skips = [report for report in reports if report.skipped and isinstance(report.longrepr, tuple)]
    reasons = Counter(str(report.longrepr[2]).removeprefix("Skipped: ") for report in skips)
    counted = [f"{number} {reason}" for reason, number in reasons.most_common()]
    if deselected := len(terminalreporter.stats.get("deselected", ())):
        counted.append(f"{deselected} deselected")
    if counted:
        terminalreporter.write_line(f"not run: {'; '.join(counted)}")


def write_durations(reports):
    """Seconds of each file, set-up and tear-down included; files that did not run keep theirs."""
    seconds = defaultdict(float)
    for report in reports:
        seconds[report.nodeid.split("::")[0]] += report.duration
    old = json.loads(DURATIONS.read_text()) if DURATIONS.is_file() else {}
    known = {name: round(value, 1) for name, value in {**old, **seconds}.items() if (ROOT / name).is_file()}
    DURATIONS.write_text(json.dumps(dict(sorted(known.items(), key=lambda item: -item[1])), indent=1) + "\n")
