"""Locks between processes: one holder, free after kill -9, and no locks at all are no hindrance."""

import errno
import multiprocessing
import os
import signal
from contextlib import contextmanager
from types import SimpleNamespace

import filelock
import pytest

from facelib.errors import FaceError
from facelib.files import working_folder, write_bytes
from facelib.locks import is_held, lock, open_folder
from facelib.part_files import hold_part, sweep_parts


def hold_and_wait(path, pipe):
    pipe.send(lock(os.open(path, os.O_RDONLY), wait=True))
    pipe.recv()


@contextmanager
def another_holder(path):
    """A process that holds the lock of `path` meanwhile."""
    context = multiprocessing.get_context("fork")
    pipe, theirs = context.Pipe()
    process = context.Process(target=hold_and_wait, args=(path, theirs), daemon=True)
    process.start()
    assert pipe.recv() is True
    yield process
    process.kill()
    process.join()


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_lock_has_one_holder_until_that_is_killed(tmp_path, kind):
    path = tmp_path / "x"
    path.mkdir() if kind == "folder" else path.touch()
    handle = open_folder(path) if kind == "folder" else os.open(path, os.O_RDONLY)
    with another_holder(path) as process:
        assert is_held(handle) and not lock(handle, wait=False)
        os.kill(process.pid, signal.SIGKILL)
        process.join()

        assert not is_held(handle)
    os.close(handle)


def test_a_folder_that_another_process_writes_is_refused(tmp_path):
    (tmp_path / ".out.part").mkdir()
    refused = pytest.raises(FaceError, match="Another conversion is writing")
    with another_holder(tmp_path / ".out.part"), refused, working_folder(tmp_path / "out"):
        pass

    with working_folder(tmp_path / "out") as folder:
        (folder / "a").touch()
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EBADF, errno.EOPNOTSUPP])
def test_without_locks_files_are_written_and_hidden_files_stay(tmp_path, monkeypatch, number):
    def refuse(descriptor, blocking=True):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(filelock, "lock_descriptor", refuse)
    (tmp_path / ".a.json.0123456789abcdef.part").write_bytes(b"of another process, perhaps")

    write_bytes(tmp_path / "a.json", b"1")
    with working_folder(tmp_path / "out") as folder:
        (folder / "a").touch()
    sweep_parts(tmp_path)

    assert sorted(os.listdir(tmp_path)) == [".a.json.0123456789abcdef.part", "a.json", "out"]
    assert hold_part(tmp_path / ".b.0.part") is None


def test_a_system_without_readable_locks_takes_none(tmp_path, monkeypatch):
    handle = os.open(tmp_path / "x", os.O_RDWR | os.O_CREAT)
    monkeypatch.setattr("facelib.locks.os", SimpleNamespace(name="nt"))

    with pytest.raises(OSError, match="no locks"):
        lock(handle, wait=True)
    os.close(handle)
