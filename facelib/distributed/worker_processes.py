"""Starts the worker processes of one host, joins their output to one log, and ends them together (launch.py)."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

from facelib.child_processes import ends_with_parent
from facelib.distributed.private_network import PrivateNetwork

_WRITING = threading.Lock()  # keeps the lines of two processes apart
_is_mid_line: dict[int, bool] = {}  # by file descriptor
_MOST_BYTES_A_LINE = 65_536

# {signal that launch.py receives: signal that the workers get}
PASSED_ON: dict[int, signal.Signals] = {
    signal.SIGTERM: signal.SIGTERM,
    signal.SIGINT: signal.SIGINT,
    signal.SIGHUP: signal.SIGTERM,
}
STOPPED = {
    128 + number: number.name for number in (signal.SIGTERM, signal.SIGINT)
}  # exit codes of a worker that a signal stopped
WAITED_FOR = {*PASSED_ON, signal.SIGTSTP, signal.SIGCHLD}
SI_KERNEL = 0x80  # si_code of a signal from a terminal, which goes to the whole foreground process group
PIPE_SECONDS = 5  # how long children of a worker that has ended may still write to its log


def run_workers(
    command: Sequence[str], environs: Sequence[dict[str, str]], first_rank: int, grace: float,
    network: PrivateNetwork | None = None,
) -> int:  # fmt: skip
    """Runs one process for each worker, and returns when all have ended.

    Signals go to all workers. When a worker fails, the others get SIGTERM, and after `grace` seconds SIGKILL. Ctrl-Z
    stops all of them, so that none counts another as lost, until launch.py continues.

    Args:
        command: program and arguments, the same for all.
        environs: environment variables of each worker.
        first_rank: rank of the first worker on this host; the others follow.
        grace: seconds between SIGTERM and SIGKILL.
        network: that the workers enter; None for the network of the host.

    Returns:
        The exit code for the whole; see `supervise`.
    """
    workers: list[WorkerProcess] = []
    shares_terminal = is_foreground()
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, WAITED_FOR)  # a signal waits until `supervise` takes it
    try:
        for rank, environ in enumerate(environs, first_rank):
            workers.append(start(command, environ, rank, shares_terminal, network))
        errors: set[bytes] = set()
        pumps = [pump for worker in workers for pump in start_pumps(worker, errors)]  # threads after the last fork
        code = supervise(workers, grace)
        for pump in pumps:
            pump.join(PIPE_SECONDS)
        return code
    finally:
        for worker in workers:
            end_now(worker)
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


class WorkerProcess:
    """The process of one worker.

    Args:
        rank: of the worker.
        process: that was started.
        gets_terminal_signals: whether Ctrl-C in the terminal reaches it directly.
    """

    def __init__(self, rank: int, process: subprocess.Popen, gets_terminal_signals: bool):
        self.rank, self.process, self.gets_terminal_signals = rank, process, gets_terminal_signals

    @property
    def has_ended(self) -> bool:
        """Whether the process has ended."""
        return self.process.poll() is not None

    @property
    def code(self) -> int:
        """The exit code as in a shell: 128 + the signal that killed it. The process must have ended."""
        return 128 - self.process.returncode if self.process.returncode < 0 else self.process.returncode

    def send(self, number: int) -> None:
        """Sends a signal to the process if it still runs."""
        if not self.has_ended:
            self.process.send_signal(number)


def is_foreground() -> bool:
    """Whether this process is in the foreground of the terminal that is its standard input."""
    try:
        return sys.stdin.isatty() and os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    except (AttributeError, OSError, ValueError):  # there is no standard input
        return False


def start(
    command: Sequence[str], environ: dict[str, str], rank: int, shares_terminal: bool,
    network: PrivateNetwork | None = None,
) -> WorkerProcess:  # fmt: skip
    """Starts a worker. The kernel kills it if launch.py ends in any way.

    Worker 0 keeps the standard input of launch.py, and its terminal as output. In the foreground of a terminal it also
    stays in the process group of launch.py, so that it can read `n` + Enter; the terminal then sends it Ctrl-C. Every
    other worker gets its own session, so that each signal reaches it once, from launch.py.

    Args:
        command: program and arguments.
        environ: environment variables.
        rank: of the worker.
        shares_terminal: whether worker 0 stays in the process group.
        network: that the worker enters; None for the network of the host.
    """
    end_with_parent = ends_with_parent()

    def before_exec():
        if network is not None:
            network.enter()
        if end_with_parent is not None:
            end_with_parent()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, WAITED_FOR)

    is_first = rank == 0
    stays = is_first and shares_terminal
    # If the log is a file, the lines of worker 0 pass through launch.py too: its blocks would cut the lines of others.
    out, err = (None if is_first and stream.isatty() else subprocess.PIPE for stream in (sys.stdout, sys.stderr))
    if out:
        environ.setdefault("PYTHONUNBUFFERED", "1")  # else its last lines stay in the buffer of the pipe
    process = subprocess.Popen(
        command, env=environ, preexec_fn=before_exec, start_new_session=not stays,
        stdin=None if is_first else subprocess.DEVNULL, stdout=out, stderr=err,
    )  # fmt: skip
    return WorkerProcess(rank, process, stays)


def supervise(workers: list[WorkerProcess], grace: float) -> int:
    """Waits for all workers, passes signals on, and ends all workers after the first failure.

    Args:
        workers: that were started.
        grace: seconds between SIGTERM and SIGKILL.

    Returns:
        0; or the exit code of the worker that failed first; or 128 + the signal that was passed on and ended them.
    """
    failed, kill_at, fine = None, None, {0}  # fine: exit codes that are no failure
    while not all(worker.has_ended for worker in workers):
        event = signal.sigtimedwait(WAITED_FOR, 1.0)
        if event is not None and event.si_signo == signal.SIGTSTP:
            pause(workers)
        elif event is not None and event.si_signo in PASSED_ON and not is_ignored(event.si_signo):
            if event.si_signo == signal.SIGINT and len(fine) > 1:  # the second Ctrl-C: workers stop at once
                kill_at = kill_at or time.monotonic() + grace
            fine.add(128 + PASSED_ON[event.si_signo])
            for worker in workers:
                if not (worker.gets_terminal_signals and event.si_code == SI_KERNEL):
                    worker.send(PASSED_ON[event.si_signo])
        if kill_at is None:
            failed = next((worker for worker in workers if worker.has_ended and worker.code not in fine), None)
            if failed:
                kill_at = time.monotonic() + grace
                report(failed, len(workers) - sum(worker.has_ended for worker in workers))
                for worker in workers:
                    worker.send(signal.SIGTERM)
                    worker.send(signal.SIGCONT)  # a frozen worker takes its SIGTERM only when it runs again
        elif time.monotonic() >= kill_at:
            for worker in workers:
                end_now(worker)
    if kill_at is None:
        failed = next((worker for worker in workers if worker.code not in fine), None)
        if failed:
            report(failed, 0)
    if failed:
        return failed.code
    return max(worker.code for worker in workers) if kill_at is None else max(fine)


def pause(workers: list[WorkerProcess]) -> None:
    """Stops all workers and this process, and continues all of them when somebody continues it."""
    for worker in workers:
        worker.send(signal.SIGSTOP)
    os.kill(os.getpid(), signal.SIGSTOP)
    for worker in workers:
        worker.send(signal.SIGCONT)


def is_ignored(number: int) -> bool:
    """Whether nohup has set this signal to be ignored. A blocked signal arrives nevertheless."""
    return number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN


def report(worker: WorkerProcess, num_running: int) -> None:
    """Prints why a worker ended, and what happens to the `num_running` others."""
    code = worker.process.returncode
    if code in STOPPED:
        others = ", so the others are stopped too" if num_running else ""
        say(f"Worker {worker.rank} was stopped by {STOPPED[code]}{others}.")
        return
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    others = ", so the others are ended too" if num_running else ""
    say(f"error: Worker {worker.rank} {how}{others}. See the lines of this worker.")


def end_now(worker: WorkerProcess) -> None:
    """Kills a worker with SIGKILL; and its children, if it has its own process group."""
    if worker.has_ended:
        return
    if worker.gets_terminal_signals:
        worker.process.kill()
    else:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(worker.process.pid, signal.SIGKILL)
    worker.process.wait()


def start_pumps(worker: WorkerProcess, errors: set[bytes]) -> list[threading.Thread]:
    """Starts threads that copy the output of a worker, unless it writes to the terminal directly.

    Args:
        worker: that has been started.
        errors: lines "error: ..." that some worker has written; those that all workers share are copied once.
    """
    prefix = f"[worker {worker.rank}] ".encode() if worker.rank else b""
    pairs = ((worker.process.stdout, sys.stdout), (worker.process.stderr, sys.stderr))
    pumps = [
        threading.Thread(target=copy_lines, args=(source, target.fileno(), prefix, errors), daemon=True)
        for source, target in pairs
        if source is not None
    ]
    for pump in pumps:
        pump.start()
    return pumps


def copy_lines(source, target: int, prefix: bytes, errors: set[bytes] | None = None) -> None:
    """Copies the output of a process until it ends.

    Args:
        source: file object of a pipe.
        target: file descriptor.
        prefix: of each line; with b"" bytes are copied as they are, so a progress bar works.
        errors: see `start_pumps`; None for those of this output alone.
    """
    rest = b""
    errors = set() if errors is None else errors
    while data := os.read(source.fileno(), 65_536):
        lines, rest = cut_lines(rest + data) if prefix else cut_whole(rest + data)
        if not prefix:
            lines = lines[0].splitlines(keepends=True)
        _write_all(target, b"".join(prefix + line for line in lines if _is_new(line, errors)))
    if prefix and rest.strip(b"\r"):
        rest = prefix + cut_lines(rest + b"\n")[0][0]
    _write_all(target, rest)


def cut_lines(data: bytes) -> tuple[list[bytes], bytes]:
    """(complete lines, the beginning of the next). A progress bar overwrites its line: only its last state is kept."""
    *lines, rest = data.split(b"\n")
    lines = [line.rstrip(b"\r").rpartition(b"\r")[2] + b"\n" for line in lines]
    body = rest.rstrip(b"\r")
    rest = body.rpartition(b"\r")[2] + rest[len(body) :][:1]
    if len(rest) > _MOST_BYTES_A_LINE:
        lines, rest = [*lines, rest + b"\n"], b""
    return lines, rest


def _is_new(line: bytes, errors: set[bytes]) -> bool:
    """Whether no other worker has written this error; any other line is new."""
    if not line.startswith(b"error: "):
        return True
    with _WRITING:
        is_new = line not in errors
        errors.add(line)
    return is_new


def cut_whole(data: bytes) -> tuple[list[bytes], bytes]:
    """([everything up to the last line end], the beginning of the next line)."""
    end = max(data.rfind(b"\n"), data.rfind(b"\r")) + 1
    if len(data) - end > _MOST_BYTES_A_LINE:
        end = len(data)
    return [data[:end]], data[end:]


def say(line: str) -> None:
    """Writes a line to the standard error; on a new line if a progress bar is open."""
    with _WRITING:
        print("\n" * _is_mid_line.get(2, False) + line, file=sys.stderr, flush=True)
        _is_mid_line[2] = False


def _write_all(target: int, data: bytes) -> None:
    with _WRITING:
        _is_mid_line[target] = not data.endswith(b"\n") if data else _is_mid_line.get(target, False)
        try:
            while data:
                data = data[os.write(target, data) :]
        except OSError:  # nobody reads our output any more; the pipe of the worker must still be emptied
            return
