"""Hosts with addresses and names of their own on this machine: Linux network namespaces around one switch.

They have the files of this machine, so a folder of the test is their shared storage. `ip` is Debian's iproute2.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

NETWORK = "10.77.0"  # only inside the namespaces


def ip(*words):
    """Runs `ip`; raises CalledProcessError if it refuses."""
    subprocess.run(["ip", *map(str, words)], check=True, capture_output=True, text=True)


class NetworkHosts:
    """Hosts node-a, node-b, ... Each is a namespace with a cable to a bridge, which is in a namespace of its own.

    Args:
        count: number of hosts.

    Attributes:
        names: of the hosts; each host knows all of them.
    """

    def __init__(self, count):
        self._prefix = f"mobilearc-{os.getpid()}"
        self._switch = f"{self._prefix}-switch"
        self.names = [f"node-{letter}" for letter in "abcdefgh"[:count]]
        self._made = []
        try:
            self._make()
        except BaseException:
            self.close()
            raise

    def _make(self):
        self._add(self._switch)
        ip("-n", self._switch, "link", "add", "bridge", "type", "bridge")
        ip("-n", self._switch, "link", "set", "bridge", "up")
        hosts = "127.0.0.1 localhost\n" + "".join(f"{NETWORK}.{i + 1} {name}\n" for i, name in enumerate(self.names))
        for i, name in enumerate(self.names):
            space = self._space(name)
            self._add(space)
            ip("-n", space, "link", "add", "eth0", "type", "veth", "peer", "name", name, "netns", self._switch)
            ip("-n", space, "address", "add", f"{NETWORK}.{i + 1}/24", "dev", "eth0")
            ip("-n", space, "link", "set", "lo", "up")
            ip("-n", space, "link", "set", "eth0", "up")
            ip("-n", self._switch, "link", "set", name, "up", "master", "bridge")
            folder = Path("/etc/netns", space)  # `ip netns exec` shows its files in /etc
            folder.mkdir(parents=True)
            (folder / "hosts").write_text(hosts)

    def _add(self, space):
        ip("netns", "add", space)
        self._made.append(space)

    def _space(self, name):
        return f"{self._prefix}-{name}"

    def start(self, name, command, **options):
        """Starts a process on a host: a Popen."""
        return subprocess.Popen(["ip", "netns", "exec", self._space(name), *map(str, command)], **options)

    def pull_cable(self, name):
        """The host's link goes down."""
        ip("-n", self._switch, "link", "set", name, "down")

    def plug_cable(self, name):
        """The host's link comes up again."""
        ip("-n", self._switch, "link", "set", name, "up")

    def lose_packets(self, name):
        """The host's link stays up, and nothing that is sent arrives."""
        ip("-n", self._switch, "link", "set", name, "nomaster")

    def slow_down(self, name, rate="5mbit"):
        """The host sends no faster than this."""
        words = ["qdisc", "add", "dev", "eth0", "root", "tbf", "rate", rate, "burst", "32kbit", "latency", "400ms"]
        subprocess.run(["tc", "-n", self._space(name), *words], check=True, capture_output=True, text=True)

    def close(self):
        """Removes the namespaces. Processes in them must have ended."""
        for space in self._made:
            ip("netns", "delete", space)
            shutil.rmtree(Path("/etc/netns", space), ignore_errors=True)
        self._made = []


def network_hosts(count):
    """What a fixture yields; the test is skipped where the system does not allow namespaces."""
    try:
        hosts = NetworkHosts(count)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"needs_tool: ip may not make network namespaces here ({error.stderr.strip()[:80]})")
    except PermissionError as error:
        pytest.skip(f"needs_tool: ip may not make network namespaces here ({error})")
    yield hosts
    hosts.close()
