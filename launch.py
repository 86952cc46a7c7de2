"""Start several workers of a script on this host, one a device: TF_CONFIG for each, one log, one end.

    python launch.py -n 2 train.py recipes/small_mobilefacenet.toml --data DATA --out runs/small
    python launch.py -n 8 --hosts a,b,c,d --host-index 2 --port 23456 train.py ...    on host c; likewise on the others

Worker i gets the i-th GPU that is visible; without GPUs the workers share the cores. Worker 0 writes to this terminal
as if it ran alone, the lines of the others begin with [worker 1]. The first that fails ends all, and its exit code is
that of launch.py. Ctrl-C and SIGTERM go to every worker. More in docs/scaling.md.
"""

import argparse
import contextlib
import ctypes
import ipaddress
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from facelib.cli import run_cli, script_parser
from facelib.distributed.cluster import TF_CONFIG, Cluster, split_address, tf_config
from facelib.distributed.joined_log import copy_lines, say
from facelib.errors import FaceError
from facelib.files import require_file

PASSED_ON = {signal.SIGTERM: signal.SIGTERM, signal.SIGINT: signal.SIGINT, signal.SIGHUP: signal.SIGTERM}  # as what
STOPPED = {128 + number: number.name for number in (signal.SIGTERM, signal.SIGINT)}  # exit codes that say so themselves
WAITED_FOR = {*PASSED_ON, signal.SIGCHLD}
SI_KERNEL = 0x80  # si_code of a signal that a terminal sent, to its whole foreground group
PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
LOWEST_PORT, EPHEMERAL = 10_000, 32_768
PIPE_SECONDS = 5  # that a dead worker's own children may still write to its log


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    script = require_file(Path(args.command[0]), "script")
    addresses, first_rank = make_addresses(args)
    settings = device_settings(args.n)
    workers = []
    shares_terminal = is_foreground()
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, WAITED_FOR)  # a signal waits until `tend` takes it
    try:
        for i in range(args.n):
            rank = first_rank + i
            environ = {**os.environ, **settings[i], TF_CONFIG: tf_config(Cluster(rank, addresses))}
            workers.append(start([sys.executable, str(script), *args.command[1:]], environ, rank, shares_terminal))
        pumps = [pump for worker in workers for pump in start_pumps(worker)]  # after the last fork
        code = tend(workers, args.grace)
        for pump in pumps:
            pump.join(PIPE_SECONDS)
        return code
    finally:
        for worker in workers:
            end_now(worker)
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


# --------------------------------------------------------------------------------------------------- what each gets


def make_addresses(args: argparse.Namespace) -> tuple[tuple[str, ...], int]:
    """The addresses of all workers, and the rank of the first one here."""
    if args.hosts is None:
        ports = [args.port + i for i in range(args.n)] if args.port else free_ports(args.n)
        return tuple(f"127.0.0.1:{port}" for port in ports), 0
    hosts = [f"[{host}]" if ":" in host else host for host in args.hosts.split(",")]
    addresses = tuple(f"{host}:{args.port + i}" for host in hosts for i in range(args.n))
    for address in addresses:
        split_address(address)
    return addresses, args.host_index * args.n


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody uses now, below those that connections take by themselves."""
    ports: list[int] = []
    for port in random.sample(range(LOWEST_PORT, EPHEMERAL), EPHEMERAL - LOWEST_PORT):
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind(("", port))  # on all addresses, as TensorFlow's server will
            except OSError:
                continue
        ports.append(port)
        if len(ports) == count:
            return ports
    raise FaceError(f"Every worker has a port of its own. Only {len(ports)} of {count} are free. End other programs.")


def visible_gpus() -> list[str]:
    """As CUDA_VISIBLE_DEVICES names them: as it is set (what follows an unknown one is hidden), or all of the host."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is None:
        return [str(i) for i in range(sum(bool(re.fullmatch(r"nvidia\d+", name)) for name in os.listdir("/dev")))]
    gpus = [name.strip() for name in listed.split(",")]
    return gpus[: next((i for i, name in enumerate(gpus) if not name or name.startswith("-")), len(gpus))]


