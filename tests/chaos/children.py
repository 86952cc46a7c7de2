"""Runs a script of the project in a forked child that counts its file-system events, and kills it at one of them.

The parent imports the slow libraries once; a forked child has them at once. The parent may run no TensorFlow op.
"""

import mmap
import os
import runpy
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
SECONDS = 300  # a script that takes longer hangs
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "os.symlink")


@dataclass(frozen=True)
class Kill:
    """When a script is killed.

    Attributes:
        event: before this event happens, counted from 1.
        seconds: so long after it instead; 0 for before it.
    """

    event: int
    seconds: float = 0.0


@dataclass(frozen=True)
class End:
    """How a script ended.

    Attributes:
        code: exit code; the negative number of the signal that ended it.
        text: what it printed, both streams in order.
        events: (seconds since the first one, what happened, path) of each event.
    """

    code: int
    text: str
    events: list[tuple[float, str, str]]

    @property
    def is_killed(self) -> bool:
        """Whether our signal ended it."""
        return self.code == -signal.SIGKILL


def run_script(
    words: tuple[str, ...], folder: Path, *, kill: Kill | None = None, set_up: Callable[[], None] | None = None
) -> End:
    """Runs a script as `python WORDS` does.

    Args:
        words: path of the script in the project, and its arguments.
        folder: where it runs; events below it are counted. Files beside it take what the script prints.
        kill: when to kill it; None to let it end.
        set_up: called in the child before the script.

    Raises:
        TimeoutError: it took more than 300 s.
    """
    log, printed = folder.with_name("events.log"), folder.with_name("printed.txt")
    reached, tell = os.pipe()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        _run(words, folder, log, printed, kill, tell, set_up)
    os.close(tell)
    try:
        code = _wait(child, reached, kill)
    finally:
        os.close(reached)
    events = [line.split("\t", 2) for line in log.read_text(encoding="utf-8").splitlines()]
    times = [float(event[0]) for event in events]
    return End(
        code,
        printed.read_text(encoding="utf-8", errors="backslashreplace"),
        [(at - times[0], what, path) for at, (_, what, path) in zip(times, events, strict=True)],
    )


def _wait(child: int, reached: int, kill: Kill | None) -> int:
    """The exit code; kills the group of the child `kill.seconds` after it wrote to the pipe."""
    ended = os.pidfd_open(child)
    try:
        ready, _, _ = select.select([reached, ended], [], [], SECONDS)
        if kill and reached in ready and os.read(reached, 1):
            time.sleep(kill.seconds)
            _kill_group(child)
        if not select.select([ended], [], [], SECONDS)[0]:
            raise TimeoutError(f"it took more than {SECONDS} s")
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    except BaseException:
        _kill_group(child)
        raise
    finally:
        os.close(ended)


def _kill_group(child: int) -> None:
    try:
        os.killpg(child, signal.SIGKILL)
    except ProcessLookupError:
        os.kill(child, signal.SIGKILL)


def _run(words, folder: Path, log: Path, printed: Path, kill: Kill | None, tell: int, set_up) -> None:
    """The child. It never returns."""
    code = 1
    try:
        os.setsid()
        os.chdir(folder)
        output = os.open(printed, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.stdout = open(1, "w", buffering=1, closefd=False, encoding="utf-8")  # noqa: SIM115
        sys.stderr = open(2, "w", buffering=1, closefd=False, encoding="utf-8")  # noqa: SIM115
        if set_up:
            set_up()
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o644)
        _count_events(str(folder), handle, kill, tell)
        code = run_as_main([str(ROOT / words[0]), *words[1:]])
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def run_as_main(argv: list[str], module: str | None = None) -> int:
    """Runs a script, or a module, in this process as if Python had just started; returns its exit code.

    Args:
        argv: the script and its arguments.
        module: this instead of the script.
    """
    sys.argv, sys.path[0] = argv, os.path.dirname(os.path.abspath(argv[0]))
    sys.path.insert(1, str(ROOT))
    try:
        if module:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(argv[0], run_name="__main__")
        return 0
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()


def _count_events(folder: str, handle: int, kill: Kill | None, tell: int) -> None:
    shared = mmap.mmap(-1, 8)  # also counts the events of forked children

    def hook(event: str, args: tuple) -> None:
        path = _changed_path(event, args)
        if path is None or not path.startswith(folder + os.sep):
            return
        count = int.from_bytes(shared[:], "little") + 1
        shared[:] = count.to_bytes(8, "little")
        os.write(handle, f"{time.monotonic()}\t{event}\t{os.fsencode(path[len(folder) + 1 :])!r}\n".encode())
        if kill and count == kill.event:
            if kill.seconds:
                os.write(tell, b"+")
            else:
                os.killpg(0, signal.SIGKILL)

    sys.addaudithook(hook)


def _changed_path(event: str, args: tuple) -> str | None:
    """The absolute path that an event is about to write to; None for all other events."""
    if event == "open":
        path, _, flags = args
        if not isinstance(flags, int) or not flags & _WRITES:
            return None
    elif event in _CHANGES or event.startswith("shutil."):
        path = args[0]
    else:
        return None
    if not isinstance(path, str | bytes | os.PathLike):
        return None
    inside = args[1] if event in ("os.remove", "os.rmdir") else -1  # a folder's descriptor, of shutil.rmtree
    start = os.getcwd() if inside < 0 else os.readlink(f"/proc/self/fd/{inside}")
    return os.path.normpath(os.path.join(start, os.fsdecode(path)))
