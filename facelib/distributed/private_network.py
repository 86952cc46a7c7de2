"""A network that only the workers of one host reach (Linux network namespace), for launch.py.

TensorFlow's server of a worker listens on all addresses, without a password, and runs what it is sent. It has no option
that binds it to 127.0.0.1. In a network namespace there is nothing but a loopback device, and nobody else is in it.
"""

import ctypes
import fcntl
import ipaddress
import os
import re
import signal
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000  # <linux/sched.h>
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1  # <linux/sockios.h>, <linux/if.h>


@dataclass(frozen=True)
class PrivateNetwork:
    """A network namespace, with the user namespace that owns it unless root made it.

    Attributes:
        namespaces: (file descriptor, type), in the order in which a process enters them.
    """

    namespaces: tuple[tuple[int, int], ...]

    def enter(self) -> None:
        """Moves this process, of one thread, into the network. Call it between fork and exec.

        Raises:
            OSError: the kernel does not allow it.
        """
        for descriptor, kind in self.namespaces:
            _call("setns", descriptor, kind)


def make_private_network() -> PrivateNetwork | None:
    """A new private network with its loopback device up; None where the kernel allows none."""
    kinds = {"net": CLONE_NEWNET}
    return (_make(kinds) if os.geteuid() == 0 else None) or _make({"user": CLONE_NEWUSER, **kinds})


def host_addresses(most: int = 8) -> list[str]:
    """The addresses of this host's interfaces as Linux lists them, IPv4 first; '...' stands for those after `most`."""
    found: list[str] = []
    with suppress(OSError):
        table = Path("/proc/net/fib_trie").read_text(encoding="utf-8")
        found += re.findall(r"\|-- (\S+)\n\s+/32 host LOCAL", table)
    with suppress(OSError):
        for line in Path("/proc/net/if_inet6").read_text(encoding="utf-8").splitlines():
            digits, *_, interface = line.split()
            address = ipaddress.IPv6Address(bytes.fromhex(digits))
            found.append(f"{address}%{interface}" if address.is_link_local else str(address))
    found = list(dict.fromkeys(found)) or ["unknown"]
    return found if len(found) <= most else [*found[:most], "..."]


def _make(kinds: dict[str, int]) -> PrivateNetwork | None:
    """The namespaces of a child that lives until they are open here: a process with threads may not make them."""
    read, write = os.pipe()
    try:
        child = os.fork()
    except OSError:
        os.close(read)
        os.close(write)
        return None
    if child == 0:
        _live_in_new_namespaces(kinds, write)
    os.close(write)
    try:
        if os.read(read, 1) != b"+":
            return None
        return PrivateNetwork(tuple((os.open(f"/proc/{child}/ns/{n}", os.O_RDONLY), k) for n, k in kinds.items()))
    except OSError:
        return None
    finally:
        os.close(read)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _live_in_new_namespaces(kinds: dict[str, int], write: int) -> None:
    """The child of `_make`: writes one byte when the network is up, then sleeps. It never returns."""
    with suppress(BaseException):
        user, group = os.geteuid(), os.getegid()
        _call("unshare", sum(kinds.values()))
        if "user" in kinds:  # files keep their owner: the same ids inside and outside
            for name, text in (
                ("setgroups", "deny"),
                ("uid_map", f"{user} {user} 1"),
                ("gid_map", f"{group} {group} 1"),
            ):
                with open(f"/proc/self/{name}", "w", encoding="utf-8") as file:
                    file.write(text)
        with socket.socket() as sock:
            request = fcntl.ioctl(sock, SIOCGIFFLAGS, struct.pack("16sh14x", b"lo", 0))
            flags = struct.unpack("16sh14x", request)[1]
            fcntl.ioctl(sock, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | IFF_UP))
        os.write(write, b"+")
        signal.alarm(60)  # should launch.py be killed meanwhile
        while True:
            signal.pause()
    os._exit(1)


def _call(function: str, *arguments: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, function)(*arguments) != 0:
        raise OSError(ctypes.get_errno(), f"{function}: {os.strerror(ctypes.get_errno())}")