def device_settings(count: int) -> list[dict[str, str]]:
    """The environment variables that give each of `count` workers its device, or its share of the cores."""
    gpus = visible_gpus()
    if gpus and count > len(gpus):
        raise FaceError(
            f"Every worker has a GPU of its own. Received: -n {count} with {len(gpus)} visible. Ask for "
            f"-n {len(gpus)}, or set CUDA_VISIBLE_DEVICES= to train on the CPU."
        )
    if gpus:
        return [{"CUDA_VISIBLE_DEVICES": gpus[i]} for i in range(count)]
    cores = str(max(1, len(os.sched_getaffinity(0)) // count))
    shared = {key: cores for key in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS") if key not in os.environ}
    return [shared if count > 1 else {} for _ in range(count)]


# ------------------------------------------------------------------------------------------------------- processes


class Worker:
    """A process that was started. `gets_terminal_signals`: Ctrl-C reaches it without us."""

    def __init__(self, rank: int, process: subprocess.Popen, gets_terminal_signals: bool):
        self.rank, self.process, self.gets_terminal_signals = rank, process, gets_terminal_signals

    @property
    def has_ended(self) -> bool:
        return self.process.poll() is not None

    @property
    def code(self) -> int:
        """As a shell says it: 128 + number of the signal that killed it. Only once it has ended."""
        return 128 - self.process.returncode if self.process.returncode < 0 else self.process.returncode

    def send(self, number: int) -> None:
        if not self.has_ended:
            self.process.send_signal(number)


def is_foreground() -> bool:
    """Whether we run in the foreground of the terminal that is our standard input."""
    try:
        return sys.stdin.isatty() and os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    except (AttributeError, OSError, ValueError):  # no standard input at all
        return False


def start(command: list[str], environ: dict[str, str], rank: int, shares_terminal: bool) -> Worker:
    """Starts a worker. It dies with us, however we end.

    Worker 0 keeps our standard input, and our terminal as its output. In the foreground of a terminal it also stays in
    our process group, for what it reads there (`n` + Enter), and the terminal itself sends it Ctrl-C. All others have
    sessions of their own, so that each signal reaches them once, from us.
    """
    libc, parent = ctypes.CDLL(None), os.getpid()

    def prepare():
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # killed before the line above
            os._exit(128 + signal.SIGKILL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, WAITED_FOR)

    is_first = rank == 0
    stays = is_first and shares_terminal
    # In a file the lines of worker 0 come through us too: what it writes in blocks would cut the others' lines.
    out, err = (None if is_first and stream.isatty() else subprocess.PIPE for stream in (sys.stdout, sys.stderr))
    streams = {"stdin": None if is_first else subprocess.DEVNULL, "stdout": out, "stderr": err}
    if out:
        environ.setdefault("PYTHONUNBUFFERED", "1")  # a pipe would hold its lines back, and lose the last
    process = subprocess.Popen(command, env=environ, preexec_fn=prepare, start_new_session=not stays, **streams)
    return Worker(rank, process, stays)


def tend(workers: list[Worker], grace: float) -> int:
    """Waits for all workers, passes signals on, and ends all after the first failure.

    Returns: 0; the exit code of the worker that failed first; or, of workers that ended on a signal that was passed on,
    128 + that signal.
    """
    failed, kill_at, fine = None, None, {0}  # exit codes
    while not all(worker.has_ended for worker in workers):
        event = signal.sigtimedwait(WAITED_FOR, 1.0)
        if event is not None and event.si_signo in PASSED_ON and not is_ignored(event.si_signo):
            if event.si_signo == signal.SIGINT and len(fine) > 1:  # a second wish: they end at once, as they can
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


def is_ignored(number: int) -> bool:
    """Whether nohup has asked to overlook this signal: one that is blocked arrives all the same."""
    return number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN


def report(worker: Worker, num_running: int) -> None:
    code = worker.process.returncode
    if code in STOPPED:
        others = ", so the others are stopped too" if num_running else ""
        say(f"Worker {worker.rank} was stopped by {STOPPED[code]}{others}.")
        return
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    others = ", so the others are ended too" if num_running else ""
    say(f"error: Worker {worker.rank} {how}{others}. Its own lines may say why.")


def end_now(worker: Worker) -> None:
    """SIGKILL, to the processes that it started too where it has a group of its own."""
    if worker.has_ended:
        return
    if worker.gets_terminal_signals:
        worker.process.kill()
    else:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(worker.process.pid, signal.SIGKILL)
    worker.process.wait()


# -------------------------------------------------------------------------------------------------------------- log


def start_pumps(worker: Worker) -> list[threading.Thread]:
    """Threads that copy what the worker writes, where it does not write to our terminal itself."""
    prefix = f"[worker {worker.rank}] ".encode() if worker.rank else b""
    pairs = ((worker.process.stdout, sys.stdout), (worker.process.stderr, sys.stderr))
    pumps = [
        threading.Thread(target=copy_lines, args=(source, target.fileno(), prefix), daemon=True)
        for source, target in pairs
        if source is not None
    ]
    for pump in pumps:
        pump.start()
    return pumps


# ------------------------------------------------------------------------------------------------------------ flags


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = script_parser(
        __doc__,
        usage="launch.py -n N [--grace SECONDS] [--hosts HOST,... --host-index I --port P] SCRIPT [ARGS...]",
    )  # fmt: skip
    add = parser.add_argument
    add("-n", type=int, metavar="N", help="workers on this host")
    add("--grace", type=float, default=60, metavar="SECONDS", help="between SIGTERM and SIGKILL (%(default)g)")
    add("--hosts", metavar="HOST,HOST", help="all hosts of the run, each with N workers (default: this one alone)")
    add("--host-index", type=int, metavar="I", help="which of --hosts this one is, from 0")
    add("--port", type=int, metavar="P", help="of the first worker of a host; P+1 ... the others (default: free ones)")
    add("command", nargs=argparse.REMAINDER, metavar="SCRIPT", help="Python script, and its arguments")
    args = parser.parse_args(argv)
    if args.command[:1] == ["--"]:
        del args.command[0]
    if args.n is None or args.n < 1:
        received = "nothing" if args.n is None else args.n
        raise FaceError(f"-n is how many workers to start, at least 1. Received: {received}. Write: -n 2.")
    if not args.command:
        raise FaceError("launch.py runs a script. Received none. Write: python launch.py -n 2 train.py ...")
    if not args.grace >= 0:
        raise FaceError(f"--grace is in seconds, at least 0. Received: {args.grace:g}. Write: --grace 60.")
    if args.port is not None and not 0 < args.port <= 65536 - args.n:
        raise FaceError(f"--port is the first of {args.n} ports. Received: {args.port}. Take one from 10000 to 30000.")
    if args.hosts is None and args.host_index is not None:
        raise FaceError(f"--host-index counts in --hosts. Received: {args.host_index} without. Write: --hosts a,b.")
    if args.hosts is not None:
        check_hosts(args)
    return args


def check_hosts(args: argparse.Namespace) -> None:
    hosts = args.hosts.split(",")
    if not all(hosts) or len(set(hosts)) < len(hosts):
        raise FaceError(f"--hosts names each host once. Received: '{args.hosts}'. Write: --hosts a,b,c.")
    for host in hosts:
        if ":" in host and not is_ipv6(host):
            raise FaceError(f"--hosts takes names, without ports. Received: '{host}'. Write the port as --port P.")
    if args.host_index is None or not 0 <= args.host_index < len(hosts):
        received = "none" if args.host_index is None else args.host_index
        raise FaceError(
            f"--host-index is the place of this host in --hosts, 0 to {len(hosts) - 1}. Received: {received}. "
            "Give each host its own."
        )
    if args.port is None:
        raise FaceError("The workers of several hosts agree on ports. Received no --port. Write: --port 23456.")


def is_ipv6(host: str) -> bool:
    try:
        return bool(ipaddress.IPv6Address(host))
    except ValueError:
        return False


if __name__ == "__main__":
    run_cli(main)
