"""The rendezvous of all workers before TensorFlow starts, and `open_workers`, which joins the cluster after it.

Each worker calls every other one and sends its rank and a hash of the list of workers, so that another program at an
address is not mistaken for a worker. A worker counts as present when it has answered our call and has called us. When
all others are present, a worker goes on; workers that still wait are then waiting for a third one.

TensorFlow's own wait is inside C++, where no Python exception and no SIGTERM arrives. That is why the workers contact
each other here first.
"""

import errno
import faulthandler
import hashlib
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from facelib.distributed.cluster import CONNECT_TIMEOUT, JOIN_SECONDS, Cluster, set_tf_config, split_address
from facelib.distributed.peer_watch import PeerWatch
from facelib.errors import FaceError

if TYPE_CHECKING:
    from facelib.distributed.workers import Workers

WAITING_LINE_AFTER = 10  # seconds; then a line names the workers that are missing
_LONGEST = 100  # bytes of a greeting
_OPENING = b"mobilearc worker "


class Rendezvous:
    """A context in which this worker calls all others and answers their calls, in threads.

    Args:
        cluster: all workers.
        listener: accepts connections at this worker's port.
        interval: seconds between two calls to a worker that is missing.

    Attributes:
        called: ranks of the workers that answered our call.
        callers: ranks of the workers that called us and got our answer.
        strangers: {rank: what answers at the address of that worker instead of it}.
    """

    def __init__(self, cluster: Cluster, listener: socket.socket, interval: float = 0.5):
        self.cluster, self.listener, self.interval = cluster, listener, interval
        self.called: set[int] = set()
        self.callers: set[int] = set()
        self.strangers: dict[int, str] = {}
        self._rank_of = {_greeting(cluster, rank): rank for rank in cluster.peers}  # by greeting
        self._stopped = threading.Event()

    def __enter__(self):
        self.listener.settimeout(0.2)
        self._accepting = threading.Thread(target=self._accept_calls, daemon=True)
        self._accepting.start()
        for rank in self.cluster.peers:
            threading.Thread(target=self._call, args=(rank,), daemon=True).start()
        return self

    def __exit__(self, *exc):
        self._stopped.set()
        self._accepting.join()

    def wait(self, seconds: float) -> None:
        """Returns when all other workers are present.

        Raises:
            FaceError: some are missing after `seconds`.
        """
        begin, has_said = time.monotonic(), False
        while missing := sorted(self.cluster.peers.keys() - (self.called & self.callers)):
            waited = time.monotonic() - begin
            if waited >= seconds:
                raise FaceError(
                    f"Every worker joins within {seconds:g} s. {self._describe(missing)} did not. Start all of them at "
                    "about the same time, or check their logs, the addresses and the firewall."
                )
            if waited >= WAITING_LINE_AFTER and not has_said:
                has_said = True
                print(f"waiting up to {seconds:g} s for {self._describe(missing).lower()}", file=sys.stderr)
            time.sleep(0.02)

    def _describe(self, ranks: list[int]) -> str:
        answers = {rank: f", where {what} answers" for rank, what in self.strangers.copy().items()}
        names = ", ".join(f"{rank} ({self.cluster.peers[rank]}{answers.get(rank, '')})" for rank in ranks)
        return f"Worker{'s' if len(ranks) > 1 else ''} {names}"

    def _call(self, rank: int) -> None:
        while not self._stopped.is_set():
            with suppress(OSError), socket.create_connection(
                split_address(self.cluster.peers[rank]), CONNECT_TIMEOUT
            ) as call:  # fmt: skip
                line = _line_of(call)
                if self._rank_of.get(line) == rank:
                    call.sendall(_greeting(self.cluster, self.cluster.rank))
                    self.strangers.pop(rank, None)
                    self.called.add(rank)
                    return
                is_ours = line.startswith(_OPENING)
                self.strangers[rank] = "a worker with another list of workers" if is_ours else "another program"
            self._stopped.wait(self.interval)

    def _accept_calls(self) -> None:
        while not self._stopped.is_set():
            with suppress(OSError):  # no call for a while
                call, _ = self.listener.accept()
                threading.Thread(target=self._answer, args=(call,), daemon=True).start()

    def _answer(self, call: socket.socket) -> None:
        with suppress(OSError), call:
            call.settimeout(CONNECT_TIMEOUT)
            call.sendall(_greeting(self.cluster, self.cluster.rank))
            rank = self._rank_of.get(_line_of(call))
            if rank is not None:
                self.callers.add(rank)


def _greeting(cluster: Cluster, rank: int) -> bytes:
    """What worker `rank` says of itself. The hash tells this cluster from another training at the same port."""
    digest = hashlib.sha256(" ".join(cluster.addresses).encode()).hexdigest()[:16]
    return _OPENING + f"{rank} of {digest}\n".encode()


def _line_of(call: socket.socket) -> bytes:
    """The line that the other side sends; b"" if it sends nothing."""
    line = b""
    with suppress(TimeoutError):
        while not line.endswith(b"\n") and len(line) < _LONGEST and (more := call.recv(_LONGEST)):
            line += more
    return line


