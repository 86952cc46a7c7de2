"""Ports of this host for tests: one that listens, one that refuses connections, one that is free."""

import contextlib
import socket

from launch import free_ports

SOON = 20.0  # seconds; what must happen takes a fraction of it, even on a busy machine


@contextlib.contextmanager
def listening(port=0):
    """(socket, "127.0.0.1:port") of a port that takes connections by its backlog alone: nobody ever calls accept."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", port))
        sock.listen(1000)
        yield sock, f"127.0.0.1:{sock.getsockname()[1]}"


@contextlib.contextmanager
def refusing():
    """An address that refuses connections, and that nobody else can take meanwhile: bound, not listening."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{sock.getsockname()[1]}"


def free_address():
    """An address that nobody uses now; below the range that connections are given by themselves."""
    (port,) = free_ports(1)
    return f"127.0.0.1:{port}"
