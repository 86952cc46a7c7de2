"""facelib/distributed/greeting.py: two workers prove who they are, and nobody else passes for one."""

import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from facelib.distributed import greeting
from facelib.distributed.cluster import Cluster
from facelib.distributed.greeting import StrangerError, answer, call, find_token
from tests.helpers.sockets import SOON

ADDRESSES = ("127.0.0.1:20000", "127.0.0.1:20001", "127.0.0.1:20002")
TOKEN = b"3f2a"


class Recorded:
    """A socket that keeps what was sent through it."""

    def __init__(self, sock):
        self.sock, self.sent = sock, b""

    def sendall(self, data):
        self.sent += data
        self.sock.sendall(data)

    def __getattr__(self, name):
        return getattr(self.sock, name)


@pytest.fixture
def pair():
    """The two ends of a connection: of the caller, and of the one that is called."""
    ends = [Recorded(end) for end in socket.socketpair()]
    yield ends
    for end in ends:
        end.close()


def greet(pair, caller=TOKEN, called=TOKEN, addresses=ADDRESSES):
    """What worker 2, which calls worker 1, and worker 1 get out of it: results or exceptions."""
    with ThreadPoolExecutor() as pool:
        futures = [
            pool.submit(call, pair[0], Cluster(2, addresses), 1, caller),
            pool.submit(answer, pair[1], Cluster(1, ADDRESSES), called),
        ]
        return [future.exception(SOON) or future.result() for future in futures]


@pytest.mark.parametrize("token", [b"", TOKEN])
def test_workers_of_one_training_know_each_other(pair, token):
    assert greet(pair, token, token) == [None, 2]


def test_what_is_sent_after_the_greeting_is_left_for_others(pair):
    greet(pair)

    pair[0].sendall(b"one")
    pair[1].sendall(b"two")

    assert pair[1].recv(10) == b"one" and pair[0].recv(10) == b"two"


@pytest.mark.parametrize("tokens", [(TOKEN, b"3f2b"), (b"", TOKEN), (TOKEN, b"")])
def test_another_token_is_noticed_by_both(pair, tokens):
    for error, rank in zip(greet(pair, *tokens), (1, 2), strict=True):
        assert isinstance(error, StrangerError) and error.rank == rank
        assert str(error) == "a worker with a different token"


def test_the_token_is_never_sent_and_no_greeting_is_as_another(pair):
    greet(pair)
    first = [end.sent for end in pair]
    for end in pair:
        end.sent = b""
    greet(pair)

    for before, end in zip(first, pair, strict=True):
        assert TOKEN not in end.sent
        assert not set(before.splitlines()) & (set(end.sent.splitlines()) - {b"welcome"})


def test_another_list_of_workers_is_named_whatever_the_token(pair):
    for error in greet(pair, b"other", addresses=(*ADDRESSES, "127.0.0.1:1")):
        assert str(error) == "a worker with a different list of workers" and error.rank is None


@pytest.mark.parametrize("said", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"x" * 1000, b""])
def test_another_program_is_named(pair, said):
    pair[1].sendall(said)
    pair[1].shutdown(socket.SHUT_WR)

    with pytest.raises(StrangerError, match="another program"):
        call(pair[0], Cluster(0, ADDRESSES), 1, TOKEN)


def test_a_program_that_says_nothing_is_named(pair, monkeypatch):
    monkeypatch.setattr(greeting, "CONNECT_TIMEOUT", 0.1)

    with pytest.raises(StrangerError, match="a program that says nothing"):
        call(pair[0], Cluster(0, ADDRESSES), 1, TOKEN)


def test_a_worker_of_another_rank_is_not_the_one_that_was_called(pair):
    with ThreadPoolExecutor() as pool:
        pool.submit(answer, pair[1], Cluster(2, ADDRESSES), TOKEN)

        with pytest.raises(StrangerError, match="worker 2"):
            call(pair[0], Cluster(0, ADDRESSES), 1, TOKEN)


@pytest.mark.parametrize("is_called", [True, False])
def test_who_sends_back_what_it_gets_is_nobody(pair, is_called):
    """It claims another rank; its proof is the one that it was sent."""

    def mirror():
        with pair[1].makefile("rb") as lines:
            for line in lines:
                pair[1].sendall(line.replace(b"worker 0 ", b"worker 1 "))

    thread = threading.Thread(target=mirror)
    thread.start()
    with pytest.raises(StrangerError, match="a different token"):
        if is_called:
            call(pair[0], Cluster(0, ADDRESSES), 1, TOKEN)
        else:
            answer(pair[0], Cluster(0, ADDRESSES), TOKEN)
    pair[0].shutdown(socket.SHUT_RDWR)
    thread.join()


def test_the_token_is_the_variable_without_blanks():
    assert find_token({"MOBILEARC_TOKEN": " 3f2a\n"}) == TOKEN
    assert find_token({"MOBILEARC_TOKEN": ""}) == find_token({}) == b""
