"""The rendezvous of all workers before TensorFlow starts, and `open_workers`, which joins the cluster after it.

Each worker calls every other one, and both prove who they are (greeting.py), so that another program at an address is
not mistaken for a worker. A worker counts as present when it has answered our call and has called us. When all others
are present, a worker goes on; workers that still wait are then waiting for a third one. One connection of each pair
stays open: peer_watch.py needs it.

TensorFlow's own wait is inside C++, where no Python exception and no SIGTERM arrives. That is why the workers contact
each other here first.
"""

import errno
import faulthandler
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from facelib.distributed import greeting
from facelib.distributed.cluster import CONNECT_TIMEOUT, JOIN_SECONDS, Cluster, set_tf_config, split_address
from facelib.distributed.peer_watch import PeerWatch
from facelib.errors import FaceError

if TYPE_CHECKING:
    from facelib.distributed.workers import Workers

WAITING_LINE_AFTER = 10  # seconds; then a line names the workers that are missing
UNKNOWN_NAME_SECONDS = 20  # a name that is unknown for so long is a wrong one
IN_KUBERNETES = "KUBERNETES_SERVICE_HOST"  # set in every pod; there a name is known only when its pod has a node
_LOST_WHILE_CONNECTING = (
    "error: All workers must connect to each other after the rendezvous. One worker is lost or frozen: see the logs "
    "of all workers, and start all workers again."
)


class Rendezvous:
    """A context in which this worker calls all others and answers their calls, in threads.

    Args:
        cluster: all workers.
        listener: accepts connections at this worker's port.
        interval: seconds between two calls to a worker that is missing.
        token: of the training; None for that of the environment. See greeting.py.

    Attributes:
        called: {rank: connection} to the workers that answered our call.
        callers: {rank: connection} from the workers that called us and got our answer.
        strangers: {rank: who is there instead of that worker, for an error message}.
        unknown: {rank: time since when this host does not know the name in that worker's address}.
    """

    def __init__(self, cluster: Cluster, listener: socket.socket, interval: float = 0.5, token: bytes | None = None):
        self.cluster, self.listener, self.interval = cluster, listener, interval
        self.token = greeting.find_token() if token is None else token
        self.called: dict[int, socket.socket] = {}
        self.callers: dict[int, socket.socket] = {}
        self.strangers: dict[int, str] = {}
        self.unknown: dict[int, float] = {}
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
        for connection in (*self.called.values(), *self.callers.values()):
            connection.close()

    def wait(self, seconds: float) -> None:
        """Returns when all other workers are present.

        Raises:
            FaceError: some are missing after `seconds`, or this host does not know the name of one for 20 s.
        """
        begin, has_said = time.monotonic(), False
        while missing := sorted(self.cluster.peers.keys() - (self.called.keys() & self.callers.keys())):
            waited = time.monotonic() - begin
            if waited >= seconds:
                raise FaceError(
                    f"Every worker must join within {seconds:g} s. {self._describe(missing)} did not. Start all "
                    "workers at about the same time, or check their logs, the addresses and the firewall."
                )
            self._check_names()
            if waited >= WAITING_LINE_AFTER and not has_said:
                has_said = True
                print(f"waiting up to {seconds:g} s for {self._describe(missing).lower()}", file=sys.stderr)
            time.sleep(0.02)

    def _check_names(self) -> None:
        """Raises FaceError if a name stays unknown."""
        now = time.monotonic()
        ranks = sorted(rank for rank, since in self.unknown.copy().items() if now - since >= UNKNOWN_NAME_SECONDS)
        if ranks and not os.environ.get(IN_KUBERNETES):
            names = ", ".join(f"{rank} ({self.cluster.peers[rank]})" for rank in ranks)
            raise FaceError(
                "Every host must know the host names of all workers. This host does not know the name of "
                f"worker{'s' * (len(ranks) > 1)} {names}. Correct the list of hosts, or use IP addresses."
            )

    def take_connections(self) -> dict[int, socket.socket]:
        """{rank: the connection that stays open}: of two workers, the one that the lower rank called."""
        mine = self.cluster.rank
        return {rank: (self.called if mine < rank else self.callers).pop(rank) for rank in self.cluster.peers}

    def _describe(self, ranks: list[int]) -> str:
        reasons = dict.fromkeys(self.unknown.copy(), ", a name that this host does not know") | self.strangers.copy()
        names = ", ".join(f"{rank} ({self.cluster.peers[rank]}{reasons.get(rank, '')})" for rank in ranks)
        return f"Worker{'s' if len(ranks) > 1 else ''} {names}"

    def _call(self, rank: int) -> None:
        while not self._stopped.is_set():
            with suppress(OSError):
                connection = self._connect(rank)
                try:
                    greeting.call(connection, self.cluster, rank, self.token)
                    self.strangers.pop(rank, None)
                    self.called[rank] = connection
                    return
                except greeting.StrangerError as stranger:
                    self.strangers[rank] = f", where {stranger} answers"
                    connection.close()
                except OSError:
                    connection.close()
            self._stopped.wait(self.interval)

    def _connect(self, rank: int) -> socket.socket:
        try:
            connection = socket.create_connection(split_address(self.cluster.peers[rank]), CONNECT_TIMEOUT)
        except socket.gaierror:
            self.unknown.setdefault(rank, time.monotonic())
            raise
        except OSError:
            self.unknown.pop(rank, None)
            raise
        self.unknown.pop(rank, None)
        return connection

    def _accept_calls(self) -> None:
        while not self._stopped.is_set():
            with suppress(OSError):  # no call for a while
                connection, _ = self.listener.accept()
                threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        try:
            self.callers[greeting.answer(connection, self.cluster, self.token)] = connection
        except greeting.StrangerError as stranger:
            if stranger.rank is not None:
                self.strangers.setdefault(stranger.rank, f"; {stranger} connected instead")
            connection.close()
        except OSError:
            connection.close()


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
            f"Every worker needs a free port. Worker {cluster.rank} must listen at {address}, but a different process "
            "uses this port. End that process (perhaps an earlier run), or choose a different port."
        )
    return FaceError(
        f"Every worker must listen at its port. Worker {cluster.rank} has no permission to listen at {address}: "
        f"{error.strerror}. Choose a port from 10000 to 30000."
    )