def check_port(cluster: Cluster) -> None:
    """Checks that this worker's port is free. An address that is not of this host is not checked.

    Raises:
        FaceError: another process listens at the port, or the system does not allow its use.
    """
    if cluster.count == 1:
        return
    host, port = split_address(cluster.addresses[cluster.rank])
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError:  # this host does not know the name; the others may know it
        return
    anywhere = ("::" if family == socket.AF_INET6 else "", port)  # TensorFlow's server listens on all addresses
    for where in (place, anywhere):
        with socket.socket(family, kind, protocol) as sock:
            sock.setsockopt(
                socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
            )  # ignores connections of a run that has just ended
            try:
                sock.bind(where)
            except OSError as error:
                if error.errno in (errno.EADDRINUSE, errno.EACCES):
                    raise _port_error(cluster, error) from error
                return  # not an address of this host, as with a Kubernetes service


def _port_error(cluster: Cluster, error: OSError) -> FaceError:
    address = cluster.addresses[cluster.rank]
    if error.errno == errno.EADDRINUSE:
        return FaceError(
            f"Every worker needs a free port. Worker {cluster.rank} is to listen at {address}, which another process "
            "uses. End that process (an earlier run?), or choose another port."
        )
    return FaceError(
        f"Every worker listens at its port. Worker {cluster.rank} may not listen at {address}: {error.strerror}. "
        "Choose a port between 10000 and 30000."
    )


class JoinWatch:
    """A context around a call that blocks until all workers are there, such as MultiWorkerMirroredStrategy().

    Entering it waits for the rendezvous of all workers, so the call finds all of them. A worker can still be lost
    during the call. MultiWorkerMirroredStrategy() holds Python's interpreter lock while it waits (TF 2.21), so no
    Python thread can end it. Then the thread of faulthandler, which needs no lock, prints the stack and ends the
    process with exit code 1, `seconds` after the rendezvous.

    Args:
        cluster: all workers.
        seconds: to wait, for the rendezvous and for the call.
        interval: seconds between two calls to a worker that is missing.

    Raises:
        FaceError: on entering: a worker is missing after `seconds`, or our port is in use.
    """

    def __init__(self, cluster: Cluster, seconds: float = JOIN_SECONDS, *, interval: float = 0.5):
        self._cluster, self._seconds, self._interval = cluster, seconds, interval

    def __enter__(self):
        if self._cluster.count > 1:
            with _listen(self._cluster) as listener, Rendezvous(self._cluster, listener, self._interval) as rendezvous:
                rendezvous.wait(self._seconds)
            faulthandler.dump_traceback_later(max(1.0, self._seconds), exit=True)
        return self

    def __exit__(self, *exc):
        if self._cluster.count > 1:
            faulthandler.cancel_dump_traceback_later()


def _listen(cluster: Cluster) -> socket.socket:
    """Accepts connections at our port on all addresses, as TensorFlow's server does later."""
    port = split_address(cluster.addresses[cluster.rank])[1]
    is_dual = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if is_dual else socket.AF_INET
    try:
        return socket.create_server(("", port), family=family, dualstack_ipv6=is_dual, backlog=1024)
    except OSError as error:
        raise _port_error(cluster, error) from error


def open_workers(cluster: Cluster, join_seconds: float) -> "Workers":
    """Joins the cluster, and returns when all its workers are there. Call it before TensorFlow computes anything.

    From then on a thread watches the other workers, and ends this process if one is gone (peer_watch.py).

    Args:
        cluster: all workers, from `find_cluster`.
        join_seconds: how long to wait for them.

    Raises:
        FaceError: this worker's port is in use, or a worker does not join in time.
    """
    from facelib.distributed.workers import ONE_WORKER, Workers

    if cluster.count == 1:
        return ONE_WORKER
    check_port(cluster)
    set_tf_config(cluster)
    import tensorflow as tf
    from tensorflow.python.eager import context  # the heartbeat timeout has no public name

    # TensorFlow's 10 s are too short for a machine that swaps or compiles. PeerWatch finds a lost worker anyway.
    context.context().configure_coordination_service(
        "standalone",
        service_leader="/job:worker/replica:0/task:0",
        cluster_register_timeout_in_ms=int(1000 * join_seconds) + 60_000,
        heartbeat_timeout_in_ms=60_000,
        coordinated_jobs=_coordinated_jobs(cluster),
    )
    on_sigterm = signal.getsignal(signal.SIGTERM)
    with JoinWatch(cluster, join_seconds):
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
    signal.signal(signal.SIGTERM, on_sigterm)  # TensorFlow installs a handler of its own, which ends nothing
    hosts = [address.rpartition(":")[0] for address in cluster.addresses]
    workers = Workers(cluster.rank, cluster.count, hosts.count(hosts[cluster.rank]))
    workers.wait()
    watch = PeerWatch(cluster)
    watch.start()
    workers.held = strategy, watch.stop  # without the strategy the cluster would close
    return workers


def _coordinated_jobs(cluster: Cluster) -> list:
    from tensorflow.compiler.xla.tsl.protobuf import coordination_config_pb2

    return [coordination_config_pb2.CoordinatedJob(name="worker", num_tasks=cluster.count)]
