"""launch.py with tiny scripts in the place of a training: who gets what, one log, and what is refused."""

import json
import os
import select
import socket
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

import launch
from facelib import nvidia
from facelib.distributed import worker_processes
from facelib.distributed.cluster import split_address
from facelib.distributed.private_network import host_addresses, make_private_network
from facelib.errors import FaceError
from tests.helpers.launched import ROOT, SOON, environment, starting

HOSTS = ("--hosts", "a,b", "--host-index", "1", "--port", "23456")


@pytest.fixture
def start(tmp_path):
    yield from starting(tmp_path)


# --------------------------------------------------------------------------------------------------- what each gets


@pytest.mark.parametrize("count", [1, 3])
def test_every_worker_has_its_rank_among_the_same_free_ports(start, count):
    script = """
import socket
config = json.loads(os.environ["TF_CONFIG"])
say("config", json.dumps([config, sys.argv[1:]]))
socket.create_server(("127.0.0.1", int(config["cluster"]["worker"][RANK].rpartition(":")[2])))
"""

    one = start(script, "-n", str(count), args=["--data", "x y", "-n", "7", "--", "--help"])

    assert one.wait() == (0, "", "")
    found = [json.loads(one.read(f"config.{rank}")) for rank in range(count)]
    assert [config["task"] for config, _ in found] == [{"type": "worker", "index": i} for i in range(count)]
    addresses = found[0][0]["cluster"]["worker"]
    assert all(config["cluster"] == {"worker": addresses} for config, _ in found)
    assert len(set(addresses)) == count
    for host, port in map(split_address, addresses):
        assert host == "127.0.0.1" and 10_000 <= port < 32_768
    assert all(args == ["--data", "x y", "-n", "7", "--", "--help"] for _, args in found)


def test_workers_of_several_hosts_follow_each_other(start):
    one = start('say("config", os.environ["TF_CONFIG"])', "-n", "2", *HOSTS)

    code, out, _ = one.wait()

    assert code == 0
    expected = {"cluster": {"worker": ["a:23456", "a:23457", "b:23456", "b:23457"]}}
    for rank in (2, 3):
        task = {"task": {"type": "worker", "index": rank}}
        assert json.loads(one.read(f"config.{rank}")) == expected | task
    assert sorted(p.suffix for p in one.folder.glob("config.*")) == [".2", ".3"]
    assert out == ""


def test_an_ipv6_host_stands_in_brackets():
    args = launch.parse_args(["-n", "1", "--hosts", "fe80::1,b", "--host-index", "1", "--port", "23456", "train.py"])

    assert launch.make_addresses(args) == (("[fe80::1]:23456", "b:23456"), 1)


def test_the_first_port_can_be_given():
    args = launch.parse_args(["-n", "2", "--port", "23456", "train.py"])

    assert launch.make_addresses(args) == (("127.0.0.1:23456", "127.0.0.1:23457"), 0)


@pytest.mark.parametrize(
    "visible, devices, gpus",
    [
        (None, [], []),
        (None, ["null", "nvidia0", "nvidia1", "nvidia10", "nvidiactl", "nvidia-uvm"], ["0", "1", "2"]),
        ("2,0", ["nvidia0"], ["2", "0"]),
        ("GPU-1a, GPU-2b", [], ["GPU-1a", "GPU-2b"]),
        ("", ["nvidia0"], []),
        ("-1", ["nvidia0"], []),
        ("1,-1,0", ["nvidia0"], ["1"]),
    ],
)
def test_visible_gpus(tmp_path, monkeypatch, visible, devices, gpus):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    for name in devices:
        (tmp_path / name).touch()
    monkeypatch.setattr(nvidia, "DEV", tmp_path)

    assert launch.visible_gpus() == gpus


def test_each_worker_sees_one_gpu(start):
    one = start(
        'say("gpu", os.environ["CUDA_VISIBLE_DEVICES"])', "-n", "2", environ=environment(CUDA_VISIBLE_DEVICES="5,3,1")
    )

    assert one.wait()[0] == 0
    assert [one.read("gpu.0"), one.read("gpu.1")] == ["5", "3"]