class JoinWatch:
    """A context around a call that blocks until all workers are there, such as MultiWorkerMirroredStrategy().

    Entering it waits for the rendezvous of all workers, so the call finds all of them. A worker can still be lost or
    frozen during the call. MultiWorkerMirroredStrategy() holds Python's interpreter lock while it waits (TF 2.21), so
    no Python thread can end it. Then the thread of faulthandler, which needs no lock, ends the process with exit code
    1, `seconds` after the rendezvous; and a shell, which gets what faulthandler says, prints one line.

    Args:
        cluster: all workers.
        seconds: to wait, for the rendezvous and for the call.
        interval: seconds between two calls to a worker that is missing.
        token: of the training; None for that of the environment. See greeting.py.

    Attributes:
        connections: {rank: connection} to the other workers, after entering it.

    Raises:
        FaceError: on entering: a worker is missing after `seconds`, or our port is in use.
    """

    def __init__(
        self, cluster: Cluster, seconds: float = JOIN_SECONDS, *, interval: float = 0.5, token: bytes | None = None
    ):  # fmt: skip
        self._cluster, self._seconds, self._interval, self._token = cluster, seconds, interval, token
        self.connections: dict[int, socket.socket] = {}

    def __enter__(self):
        if self._cluster.count == 1:
            return self
        # Before we listen: it would hold our port for a moment.
        self._shell = subprocess.Popen(
            ["/bin/sh", "-c", 'read -r line && echo "$0 ($line)" >&2', _LOST_WHILE_CONNECTING], stdin=subprocess.PIPE
        )
        try:
            with (
                _listen(self._cluster) as listener,
                Rendezvous(self._cluster, listener, self._interval, self._token) as rendezvous,
            ):
                rendezvous.wait(self._seconds)
                self.connections = rendezvous.take_connections()
        except BaseException:
            self._shell.communicate()
            raise
        faulthandler.dump_traceback_later(max(1.0, self._seconds), exit=True, file=self._shell.stdin)  # type: ignore[arg-type]
        return self

    def __exit__(self, *exc):
        if self._cluster.count > 1:
            faulthandler.cancel_dump_traceback_later()
            self._shell.communicate()  # it gets nothing, and says nothing


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

    From then on a thread watches the other workers, and ends this process if one is gone or frozen (peer_watch.py).

    Args:
        cluster: all workers, from `find_cluster`.
        join_seconds: how long to wait for them.

    Raises:
        FaceError: this worker's port is in use, or a worker does not join in time.
    """
    from facelib.distributed.workers import ONE_WORKER, Workers

    if cluster.count == 1:
        return ONE_WORKER
    if cluster.rank == 0 and not greeting.find_token():
        print(
            f"warning: {greeting.TOKEN} is not set, so anyone who knows the addresses of the workers can pose as a "
            "worker. Set this variable to the same random text on every host.",
            file=sys.stderr,
        )
    check_port(cluster)
    set_tf_config(cluster)
    import tensorflow as tf
    from tensorflow.python.eager import context  # the heartbeat timeout has no public name

    # PeerWatch finds who is lost or frozen. TensorFlow's heartbeats, by default 10 s, would also end a training on a
    # machine that was suspended, whose clock has jumped.
    context.context().configure_coordination_service(
        "standalone",
        service_leader="/job:worker/replica:0/task:0",
        cluster_register_timeout_in_ms=int(1000 * join_seconds) + 60_000,
        heartbeat_timeout_in_ms=24 * 3_600_000,
        coordinated_jobs=_coordinated_jobs(cluster),
    )
    workers = Workers(cluster.rank, cluster.count, cluster.on_host)
    on_sigterm = signal.getsignal(signal.SIGTERM)
    with workers.naming_losses():
        with JoinWatch(cluster, join_seconds) as join:
            strategy = tf.distribute.MultiWorkerMirroredStrategy()
        signal.signal(signal.SIGTERM, on_sigterm)  # TensorFlow installs a handler of its own, which ends nothing
        watch = PeerWatch(cluster, join.connections, first_patience=join_seconds).start()
        workers.held = strategy, watch  # without the strategy the cluster would close
        workers.wait()
    return workers


def _coordinated_jobs(cluster: Cluster) -> list:
    from tensorflow.compiler.xla.tsl.protobuf import coordination_config_pb2

    return [coordination_config_pb2.CoordinatedJob(name="worker", num_tasks=cluster.count)]
