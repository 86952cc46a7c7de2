"""Notices during the training that another worker is gone or frozen, and ends this process.

TensorFlow would wait for it for minutes or for ever: its wait is inside C++, where no Python exception and no SIGTERM
arrives. So a thread of each worker sends a byte to every other worker once a second, a beat. A process that is stopped
(SIGSTOP) sends none, although the kernel still accepts connections for it. The beats pass through the connections of
the rendezvous, so they need no port of their own, and nobody else can send them.

A thread of Python cannot beat while another one holds the interpreter lock. TensorFlow releases it while it computes;
nothing in a training holds it for longer than a few seconds. The patience is far above that.
"""

import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

from facelib.distributed.cluster import Cluster

PATIENCE = 45  # seconds without a beat
CLOSED_PATIENCE = 7  # seconds after the other kernel has closed the connection; TensorFlow mostly ends us before
_DELAY = 5  # seconds that a beat may be late on a busy machine


class PeerWatch:
    """Ends this process if another worker is gone or frozen, from `start` to `stop`.

    One thread sends and hears the beats. If a worker is silent for `patience` seconds, or its connection is closed for
    `CLOSED_PATIENCE` seconds, it prints an error and ends the process. Only time in which this process itself runs
    counts, so that a pause of the whole machine is held against nobody. A worker that finishes early looks like one
    that was killed, so all workers stop their watches before the first one ends (`Workers.close`).

    Args:
        cluster: all workers.
        connections: {rank: connection} to the other workers, from the rendezvous. The watch closes them.
        patience: seconds without a beat after which a worker counts as lost.
        first_patience: the same until the first beat of a worker, which may still be joining; None for `patience`.
        interval: seconds between two beats.
        exit: called with exit code 1, once.
    """

    def __init__(
        self, cluster: Cluster, connections: Mapping[int, socket.socket], patience: float = PATIENCE, *,
        first_patience: float | None = None, interval: float = 1.0, exit: Callable[[int], None] = os._exit,
    ):  # fmt: skip
        self._peers, self._connections = cluster.peers, dict(connections)
        self._patience = dict.fromkeys(connections, patience if first_patience is None else first_patience)  # by rank
        self._usual_patience, self._interval, self._exit = patience, interval, exit
        self._silent = dict.fromkeys(connections, 0.0)  # by rank: seconds of this process since the last beat
        self._closed: dict[int, float] = {}  # by rank: seconds of this process since the other side closed
        self._stopped = threading.Event()
        self._lock = threading.Lock()

    def start(self) -> "PeerWatch":
        """Starts the thread."""
        for connection in self._connections.values():
            connection.setblocking(False)
        if self._connections:  # a training in one process has none
            threading.Thread(target=self._watch, name="peer-watch", daemon=True).start()
        return self

    def stop(self) -> None:
        """Ends the watch. After it returns the watch prints nothing and does not end the process."""
        with self._lock:
            self._stopped.set()

    def __enter__(self):
        return self.start()

    def __exit__(self, *exc):
        self.stop()

    def name_lost(self, seconds: float = 3.0) -> str:
        """Stops the watch, and names the workers that are lost. TensorFlow's errors do not.

        Args:
            seconds: to wait for a worker to be found lost.

        Returns:
            '2 (host:port), 5 (host:port)'; '' if all give signs of life.
        """
        end = time.monotonic() + seconds
        while not (ranks := self._lost()) and time.monotonic() < end:
            time.sleep(0.1 * self._interval)
        self.stop()
        return self._names(ranks)

    def _lost(self) -> set[int]:
        return set(self._closed) if max(self._silent.values(), default=0.0) < _DELAY else self._most_silent()

    def _most_silent(self) -> set[int]:
        """The ranks that are silent the longest: the others may have ended because of them."""
        silent = self._silent.copy()
        longest = max(silent.values())
        return {rank for rank, seconds in silent.items() if seconds >= longest - 3 * self._interval}

    def _names(self, ranks: set[int]) -> str:
        return ", ".join(f"{rank} ({self._peers[rank]})" for rank in sorted(ranks))

    def _watch(self) -> None:
        before = time.monotonic()
        while True:
            now = time.monotonic()
            for rank, connection in self._connections.items():
                if self._beat(rank, connection):
                    self._silent[rank], self._patience[rank] = 0.0, self._usual_patience
                    continue
                passed = min(now - before, 2 * self._interval)
                self._silent[rank] += passed
                if rank in self._closed:
                    self._closed[rank] += passed
            before = now
            if any(self._silent[rank] >= self._patience[rank] for rank in self._silent):
                ranks = self._most_silent()
                self._end(
                    ranks,
                    f"did not answer for {self._patience[min(ranks)]:g} s: ended or frozen. End the remaining "
                    "processes of this worker (kill -9)",
                )
            elif max(self._closed.values(), default=0.0) >= CLOSED_PATIENCE:
                self._end(set(self._closed), "ended. See the output there")
            if self._stopped.wait(self._interval):
                break
        for connection in self._connections.values():
            connection.close()

    def _beat(self, rank: int, connection: socket.socket) -> bool:
        """Sends a beat. Returns whether one has come since the last time."""
        try:
            with suppress(BlockingIOError):  # the buffer is full: a frozen process takes nothing out of it
                connection.send(b".")
            if connection.recv(4096):
                return True
        except BlockingIOError:
            return False
        except OSError:
            pass
        self._closed.setdefault(rank, 0.0)
        return False

    def _end(self, ranks: set[int], what: str) -> None:
        with self._lock:
            if self._stopped.is_set():
                return
            self._stopped.set()
            line = "\n" * getattr(sys.stderr, "is_mid_line", False) + (  # the progress bar is open
                f"error: Training needs all its workers. Worker{'s' * (len(ranks) > 1)} {self._names(ranks)} {what}. "
                "Start all workers again: the run continues from its last checkpoint."
            )
            _in_a_thread(lambda: sys.stdout and sys.stdout.flush())  # os._exit would drop the last lines of the log
            _in_a_thread(lambda: print(line, file=sys.stderr, flush=True))
            self._exit(1)


def _in_a_thread(write: Callable[[], object], seconds: float = 1.0) -> None:
    """Calls what writes to a terminal or pipe. It may block: launch.py, which reads our pipes, may be frozen too."""
    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    thread.join(seconds)