def test_more_workers_than_gpus_are_refused(start):
    one = start("", "-n", "3", environ=environment(CUDA_VISIBLE_DEVICES="0,1"))

    code, out, err = one.wait()

    assert (code, out) == (1, "")
    assert err.startswith("error: Every worker needs its own GPU. Received: -n 3 with 2 visible.")
    assert err.count("\n") == 1


THREADS = 'say("threads", [os.environ.get(k) for k in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS")])'


@pytest.mark.parametrize("count", [1, 2, 5])
def test_without_gpus_workers_share_the_cores(start, count):
    one = start(THREADS, "-n", str(count), environ=environment(CUDA_VISIBLE_DEVICES=""))
    share = str(max(1, len(os.sched_getaffinity(0)) // count))

    assert one.wait()[0] == 0
    expected = str([None, None] if count == 1 else [share, share])  # one alone takes what TensorFlow gives it
    assert [one.read(f"threads.{i}") for i in range(count)] == [expected] * count


def test_a_share_that_the_user_chose_stays(start):
    one = start(THREADS, "-n", "2", environ=environment(CUDA_VISIBLE_DEVICES="", OMP_NUM_THREADS="7"))
    share = str(max(1, len(os.sched_getaffinity(0)) // 2))

    assert one.wait()[0] == 0
    assert one.read("threads.1") == str(["7", share])


# -------------------------------------------------------------------------------------------------------------- log


def test_worker_0_writes_as_it_is_and_the_others_are_named(start):
    script = """
if RANK == 0:
    wait_for("done.1")
    time.sleep(0.5)
print(f"loss {RANK}")
sys.stdout.write("\\r 10%\\r 50%\\r100%\\r\\nno end of line")
print("warning", file=sys.stderr, flush=True)
sys.stdout.flush()
say("done")
"""

    code, out, err = start(script, "-n", "2").wait()

    assert code == 0
    named = "[worker 1] loss 1\n[worker 1] 100%\n[worker 1] no end of line\n"
    plain = "loss 0\n\r 10%\r 50%\r100%\r\nno end of line"
    assert out in (named + plain, plain + named)
    assert sorted(err.splitlines()) == ["[worker 1] warning", "warning"]


@pytest.mark.parametrize(
    "data, lines, rest",
    [
        (b"", [], b""),
        (b"one\ntwo\nthr", [b"one\n", b"two\n"], b"thr"),
        (b"\n\n", [b"\n", b"\n"], b""),
        (b"dos\r\n", [b"dos\n"], b""),
        (b" 1%\r 2%\r 3%\n", [b" 3%\n"], b""),
        (b"\r 1%\r 2%", [], b" 2%"),
        (b" 1%\r 2%\r", [], b" 2%\r"),  # the next byte says whether it is drawn over or ends here
        (b" 2%\r\n", [b" 2%\n"], b""),
        (b" 2%\r 3%", [], b" 3%"),
        (b"\r\r\r", [], b"\r"),
        (b"x" * 100_000, [b"x" * 100_000 + b"\n"], b""),  # is not kept for ever
    ],
)
def test_lines_that_were_drawn_over_are_cut_to_their_last_state(data, lines, rest):
    assert worker_processes.cut_lines(data) == (lines, rest)


@given(st.lists(st.text("ab\r\n", max_size=5)))
def test_lines_are_the_same_however_they_arrive(pieces):
    whole = "".join(pieces).encode()
    found, rest = [], b""
    for piece in pieces:
        lines, rest = worker_processes.cut_lines(rest + piece.encode())
        found += lines

    assert found == worker_processes.cut_lines(whole)[0]


@given(st.lists(st.text("ab\r\n", max_size=5)))
def test_worker_0_keeps_every_byte_in_whole_lines(pieces):
    found, rest = [], b""
    for piece in pieces:
        (lines,), rest = worker_processes.cut_whole(rest + piece.encode())
        assert not lines or lines[-1:] in (b"\r", b"\n")
        found.append(lines)

    assert b"".join(found) + rest == "".join(pieces).encode()


def test_a_line_of_our_own_does_not_go_on_where_a_progress_bar_was_left(capfd):
    read, write = os.pipe()
    os.write(write, b"epoch 1:   3%")
    os.close(write)
    with open(read, "rb") as source:
        worker_processes.copy_lines(source, 2, b"")
    worker_processes.say("error: gone")
    worker_processes.say("error: gone too")

    assert capfd.readouterr().err == "epoch 1:   3%\nerror: gone\nerror: gone too\n"


def test_a_line_that_worker_0_has_begun_is_not_cut_in_a_file(start):
    script = """
if RANK == 0:
    os.write(1, b"loss ")
    wait_for("done.1")
    time.sleep(0.5)
    os.write(1, b"0.5\\n")
else:
    time.sleep(0.5)
    print("mine")
    say("done")
"""

    assert start(script, "-n", "2").wait() == (0, "[worker 1] mine\nloss 0.5\n", "")


def test_lines_of_the_others_come_while_they_run(start):
    one = start('if RANK: print("begun")\ntime.sleep(600)', "-n", "2")

    assert select.select([one.process.stdout], [], [], SOON)[0], "nothing came"
    assert one.process.stdout.readline() == b"[worker 1] begun\n"


def test_much_output_arrives_whole(start):
    script = """
for i in range(20_000):
    print(f"{i} " + "x" * (i % 200))
"""

    code, out, _ = start(script, "-n", "3").wait()

    assert code == 0
    lines = [f"{i} " + "x" * (i % 200) for i in range(20_000)]
    for prefix in ("", "[worker 1] ", "[worker 2] "):
        found = [line for line in out.splitlines() if line.startswith(prefix or tuple("0123456789"))]
        assert found == [prefix + line for line in lines]
    assert len(out.splitlines()) == 3 * len(lines)


# ------------------------------------------------------------------------------------------------------------ flags


@pytest.mark.parametrize(
    "words, said",
    [
        ("", "-n must be the number of workers, 1 or more. Received: nothing"),
        ("train.py", "-n must be the number of workers, 1 or more. Received: nothing"),
        ("-n 0 train.py", "1 or more. Received: 0"),
        ("-n -3 train.py", "1 or more. Received: -3"),
        ("-n 2", "needs a script to run. Received none"),
        ("-n 2 --", "needs a script to run. Received none"),
        ("-n 2 no_such.py", "No script at 'no_such.py'"),
        ("-n 2 facelib", "The script must be a file"),
        ("-n 2 --grace -1 train.py", "--grace must be a number of seconds, 0 or more. Received: -1"),
        ("-n 2 --grace nan train.py", "Received: nan"),
        ("-n 2 --port 65535 train.py", "first of 2 ports. Received: 65535"),
        ("-n 2 --port 0 train.py", "Received: 0"),
        ("-n 2 --host-index 0 train.py", "--host-index needs --hosts. Received: 0 without"),
        ("-n 2 --hosts a,b --port 20000 train.py", "0 to 1. Received: none"),
        ("-n 2 --hosts a,b --port 20000 --host-index 2 train.py", "0 to 1. Received: 2"),
        ("-n 2 --hosts a,b --host-index 0 train.py", "Received no --port"),
        ("-n 2 --hosts a,,b --host-index 0 --port 20000 train.py", "each host only once. Received: 'a,,b'"),
        ("-n 2 --hosts a,a --host-index 0 --port 20000 train.py", "each host only once. Received: 'a,a'"),
        ("-n 2 --hosts a:1,b --host-index 0 --port 20000 train.py", "names without ports. Received: 'a:1'"),
        ("-n 2 --hosts a/b,c --host-index 0 --port 20000 train.py", "Received: 'a/b:20000'"),
    ],
)
def test_wrong_words_are_refused_before_anything_starts(words, said, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("it started something"))

    with pytest.raises(FaceError) as caught:
        launch.main(words.split())

    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_bad_input_is_one_line_and_exit_code_1():
    done = subprocess.run(
        [sys.executable, str(ROOT / "launch.py"), "-n", "2", "no_such.py"], capture_output=True, text=True
    )

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: No script at 'no_such.py'. Check the path.\n"


def test_free_ports_are_different_and_free():
    ports = launch.free_ports(20)

    assert len(set(ports)) == 20
    for port in ports:
        socket.create_server(("127.0.0.1", port)).close()


def test_a_port_in_use_is_not_handed_out(monkeypatch):
    ports = launch.free_ports(2)
    with socket.create_server(("127.0.0.1", ports[0])):
        monkeypatch.setattr(launch.random, "sample", lambda population, k: ports)

        assert launch.free_ports(1) == [ports[1]]
        with pytest.raises(FaceError, match="Only 1 of 2 ports are free"):
            launch.free_ports(2)


# ----------------------------------------------------------------------------------------------- the network of workers

LISTENS = """
import socket
port = int(json.loads(os.environ["TF_CONFIG"])["cluster"]["worker"][RANK].rpartition(":")[2])
server = socket.create_server(("", port))
say("port", port)
wait_for("port.0", "port.1")
peers = json.loads(os.environ["TF_CONFIG"])["cluster"]["worker"]
socket.create_connection(("127.0.0.1", int(peers[1 - RANK].rpartition(":")[2]))).close()
say("reached", os.getuid())
wait_for("end")
"""


def test_nobody_else_reaches_the_ports_of_workers_on_one_host(start):
    if make_private_network() is None:
        pytest.skip("the kernel allows no network namespace")
    one = start(LISTENS, "-n", "2")
    ports = [int(one.read(f"port.{rank}")) for rank in range(2)]
    assert [one.read(f"reached.{rank}") for rank in range(2)] == [str(os.getuid())] * 2

    for port in ports:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), 5)

    (one.folder / "end").touch()
    assert one.wait() == (0, "", "")


@pytest.mark.parametrize("flags, args", [(["--no-private"], []), ([], ["--data", "s3://bucket/data"])])
def test_workers_that_need_the_network_keep_it_and_a_warning_names_their_ports(start, flags, args):
    one = start(LISTENS, "-n", "2", *flags, args=args)
    ports = [int(one.read(f"port.{rank}")) for rank in range(2)]

    for rank in range(2):
        one.read(f"reached.{rank}")  # a worker that ended earlier would not be reached by the other

    for port in ports:
        socket.create_connection(("127.0.0.1", port), 5).close()

    (one.folder / "end").touch()
    code, _, err = one.wait()
    assert code == 0 and err.count("\n") == 1
    assert err.startswith("warning: ") and f"ports {ports[0]}, {ports[1]}: " in err
    assert f"all addresses of this host ({', '.join(host_addresses())})" in err


def test_the_addresses_of_this_host_are_those_that_can_be_bound():
    addresses = host_addresses(most=100)

    assert "127.0.0.1" in addresses and len(set(addresses)) == len(addresses)
    for address in addresses:
        family, *_, place = socket.getaddrinfo(address, 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family) as sock:
            sock.bind(place)
    assert host_addresses(most=1) == [*addresses[:1], *["..."] * (len(addresses) > 1)]


def test_workers_of_one_host_share_a_random_token_and_those_of_several_the_one_of_the_user(start):
    script = 'say("token", os.environ.get("MOBILEARC_TOKEN"))'
    one = start(script, "-n", "2")
    assert one.wait()[0] == 0
    tokens = [one.read(f"token.{rank}") for rank in range(2)]
    assert tokens[0] == tokens[1] and len(tokens[0]) == 32

    for token in ("3f2a", None):
        two = start(script, "-n", "1", *HOSTS, environ=environment(**({"MOBILEARC_TOKEN": token} if token else {})))
        assert two.wait()[0] == 0
        assert two.read("token.1") == str(token)
