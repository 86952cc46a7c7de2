"""Output that cannot show a name, and closed standard streams, silence or escape text and change nothing else."""

import hashlib
import os
import pty
import signal
import subprocess
import sys

import pytest

from facelib.data.synthetic.files import SyntheticSet, write_folders, write_pairs
from tests.helpers.checkout import ROOT

NAME = "é人"
C_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
# {what: (redirections of the shell, environment variables)}
STREAMS = {
    "ascii": ("", {"PYTHONIOENCODING": "ascii"}),
    "ascii in a C locale": ("", {**C_LOCALE, "PYTHONIOENCODING": "ascii"}),
    "no output": (">&-", {}),
    "no streams": ("<&- >&- 2>&-", {}),
}


def run(streams, *command, at=ROOT):
    """(exit code, standard output, standard error) of a script of the project."""
    redirections, variables = STREAMS[streams]
    done = subprocess.run(
        ["/bin/sh", "-c", f'exec "$@" {redirections}', "sh", sys.executable, *map(str, command)],
        cwd=at, env={**os.environ, **variables}, capture_output=True,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def hashes(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*.tfrecord"))}


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """A folder of identities whose names are not ASCII."""
    folder = tmp_path_factory.mktemp("streams") / NAME
    write_folders(folder / "faces", SyntheticSet(6, 4))
    for path in (folder / "faces").iterdir():
        path.rename(path.with_name(f"{NAME} {path.name}"))
    return folder


@pytest.mark.parametrize("streams", STREAMS)
def test_a_conversion_is_the_same_with_any_streams(faces, tmp_path, streams):
    code, out, err = run(streams, "prepare_data.py", faces / "faces", tmp_path / NAME)
    plain = run("ascii", "prepare_data.py", faces / "faces", tmp_path / "plain")

    assert (code, plain[0]) == (0, 0), err + plain[2]
    assert hashes(tmp_path / NAME) == hashes(tmp_path / "plain") != {}
    assert (out + err).isascii()
    assert (b"wrote" in out and b"\\u4eba" in out) == streams.startswith("ascii")


@pytest.mark.parametrize("streams", STREAMS)
def test_an_error_about_such_a_name_is_one_line(streams):
    code, out, err = run(streams, "prepare_data.py", "inspect", f"no/{NAME}")

    assert code == 1 and out == b""
    if streams == "no streams":
        assert err == b""
    else:
        assert err.startswith(b"error: ") and err.count(b"\n") == 1


def test_a_terminal_that_is_gone_is_no_error(faces, tmp_path):
    controller, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "prepare_data.py", str(faces / "faces"), str(tmp_path / "data")], cwd=ROOT,
        stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )  # fmt: skip
    os.close(terminal)
    os.close(controller)

    assert process.wait(60) == 0
    assert hashes(tmp_path / "data")


@pytest.mark.slow
@pytest.mark.parametrize("streams", ["ascii in a C locale", "no streams"])
def test_the_main_road_with_any_streams(faces, tmp_path, streams):
    """From faces to a tested .tflite: what libraries in C++ print goes into no file."""
    work = tmp_path / NAME
    work.mkdir()
    write_pairs(work / "valid" / f"{NAME}.bin", SyntheticSet(20, 4, first_identity=10**6), 100)
    recipe = work / "tiny.toml"
    recipe.write_text(
        f'name = "{NAME}"\n[model]\nwidth = 0.25\nembedding_size = 8\nactivation = "relu"\n[data]\nbatch_size = 8\n'
        "[[stage]]\nepochs = 1\n",
        encoding="utf-8",
    )
    model, tested = work / "run" / "embedder.h5", ("--valid", work / "valid")
    commands = [
        ("prepare_data.py", faces / "faces", work / "data"),
        ("train.py", recipe, "--data", work / "data", *tested, "--out", work / "run"),
        ("evaluate_data.py", model, *tested),
        ("h5_2_pb.py", model, "--out", work / f"{NAME}.pb"),
        ("pb_2_tflite.py", work / f"{NAME}.pb", "--out", work / f"{NAME}.tflite"),
        ("tflite_test.py", work / f"{NAME}.tflite", *tested),
        ("predict.py", "enroll", faces / "faces", work / NAME, "--model", work / f"{NAME}.tflite", "--threshold", "1"),
        ("report.py", work / "run"),
    ]

    for command in commands:
        code, out, err = run(streams, *command)
        assert code == 0 and (out + err).isascii() and b"Traceback" not in err, (command, out, err)
