"""The meeting of all workers before TensorFlow begins: each greets each, so that no other program passes for one.

A worker that is called says who it is, and the caller says so in turn; both then know that the other is there. A worker
goes on when it has called, and been called by, all others: whoever is still waiting then waits for a third.
"""

import errno
import faulthandler
import hashlib
import socket
import sys
import threading
import time
from contextlib import suppress

from facelib.distributed.cluster import Cluster, split_address
from facelib.errors import FaceError

JOIN_SECONDS = 300

SAY_SO = 10  # seconds of waiting after which a line says for whom
CONNECT_TIMEOUT = 5.0  # seconds; a host that is gone does not refuse, it is silent
_LONGEST = 100  # bytes of a greeting
_OPENING = b"mobilearc worker "


class Meeting:
    """Greets and is greeted, in threads, while the context lasts.

    Args:
        listener: takes connections at this worker's port.   interval: seconds between calls of a worker that is absent.
    """

    def __init__(self, cluster: Cluster, listener: socket.socket, interval: float = 0.5):
        self.cluster, self.listener, self.interval = cluster, listener, interval
        self.called: set[int] = set()  # who has greeted us when we called
        self.callers: set[int] = set()  # who has called, and has our greeting
        self.strangers: dict[int, str] = {}  # what answers at an address and is not the worker
        self._names = {_greeting(cluster, rank): rank for rank in cluster.peers}
        self._stopped = threading.Event()

    def __enter__(self):
        self.listener.settimeout(0.2)
        self._taking = threading.Thread(target=self._take_calls, daemon=True)
        self._taking.start()
        for rank in self.cluster.peers:
            threading.Thread(target=self._call, args=(rank,), daemon=True).start()
        return self

    def __exit__(self, *exc):
        self._stopped.set()
        self._taking.join()

    def wait(self, seconds: float) -> None:
        """Returns when all have met.

        Raises:
            FaceError: some are absent after `seconds`.
        """
        begin, has_said = time.monotonic(), False
        while absent := sorted(self.cluster.peers.keys() - (self.called & self.callers)):
            waited = time.monotonic() - begin
            if waited >= seconds:
                raise FaceError(
                    f"Every worker joins within {seconds:g} s. {self._named(absent)} did not. Start all of them at "
                    "about the same time, or look in their logs, at the addresses and at the firewall."
                )
            if waited >= SAY_SO and not has_said:
                has_said = True
                print(f"waiting up to {seconds:g} s for {self._named(absent).lower()}", file=sys.stderr)
            time.sleep(0.02)

    def _named(self, ranks: list[int]) -> str:
        answers = {rank: f", where {what} answers" for rank, what in self.strangers.copy().items()}
        names = ", ".join(f"{rank} ({self.cluster.peers[rank]}{answers.get(rank, '')})" for rank in ranks)
        return f"Worker{'s' if len(ranks) > 1 else ''} {names}"

    def _call(self, rank: int) -> None:
        while not self._stopped.is_set():
            with suppress(OSError), socket.create_connection(
                split_address(self.cluster.peers[rank]), CONNECT_TIMEOUT
            ) as call:  # fmt: skip
                line = _line_of(call)
                if self._names.get(line) == rank:
                    call.sendall(_greeting(self.cluster, self.cluster.rank))
                    self.strangers.pop(rank, None)
                    self.called.add(rank)
                    return
                is_ours = line.startswith(_OPENING)
                self.strangers[rank] = "a worker with another list of workers" if is_ours else "another program"
            self._stopped.wait(self.interval)

    def _take_calls(self) -> None:
        while not self._stopped.is_set():
            with suppress(OSError):  # nobody, for a while
                call, _ = self.listener.accept()
                threading.Thread(target=self._answer, args=(call,), daemon=True).start()

    def _answer(self, call: socket.socket) -> None:
        with suppress(OSError), call:
            call.settimeout(CONNECT_TIMEOUT)
            call.sendall(_greeting(self.cluster, self.cluster.rank))
            rank = self._names.get(_line_of(call))
            if rank is not None:
                self.callers.add(rank)


def _greeting(cluster: Cluster, rank: int) -> bytes:
    """One of the workers of this very cluster: another training may have been given the same port."""
    digest = hashlib.sha256(" ".join(cluster.addresses).encode()).hexdigest()[:16]
    return _OPENING + f"{rank} of {digest}\n".encode()


def _line_of(call: socket.socket) -> bytes:
    """What the other side says up to a line's end; b"" when it says nothing."""
    line = b""
    with suppress(TimeoutError):
        while not line.endswith(b"\n") and len(line) < _LONGEST and (more := call.recv(_LONGEST)):
            line += more
    return line


def check_port(cluster: Cluster) -> None:
    """Makes sure that this worker's port is free, where its address is one of this host.

    Raises:
        FaceError: another process listens there.
    """
    if cluster.count == 1:
        return
    host, port = split_address(cluster.addresses[cluster.rank])
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
                if error.errno in (errno.EADDRINUSE, errno.EACCES):
                    raise _port_error(cluster, error) from error
                return  # not an address of this host, as behind a service


def _port_error(cluster: Cluster, error: OSError) -> FaceError:
    address = cluster.addresses[cluster.rank]
    if error.errno == errno.EADDRINUSE:
        return FaceError(
            f"Every worker has a port of its own. Worker {cluster.rank} is to listen at {address}, which another "
            "process uses. End that one (an earlier run?), or choose another port."
        )
    return FaceError(
        f"Every worker listens at its port. Worker {cluster.rank} may not at {address}: {error.strerror}. "
        "Choose a port between 10000 and 30000."
    )


class JoinWatch:
    """Used as a context around what blocks until all workers are there, such as MultiWorkerMirroredStrategy().

    Entering waits until every other worker has been met (facelib/distributed/rendezvous.py). What follows at once inside the context
    then finds all of them. MultiWorkerMirroredStrategy() keeps the interpreter's lock while it waits (TF 2.21), so that
    no thread of ours could end it: should a worker be lost in those seconds, faulthandler's own thread writes where we
    are and ends the process with exit code 1, `seconds` after the last one came.

    Raises:
        FaceError: on entering, when some have not come within `seconds`, or our port is taken.
    """

    def __init__(self, cluster: Cluster, seconds: float = JOIN_SECONDS, *, interval: float = 0.5):
        self._cluster, self._seconds, self._interval = cluster, seconds, interval

    def __enter__(self):
        if self._cluster.count > 1:
            with _listen(self._cluster) as listener, Meeting(self._cluster, listener, self._interval) as meeting:
                meeting.wait(self._seconds)
            faulthandler.dump_traceback_later(max(1.0, self._seconds), exit=True)
        return self

    def __exit__(self, *exc):
        if self._cluster.count > 1:
            faulthandler.cancel_dump_traceback_later()


def _listen(cluster: Cluster) -> socket.socket:
    """Takes connections at our port, on all addresses as TensorFlow's server will; the backlog is enough."""
    port = split_address(cluster.addresses[cluster.rank])[1]
    is_dual = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if is_dual else socket.AF_INET
    try:
        return socket.create_server(("", port), family=family, dualstack_ipv6=is_dual, backlog=1024)
    except OSError as error:
        raise _port_error(cluster, error) from error
