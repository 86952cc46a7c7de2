"""Notices during the training that another worker is gone, and ends this process.

TensorFlow would wait for the lost worker for ever: its wait is inside C++, where no Python exception and no SIGTERM
arrives. So a thread connects to the port of every other worker now and then. A worker counts as alive while its port
accepts connections; the kernel accepts them however busy the process is. Before the training, rendezvous.py does the
waiting.
"""

import os
import socket
import sys
import threading
import time
from collections.abc import Callable

from facelib.distributed.cluster import CONNECT_TIMEOUT, Cluster, split_address

PATIENCE = 30  # seconds without an answer


def answers(address: str, timeout: float = CONNECT_TIMEOUT) -> bool:
    """Whether something listens at `address`, "host:port"."""
    try:
        with socket.create_connection(split_address(address), timeout) as sock:
            # If nobody listens, a connection within a host can by chance connect to itself (TCP simultaneous open).
            return sock.getsockname() != sock.getpeername()
    except OSError:
        return False


class PeerWatch:
    """Ends this process if another worker is gone, from `start` to `stop`.

    One thread for each other worker connects to it every `interval` seconds. If no attempt within `patience` seconds
    is answered, it prints an error and ends the process. A worker that finishes early looks like one that was killed,
    so all workers stop their watches before the first one ends (`Workers.close`).

    Args:
        cluster: all workers.
        patience: seconds without an answer after which a worker counts as gone.
        interval: seconds between two attempts.
        exit: called with exit code 1, once.
    """

    def __init__(
        self, cluster: Cluster, patience: float = PATIENCE, *, interval: float = 5.0,
        exit: Callable[[int], None] = os._exit,
    ):  # fmt: skip
        self._peers, self._patience, self._interval, self._exit = cluster.peers, patience, interval, exit
        self._silent_since: dict[int, float] = {}  # by rank; times of time.monotonic()
        self._stopped = threading.Event()
        self._lock = threading.Lock()

    def start(self) -> "PeerWatch":
        """Starts the threads."""
        for rank in self._peers:
            threading.Thread(target=self._watch, args=(rank,), name=f"watch-{rank}", daemon=True).start()
        return self

    def stop(self) -> None:
        """Ends the watch. After it returns the watch prints nothing and does not end the process."""
        with self._lock:
            self._stopped.set()

    def __enter__(self):
        return self.start()

    def __exit__(self, *exc):
        self.stop()

    def _watch(self, rank: int) -> None:
        failures = 0
        while not self._stopped.is_set():
            began = time.monotonic()
            if answers(self._peers[rank]):
                failures = 0
                self._silent_since.pop(rank, None)
            else:
                failures += 1
                silent = time.monotonic() - self._silent_since.setdefault(rank, began)
                # At least three failures: a process that was itself stopped for an hour would see only one.
                if silent >= self._patience and failures >= 3:
                    self._end()
                    return
            self._stopped.wait(self._interval)

    def _end(self) -> None:
        # Workers that stopped answering at about the same time are named together.
        latest = time.monotonic() - self._patience + self._interval + CONNECT_TIMEOUT
        silent = {rank: self._peers[rank] for rank, since in self._silent_since.copy().items() if since <= latest}
        with self._lock:
            if self._stopped.is_set():
                return
            self._stopped.set()
            _flush_stdout()
            print(
                f"error: A training needs all its workers. {_describe(silent)} did not answer for "
                f"{self._patience:g} s. Start all workers again: the run continues from its last checkpoint.",
                file=sys.stderr,
                flush=True,
            )
            self._exit(1)


def _describe(peers: dict[int, str]) -> str:
    """'Workers 2 (host:port), 5 (host:port)'."""
    names = ", ".join(f"{rank} ({peers[rank]})" for rank in sorted(peers))
    return f"Worker{'s' if len(peers) > 1 else ''} {names}"


def _flush_stdout() -> None:
    """Writes the last lines of the log, which os._exit would drop. In a thread, because flushing may block."""
    thread = threading.Thread(target=lambda: sys.stdout and sys.stdout.flush(), daemon=True)
    thread.start()
    thread.join(1.0)
