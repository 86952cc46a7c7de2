"""What keeps several workers from waiting for ever: a port that is taken, a worker that never comes, one that is gone.

TensorFlow's own waits are inside C++, where neither an exception of ours nor SIGTERM arrives. So all workers meet here,
in Python, before it begins, and a thread watches from then on. After the meeting a worker counts as alive when its
port takes a connection; the kernel does that for it, however busy or slow the process behind may be.
"""

import os
import socket
import sys
import threading
import time
from collections.abc import Callable

from facelib.distributed.cluster import Cluster, split_address
from facelib.distributed.rendezvous import CONNECT_TIMEOUT

PATIENCE = 30  # seconds


def answers(address: str, timeout: float = CONNECT_TIMEOUT) -> bool:
    """Whether something listens at `address`, "host:port"."""
    try:
        with socket.create_connection(split_address(address), timeout) as sock:
            # Where nobody listens, a connection within a host can by chance meet itself (TCP's simultaneous open).
            return sock.getsockname() != sock.getpeername()
    except OSError:
        return False


class PeerWatch:
    """From the start of the training to its end: ends the process when another worker has gone.

    A thread for each peer connects to it every `interval` seconds, and says so and exits when none of its attempts
    within `patience` seconds was answered. A worker that ends before the others looks like one that was killed, so all
    stop their watch before the first ends.

    Args:
        exit: called with 1, once.
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
        for rank in self._peers:
            threading.Thread(target=self._watch, args=(rank,), name=f"watch-{rank}", daemon=True).start()
        return self

    def stop(self) -> None:
        """Nothing is said and nobody is ended after this has returned."""
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
                # From failure to failure, three at least: a process that was itself stopped for an hour sees one.
                if silent >= self._patience and failures >= 3:
                    self._end()
                    return
            self._stopped.wait(self._interval)

    def _end(self) -> None:
        # Those that fell silent together are named together.
        latest = time.monotonic() - self._patience + self._interval + CONNECT_TIMEOUT
        silent = {rank: self._peers[rank] for rank, since in self._silent_since.copy().items() if since <= latest}
        with self._lock:
            if self._stopped.is_set():
                return
            self._stopped.set()
            _flush_stdout()
            print(
                f"error: All workers run to the end. {_named(silent)} did not answer for {self._patience:g} s. "
                "The run continues from its last checkpoint when all are started again.",
                file=sys.stderr,
                flush=True,
            )
            self._exit(1)


def _named(peers: dict[int, str]) -> str:
    """Such as: Workers 2 (host:port), 5 (host:port)"""
    names = ", ".join(f"{rank} ({peers[rank]})" for rank in sorted(peers))
    return f"Worker{'s' if len(peers) > 1 else ''} {names}"


def _flush_stdout() -> None:
    """The last lines of a log, which os._exit would drop; not at the price of hanging, hence the thread."""
    thread = threading.Thread(target=lambda: sys.stdout and sys.stdout.flush(), daemon=True)
    thread.start()
    thread.join(1.0)
