"""The greeting of two workers over a connection: each proves to the other that it is a worker of this training.

Both send their rank, a hash of the list of workers and a random number that is used once. Then both send a proof: an
HMAC-SHA256 of all this, with the token of the training as its key. The token itself is never sent. Without a token the
key is empty, and knowing the list of workers is enough.
"""

import hashlib
import hmac
import os
import re
import secrets
import socket
from collections.abc import Mapping

from facelib.distributed.cluster import CONNECT_TIMEOUT, Cluster

TOKEN = "MOBILEARC_TOKEN"  # the environment variable, the same for all workers
_LONGEST = 200  # bytes of a line
_HELLO = re.compile(rb"mobilearc worker (\d{1,6}) of ([0-9a-f]{16}), ([0-9a-f]{32})\n")
_WELCOME = b"welcome\n"
_ANSWER_TIMEOUT = 30.0  # seconds; for the proof of what is a worker by its first line, on a busy machine


class StrangerError(Exception):
    """The other side is not the worker that is expected there.

    Args:
        what: it is, such as "another program".
        rank: that it claims; None if it claims none of this training.
    """

    def __init__(self, what: str, rank: int | None = None):
        super().__init__(what)
        self.rank = rank


def find_token(environ: Mapping[str, str] = os.environ) -> bytes:
    """The token of the training; b"" if there is none."""
    return os.fsencode(environ.get(TOKEN, "").strip())


def call(connection: socket.socket, cluster: Cluster, rank: int, token: bytes) -> None:
    """Greets worker `rank`, whom we called.

    Raises:
        StrangerError: somebody else answered.
        OSError: the connection broke off.
    """
    theirs = _prove(connection, cluster, token, is_caller=True)
    if theirs != rank:
        raise StrangerError(f"worker {theirs}")
    if _line_of(connection) != _WELCOME:  # the other side counts us only with it
        raise ConnectionError("no welcome")


def answer(connection: socket.socket, cluster: Cluster, token: bytes) -> int:
    """Greets a worker that called us.

    Returns:
        Its rank.

    Raises:
        StrangerError: somebody else called.
        OSError: the connection broke off.
    """
    rank = _prove(connection, cluster, token, is_caller=False)
    connection.sendall(_WELCOME)
    return rank


def _prove(connection: socket.socket, cluster: Cluster, token: bytes, is_caller: bool) -> int:
    """The rank of the other side, after both have proved who they are."""
    connection.settimeout(CONNECT_TIMEOUT)
    digest = hashlib.sha256(" ".join(cluster.addresses).encode()).hexdigest()[:16].encode()
    hello = b"mobilearc worker %d of %s, %s\n" % (cluster.rank, digest, secrets.token_hex(16).encode())
    connection.sendall(hello)
    try:
        line = _line_of(connection)
    except TimeoutError as error:
        raise StrangerError("a program that says nothing") from error
    found = _HELLO.fullmatch(line)
    if found is None:
        raise StrangerError("another program")
    if found[2] != digest:
        raise StrangerError("a worker with a different list of workers")
    rank = int(found[1])
    if rank not in cluster.peers:
        raise StrangerError(f"worker {rank}")
    connection.settimeout(_ANSWER_TIMEOUT)
    talk = hello + line if is_caller else line + hello
    mine, theirs = (b"call", b"answer") if is_caller else (b"answer", b"call")
    connection.sendall(_proof(token, mine, talk))
    if not hmac.compare_digest(_line_of(connection), _proof(token, theirs, talk)):
        raise StrangerError("a worker with a different token", rank)
    return rank


def _proof(token: bytes, side: bytes, talk: bytes) -> bytes:
    """What only a worker with the token can say. The side is in it, so that nobody can send a proof back."""
    return hmac.new(token, side + b"\n" + talk, hashlib.sha256).hexdigest().encode() + b"\n"


def _line_of(connection: socket.socket) -> bytes:
    """The next line that the other side sends, byte by byte: what follows it stays in the connection."""
    line = b""
    while not line.endswith(b"\n") and len(line) < _LONGEST and (more := connection.recv(1)):
        line += more
    return line
