"""Hidden files of atomic writes: those of killed writers go, those of running ones stay."""

import multiprocessing
import os
import signal

import pytest

from facelib.files import atomic_path, write_bytes, write_json
from facelib.part_files import sweep_parts

LEFT = ".a.json.0123456789abcdef.part"


def write_and_wait(path, pipe):
    with atomic_path(path) as part:
        part.write_bytes(b"half")
        pipe.send(part)
        pipe.recv()


def begin_writing(path):
    """A process that has half written `path`: (process, pipe, hidden file)."""
    context = multiprocessing.get_context("fork")
    pipe, theirs = context.Pipe()
    process = context.Process(target=write_and_wait, args=(path, theirs), daemon=True)
    process.start()
    return process, pipe, pipe.recv()


def test_the_hidden_file_of_a_killed_writer_is_removed_by_the_next_one(tmp_path):
    process, _, part = begin_writing(tmp_path / "a.json")
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert list(tmp_path.iterdir()) == [part]

    write_json(tmp_path / "b.json", {})
    assert part.exists()  # of another file
    write_json(tmp_path / "a.json", {})

    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "b.json"]


def test_two_writers_at_once_leave_each_other_alone(tmp_path):
    process, pipe, part = begin_writing(tmp_path / "a.json")
    write_bytes(tmp_path / "a.json", b"second")
    sweep_parts(tmp_path)
    assert part.read_bytes() == b"half"
    pipe.send("go on")
    process.join()

    assert process.exitcode == 0
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a.json": b"half"}


@pytest.mark.parametrize("name", ["a.part", ".a.part", ".a.json.0123g.part", f"{LEFT}s", ".0123456789abcdef.part"])
def test_other_hidden_files_stay(tmp_path, name):
    (tmp_path / name).write_bytes(b"mine")
    (tmp_path / LEFT).mkdir()
    (tmp_path / f"1{LEFT}").symlink_to("mine")
    write_bytes(tmp_path / "a.json", b"1")
    sweep_parts(tmp_path)

    assert sorted(os.listdir(tmp_path)) == sorted([name, LEFT, f"1{LEFT}", "a.json"])


def test_a_failed_write_leaves_nothing_and_a_written_file_has_the_usual_mode(tmp_path):
    (tmp_path / LEFT).write_bytes(b"of a killed writer")
    with pytest.raises(ZeroDivisionError), atomic_path(tmp_path / "a.json") as part:
        part.write_bytes(b"1")
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())

    (tmp_path / "usual").write_bytes(b"")
    write_bytes(tmp_path / "a.json", b"1")
    assert (tmp_path / "a.json").stat().st_mode == (tmp_path / "usual").stat().st_mode
