"""What keeps several workers from waiting for ever: a port that is taken, a worker that never comes, one that is gone.

TensorFlow's collectives wait inside C++, where no exception of ours arrives, so these watch from threads and end the
whole process. A worker counts as alive when its port takes a connection; the kernel does that for it, however busy or
slow the process behind may be.
"""

import errno
import os
import socket
import sys
import threading
import time
from collections.abc import Callable

from facelib.cli import FaceError
from facelib.cluster import Cluster, split_address

JOIN_SECONDS = 300
PATIENCE = 30  # seconds
CONNECT_TIMEOUT = 5.0  # seconds; a host that is gone does not refuse, it is silent


def check_port(cluster: Cluster) -> None:
    """Makes sure that this worker's port is free, where its address is one of this host.

    Raises:
        FaceError: another process listens there.
    """
    if cluster.count == 1:
        return
    address = cluster.addresses[cluster.rank]
    host, port = split_address(address)
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError:  # a name that this host does not know: the others may
        return
    anywhere = ("::" if family == socket.AF_INET6 else "", port)  # where TensorFlow's server listens
    for where in (place, anywhere):
        with socket.socket(family, kind, protocol) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a run that has just ended does not matter
            try:
                sock.bind(where)
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    raise FaceError(
                        f"Every worker has a port of its own. Worker {cluster.rank} is to listen at {address}, which "
                        "another process uses. End that one (an earlier run?), or choose another port."
                    ) from error
                if error.errno == errno.EACCES:
                    raise FaceError(
                        f"Ports below 1024 are for root. Worker {cluster.rank} is to listen at {address}. "
                        "Choose another port."
                    ) from error
                return  # not an address of this host, as behind a service


def answers(address: str, timeout: float = CONNECT_TIMEOUT) -> bool:
    """Whether something listens at `address`, "host:port"."""
    try:
        with socket.create_connection(split_address(address), timeout) as sock:
            # Where nobody listens, a connection within a host can by chance meet itself (TCP's simultaneous open).
            return sock.getsockname() != sock.getpeername()
    except OSError:
        return False


class _Watch:
    """Ends the process when a peer has not answered for `patience` seconds in a row. A thread for each peer.

    Args:
        interval: seconds between two attempts.
        exit: called with 1, once; it does not return in earnest.
    """

    def __init__(self, cluster: Cluster, patience: float, interval: float, exit: Callable[[int], None]):
        self._peers, self._patience, self._interval, self._exit = cluster.peers, patience, interval, exit
        self._silent_since: dict[int, float] = {}  # by rank; times of time.monotonic()
        self._stopped = threading.Event()
        self._lock = threading.Lock()

    def start(self):
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
        slack = self._interval + CONNECT_TIMEOUT  # those that fell silent together are named together
        latest = time.monotonic() - self._patience + slack
        silent = dict(sorted((rank, since) for rank, since in self._silent_since.copy().items() if since <= latest))
        names = ", ".join(f"{rank} ({self._peers[rank]})" for rank in silent)
        with self._lock:
            if self._stopped.is_set():
                return
            self._stopped.set()
            _flush_stdout()
            line = self._message(f"Worker{'s' if len(silent) > 1 else ''} {names}")
            print(f"error: {line}", file=sys.stderr, flush=True)
            self._exit(1)

    def _message(self, workers: str) -> str:
        raise NotImplementedError


class JoinWatch(_Watch):
    """Used as a context around what blocks until all workers are there, such as MultiWorkerMirroredStrategy().

    Ends the process when a worker has not answered within `seconds`, or has gone for as long after it came.
    """

    def __init__(
        self, cluster: Cluster, seconds: float = JOIN_SECONDS, *, interval: float = 1.0,
        exit: Callable[[int], None] = os._exit,
    ):  # fmt: skip
        super().__init__(cluster, seconds, interval, exit)

    def _message(self, workers: str) -> str:
        return (
            f"Every worker joins within {self._patience:g} s. {workers} did not. "
            "Start all of them at about the same time, or look in their logs, at the addresses and at the firewall."
        )


class PeerWatch(_Watch):
    """From the start of the training to its end: ends the process when another worker has gone.

    A worker that ends before the others looks as one that was killed, so all stop their watch before the first ends.
    """

    def __init__(
        self, cluster: Cluster, patience: float = PATIENCE, *, interval: float = 5.0,
        exit: Callable[[int], None] = os._exit,
    ):  # fmt: skip
        super().__init__(cluster, patience, interval, exit)

    def _message(self, workers: str) -> str:
        return (
            f"All workers run to the end. {workers} did not answer for {self._patience:g} s. "
            "The run continues from its last checkpoint when all are started again."
        )


def _flush_stdout() -> None:
    """The last lines of a log, which os._exit would drop; not at the price of hanging, hence the thread."""
    thread = threading.Thread(target=lambda: sys.stdout and sys.stdout.flush(), daemon=True)
    thread.start()
    thread.join(1.0)
