"""Start several workers of a script on this host, one per device, and merge their output into one log.

    python launch.py -n 2 train.py recipes/small_mobilefacenet.toml --data DATA --out runs/small
    python launch.py -n 8 --hosts a,b,c,d --host-index 2 --port 23456 train.py ...    on host c; likewise on the others

Each worker gets its own TF_CONFIG. Worker i uses the i-th visible GPU; without GPUs the workers share the cores. Worker
0 writes to this terminal as if it ran alone; the lines of the other workers begin with [worker 1] and so on. When a
worker fails, the others are ended, and launch.py returns the exit code of the failed worker. Ctrl-C and SIGTERM go to
every worker.

Each worker runs a TensorFlow server, which listens on all addresses and asks for no password. Anyone who can reach the
port of this server can run programs with your rights. Therefore the workers of one host get a private network. If the
kernel does not allow this, a warning names the addresses and ports. From this private network the workers reach neither
the internet nor other hosts. The workers use the normal network of the host in two cases: with --no-private, and if an
argument contains "://", such as --data s3://... No other program can pose as a worker: each worker must prove that it
knows MOBILEARC_TOKEN, a random text. If all workers run on one host, launch.py creates this text. With --hosts, set the
variable to the same text on every host. See docs/scaling.md.
"""

import facelib  # noqa: F401  first: from here on Ctrl-C ends the script without a traceback

# isort: split
import argparse
import ipaddress
import os
import random
import secrets
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from facelib.cli import run_cli, script_parser
from facelib.devices import visible_gpus
from facelib.distributed.cluster import TF_CONFIG, Cluster, split_address, tf_config
from facelib.distributed.greeting import TOKEN
from facelib.distributed.private_network import PrivateNetwork, host_addresses, make_private_network
from facelib.distributed.worker_processes import run_workers
from facelib.errors import FaceError
from facelib.files import require_file
from facelib.wording import printable

LOWEST_PORT, EPHEMERAL = 10_000, 32_768


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    script = require_file(Path(args.command[0]), "script")
    addresses, first_rank = make_addresses(args)
    # The workers of several hosts need the same token: there the user sets it.
    token = {} if args.hosts or os.environ.get(TOKEN) else {TOKEN: secrets.token_hex(16)}
    environs = [
        {**os.environ, **token, **settings, TF_CONFIG: tf_config(Cluster(first_rank + i, addresses))}
        for i, settings in enumerate(device_settings(args.n))
    ]
    network = private_network(args, addresses[first_rank : first_rank + args.n])
    return run_workers([sys.executable, str(script), *args.command[1:]], environs, first_rank, args.grace, network)


def private_network(args: argparse.Namespace, addresses: Sequence[str]) -> PrivateNetwork | None:
    """The network that the workers of one host share with nobody. Without one, a warning names addresses and ports.

    Args:
        args: the flags.
        addresses: of the workers on this host.
    """
    if args.n == 1 and args.hosts is None:
        return None  # a training of one process opens no port
    remote = next((word for word in args.command if "://" in word), None)
    if args.hosts is not None:
        reason = "the workers of several hosts share a network"
    elif not args.private:
        reason = "--no-private"
    elif remote is not None:
        reason = f"'{printable(remote)}' needs the network"
    elif network := make_private_network():
        return network
    else:
        reason = "the kernel allows no network namespace"
    ports = ", ".join(str(split_address(address)[1]) for address in addresses)
    print(
        f"warning: TensorFlow listens on all addresses of this host ({', '.join(host_addresses())}), without a "
        f"password, at ports {ports}: {reason}. Anyone who can reach these ports can run programs with your rights: "
        "block the ports with a firewall.",
        file=sys.stderr,
    )
    return None


# ----------------------------------------------------------------------------------------------- addresses and devices


def make_addresses(args: argparse.Namespace) -> tuple[tuple[str, ...], int]:
    """(addresses of all workers, rank of the first worker on this host)."""
    if args.hosts is None:
        ports = [args.port + i for i in range(args.n)] if args.port else free_ports(args.n)
        return tuple(f"127.0.0.1:{port}" for port in ports), 0
    hosts = [f"[{host}]" if ":" in host else host for host in args.hosts.split(",")]
    addresses = tuple(f"{host}:{args.port + i}" for host in hosts for i in range(args.n))
    for address in addresses:
        split_address(address)
    return addresses, args.host_index * args.n


