"""Which workers a training has and which of them this process is: from TF_CONFIG, from Slurm, or one alone.

One process per device. TF_CONFIG is TensorFlow's own form, {"cluster": {"worker": ["host:port", ...]}, "task": {"type":
"worker", "index": 0}}; launch.py, Kubernetes jobs and people write it. Without it the variables of a Slurm step count.

TensorFlow ships a SlurmClusterResolver. It sorts the hosts as text, node10 before node2, so that its ranks can disagree
with SLURM_PROCID, and it asks nvidia-smi for GPUs: hence our own reading here.
"""

import json
import os
import re
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass

from facelib.errors import FaceError

TF_CONFIG = "TF_CONFIG"
MAX_HOSTS = 100_000  # a host list of more is a slip of the pen, and would fill the memory
FIRST_PORT, PORTS_A_JOB, NUM_BLOCKS = 10_000, 32, 700  # below 32768, where Linux takes the ports of connections from


@dataclass(frozen=True)
class Cluster:
    """All workers of one training: `addresses` are "host:port" by rank, `rank` is ours. `Cluster()` is one alone."""

    rank: int = 0
    addresses: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        return max(1, len(self.addresses))

    @property
    def peers(self) -> dict[int, str]:
        """{rank: address} of the other workers."""
        return {rank: address for rank, address in enumerate(self.addresses) if rank != self.rank}


def set_tf_config(cluster: Cluster, environ: MutableMapping[str, str] = os.environ) -> None:
    """Writes TF_CONFIG as TensorFlow's own engine reads it: workers alone, no chief; removes it for one worker."""
    if cluster.count == 1:
        environ.pop(TF_CONFIG, None)
        return
    environ[TF_CONFIG] = tf_config(cluster)


def tf_config(cluster: Cluster) -> str:
    """TF_CONFIG of this worker, as JSON."""
    task = {"type": "worker", "index": cluster.rank}
    return json.dumps({"cluster": {"worker": list(cluster.addresses)}, "task": task})


def split_address(address: str) -> tuple[str, int]:
    """(host, port) of "host:port"; an IPv6 host stands in brackets, which are taken off.

    Raises:
        FaceError: it is neither.
    """
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.%\w]+)\]|([^\s:/\[\]]+)):([0-9]{1,5})", address)
    if match is None or not 0 < int(match[3]) < 65536:
        raise FaceError(f"The address of a worker is host:port, port 1 to 65535. Received: '{address}'. Mend it.")
    return match[1] or match[2], int(match[3])


# ------------------------------------------------------------------------------------------------------- TF_CONFIG


def _short(text: str, most: int = 80) -> str:
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[:most]}..."


# ----------------------------------------------------------------------------------------------------------- Slurm


def _first(environ: Mapping[str, str], *keys: str) -> str:
    return next((environ[key] for key in keys if environ.get(key)), "")


def _integer(key: str, text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise FaceError(f"{key} is a whole number. Received: '{_short(text)}'. Set it right, or set {TF_CONFIG}.")
    return int(text)
