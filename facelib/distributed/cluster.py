"""The workers of one training (`Cluster`), and how TF_CONFIG writes them.

There is one process per device. TF_CONFIG is TensorFlow's own form:
{"cluster": {"worker": ["host:port", ...]}, "task": {"type": "worker", "index": 0}}.
find_cluster.py reads it; launch.py and `set_tf_config` write it.
"""

import json
import os
import re
from collections.abc import MutableMapping
from dataclasses import dataclass

from facelib.errors import FaceError

TF_CONFIG = "TF_CONFIG"


@dataclass(frozen=True)
class Cluster:
    """All workers of one training. `Cluster()` is a training in one process.

    Attributes:
        rank: number of this worker, from 0.
        addresses: "host:port" of every worker, by rank; empty for one process.
    """

    rank: int = 0
    addresses: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """The number of workers, at least 1."""
        return max(1, len(self.addresses))

    @property
    def peers(self) -> dict[int, str]:
        """{rank: address} of the other workers."""
        return {rank: address for rank, address in enumerate(self.addresses) if rank != self.rank}


def set_tf_config(cluster: Cluster, environ: MutableMapping[str, str] = os.environ) -> None:
    """Writes TF_CONFIG in the form that TensorFlow reads, without a chief; removes it for one worker."""
    if cluster.count == 1:
        environ.pop(TF_CONFIG, None)
        return
    environ[TF_CONFIG] = tf_config(cluster)


def tf_config(cluster: Cluster) -> str:
    """The value of TF_CONFIG for this worker, as JSON."""
    task = {"type": "worker", "index": cluster.rank}
    return json.dumps({"cluster": {"worker": list(cluster.addresses)}, "task": task})


def split_address(address: str) -> tuple[str, int]:
    """Splits "host:port" into (host, port). An IPv6 host has brackets there, and none in the result.

    Raises:
        FaceError: the text has another form.
    """
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.%\w]+)\]|([^\s:/\[\]]+)):([0-9]{1,5})", address)
    if match is None or not 0 < int(match[3]) < 65536:
        raise FaceError(f"The address of a worker is host:port, port 1 to 65535. Received: '{address}'. Correct it.")
    return match[1] or match[2], int(match[3])


def shorten(text: str, most: int = 80) -> str:
    """A value as an error message shows it: on one line, cut after `most` characters."""
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[:most]}..."