def free_ports(count: int) -> list[int]:
    """Ports of this host that are free now, below the range from which the system gives ports to connections."""
    ports: list[int] = []
    for port in random.sample(range(LOWEST_PORT, EPHEMERAL), EPHEMERAL - LOWEST_PORT):
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind(("", port))  # on all addresses, as TensorFlow's server will
            except OSError:
                continue
        ports.append(port)
        if len(ports) == count:
            return ports
    raise FaceError(
        f"Every worker needs its own port. Only {len(ports)} of {count} ports are free. End other programs."
    )


def device_settings(count: int) -> list[dict[str, str]]:
    """The environment variables that give each of `count` workers its device, or its share of the cores."""
    gpus = visible_gpus()
    if gpus and count > len(gpus):
        raise FaceError(
            f"Every worker needs its own GPU. Received: -n {count} with {len(gpus)} visible. Use -n {len(gpus)}, or "
            "set CUDA_VISIBLE_DEVICES= to train on the CPU."
        )
    if gpus:
        return [{"CUDA_VISIBLE_DEVICES": gpus[i]} for i in range(count)]
    cores = str(max(1, len(os.sched_getaffinity(0)) // count))
    shared = {key: cores for key in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS") if key not in os.environ}
    return [shared if count > 1 else {} for _ in range(count)]


# ------------------------------------------------------------------------------------------------------------ flags


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = script_parser(
        __doc__,
        usage="launch.py -n N [--grace S] [--no-private] [--hosts HOST,... --host-index I --port P] SCRIPT [ARGS...]",
    )  # fmt: skip
    add = parser.add_argument
    add("-n", type=int, metavar="N", help="number of workers on this host")
    add(
        "--grace",
        type=float,
        default=60,
        metavar="SECONDS",
        help="seconds between SIGTERM and SIGKILL when launch.py ends the workers (default: %(default)g)",
    )
    add(
        "--private",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="run the workers of one host in a private network that other users cannot reach (default: yes)",
    )
    add("--hosts", metavar="HOST,HOST", help="all hosts of the run, each with N workers (default: this host only)")
    add("--host-index", type=int, metavar="I", help="position of this host in the list of --hosts, counted from 0")
    add(
        "--port",
        type=int,
        metavar="P",
        help="port of the first worker on a host; the others get P+1 and so on (default: free ports)",
    )
    add("command", nargs=argparse.REMAINDER, metavar="SCRIPT", help="Python script and its arguments")
    args = parser.parse_args(argv)
    if args.command[:1] == ["--"]:
        del args.command[0]
    if args.n is None or args.n < 1:
        received = "nothing" if args.n is None else args.n
        raise FaceError(f"-n must be the number of workers, 1 or more. Received: {received}. Use, for instance: -n 2.")
    if not args.command:
        raise FaceError(
            "launch.py needs a script to run. Received none. Use, for instance: python launch.py -n 2 train.py ..."
        )
    if not args.grace >= 0:
        raise FaceError(
            f"--grace must be a number of seconds, 0 or more. Received: {args.grace:g}. Use, for instance: --grace 60."
        )
    if args.port is not None and not 0 < args.port <= 65536 - args.n:
        raise FaceError(
            f"--port must be the first of {args.n} ports. Received: {args.port}. Use a port from 10000 to 30000."
        )
    if args.hosts is None and args.host_index is not None:
        raise FaceError(
            f"--host-index needs --hosts. Received: {args.host_index} without --hosts. Use, for instance: --hosts a,b."
        )
    if args.hosts is not None:
        check_hosts(args)
    return args


def check_hosts(args: argparse.Namespace) -> None:
    """Raises FaceError for wrong values of --hosts, --host-index and --port."""
    hosts = args.hosts.split(",")
    if not all(hosts) or len(set(hosts)) < len(hosts):
        raise FaceError(
            f"--hosts must list each host only once. Received: '{args.hosts}'. Use, for instance: --hosts a,b,c."
        )
    for host in hosts:
        if ":" in host and not is_ipv6(host):
            raise FaceError(f"--hosts must list names without ports. Received: '{host}'. Pass the port as --port P.")
    if args.host_index is None or not 0 <= args.host_index < len(hosts):
        received = "none" if args.host_index is None else args.host_index
        raise FaceError(
            f"--host-index must be the position of this host in --hosts, from 0 to {len(hosts) - 1}. Received: "
            f"{received}. Use a different index on each host."
        )
    if args.port is None:
        raise FaceError(
            "--hosts needs --port, because every host must use the same port numbers. Received no --port. Use, for "
            "instance: --port 23456."
        )


def is_ipv6(host: str) -> bool:
    """Whether the text is an IPv6 address."""
    try:
        return bool(ipaddress.IPv6Address(host))
    except ValueError:
        return False


if __name__ == "__main__":
    run_cli(main)
