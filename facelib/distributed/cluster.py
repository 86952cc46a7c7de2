"""Which workers a training has and which of them this process is: from TF_CONFIG, from Slurm, or one alone.

One process per device. TF_CONFIG is TensorFlow's own form, {"cluster": {"worker": ["host:port", ...]}, "task": {"type":
"worker", "index": 0}}; launch.py, Kubernetes jobs and people write it. Without it the variables of a Slurm step count.

TensorFlow ships a SlurmClusterResolver. It sorts the hosts as text, node10 before node2, so that its ranks can disagree
with SLURM_PROCID, and it asks nvidia-smi for GPUs: hence our own reading here.
"""

import itertools
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


def find_cluster(environ: Mapping[str, str] = os.environ) -> Cluster:
    """The cluster that the environment describes; TF_CONFIG counts before Slurm.

    Raises:
        FaceError: a description that is there, and wrong.
    """
    if environ.get(TF_CONFIG, "").strip():
        return _from_tf_config(environ[TF_CONFIG])
    # A step's own variables first: in a step of 1 task within a job of 8, such as a shell, SLURM_NTASKS may say 8.
    num_tasks = _first(environ, "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS")
    if num_tasks and num_tasks != "1" and "SLURM_PROCID" in environ:
        return _from_slurm(environ, _integer("SLURM_NTASKS", num_tasks))
    return Cluster()


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


def _from_tf_config(text: str) -> Cluster:
    try:
        config = json.loads(text)
    except json.JSONDecodeError as error:
        raise FaceError(
            f"{TF_CONFIG} is JSON. Received: {_short(text)} ({error.msg} at character {error.pos}). "
            "Mend it, or unset it to train alone."
        ) from error
    if config == {}:
        return Cluster()
    jobs, task = (_table(config, key) for key in ("cluster", "task"))
    for job in jobs:
        if job not in ("chief", "worker"):
            raise FaceError(
                f"Workers train alike, without servers: the jobs of {TF_CONFIG} are worker, and chief for the first. "
                f"Received: '{job}'. Leave it out."
            )
    chiefs, workers = (_addresses(jobs, job) for job in ("chief", "worker"))
    if len(chiefs) > 1:
        raise FaceError(f"{TF_CONFIG} has at most one chief. Received: {len(chiefs)}. Make the others workers.")
    addresses = (*chiefs, *workers)
    if not addresses:
        raise FaceError(f"{TF_CONFIG} lists the workers. Received none. Write them, or unset it to train alone.")
    if len(set(addresses)) < len(addresses):
        double = next(address for address in addresses if addresses.count(address) > 1)
        raise FaceError(
            f"Every worker has an address of its own. Received: '{double}' twice in {TF_CONFIG}. Give each its port."
        )
    return Cluster(_rank(task, chiefs, workers), addresses)


def _table(config, key: str) -> dict:
    value = config.get(key) if isinstance(config, dict) else None
    if not isinstance(value, dict):
        example = '{"cluster": {"worker": ["host:port", ...]}, "task": {"type": "worker", "index": 0}}'
        raise FaceError(
            f"{TF_CONFIG} has the form {example}. Received: {key} = {_short(json.dumps(value))}. "
            "Mend it, or unset it to train alone."
        )
    return value


def _addresses(jobs: dict, job: str) -> list[str]:
    addresses = jobs.get(job, [])
    if not isinstance(addresses, list) or not all(isinstance(address, str) for address in addresses):
        raise FaceError(
            f'The {job} of {TF_CONFIG} is a list such as ["host:port", ...]. Received: {_short(json.dumps(addresses))}.'
            " Mend it."
        )
    for address in addresses:
        split_address(address)
    return addresses


def _rank(task: dict, chiefs: list[str], workers: list[str]) -> int:
    kind, index = task.get("type"), task.get("index")
    if kind not in ("chief", "worker"):
        raise FaceError(
            f"The task of {TF_CONFIG} is of type worker, or chief for the first. Received: {_short(json.dumps(kind))}. "
            "Start train.py in the workers alone."
        )
    if isinstance(index, str) and index.isascii() and index.isdigit():  # a shell's $INDEX; TensorFlow takes it too
        index = int(index)
    same = chiefs if kind == "chief" else workers
    if type(index) is not int or not 0 <= index < len(same):
        received = "no index" if index is None else f"index {_short(json.dumps(index))}"
        allowed = f"0 to {len(same) - 1}" if same else f"none: there is no {kind}"
        raise FaceError(
            f"The index of a task in {TF_CONFIG} is its place in the list of {kind}s, here {allowed}. "
            f"Received: {received}. Give each process its own."
        )
    return index + (len(chiefs) if kind == "worker" else 0)


def _short(text: str, most: int = 80) -> str:
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[:most]}..."


# ----------------------------------------------------------------------------------------------------------- Slurm


def _from_slurm(environ: Mapping[str, str], num_tasks: int) -> Cluster:
    hosts = _first(environ, "SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NODELIST")
    tasks = _first(environ, "SLURM_STEP_TASKS_PER_NODE", "SLURM_TASKS_PER_NODE")
    if "SLURM_STEP_NODELIST" not in environ and environ.get("ENVIRONMENT") == "BATCH":
        # A batch script itself has SLURM_PROCID=0 and SLURM_NTASKS: nobody started the other tasks.
        raise FaceError(
            f"The {num_tasks} tasks of a Slurm job are started by srun. This one was started by the batch script "
            "itself. Write: srun python train.py ... (or unset SLURM_NTASKS to train alone)."
        )
    if not hosts or not tasks:
        missing = "SLURM_STEP_NODELIST" if not hosts else "SLURM_STEP_TASKS_PER_NODE"
        raise FaceError(
            f"{num_tasks} Slurm tasks find each other by {missing}. It is not set. Start them with srun, or set "
            f"{TF_CONFIG}."
        )
    hosts, counts = expand_hosts(hosts), expand_counts(tasks)
    if len(hosts) != len(counts) or sum(counts) != num_tasks:
        raise FaceError(
            f"Slurm's lists agree: {num_tasks} tasks. Received: {len(hosts)} hosts, {sum(counts)} tasks on "
            f"{len(counts)}. Start them with srun, without changing its variables, or set {TF_CONFIG}."
        )
    rank = _integer("SLURM_PROCID", environ["SLURM_PROCID"])
    places = [(node, number) for node, count in enumerate(counts) for number in range(count)]
    if rank >= num_tasks:
        raise FaceError(
            f"SLURM_PROCID is 0 to {num_tasks - 1}. Received: {rank}. Start the tasks with srun, or set {TF_CONFIG}."
        )
    for key, ours in zip(("SLURM_NODEID", "SLURM_LOCALID"), places[rank], strict=True):
        if environ.get(key, str(ours)) != str(ours):
            raise FaceError(
                f"Slurm's tasks fill one node after the other. Task {rank} has {key}={environ[key]} where that gives "
                f"{ours}. Start them with: srun --distribution=block ..."
            )
    base = _base_port(environ, max(counts))
    return Cluster(rank, tuple(f"{hosts[node]}:{base + number}" for node, number in places))


def _base_port(environ: Mapping[str, str], most_tasks: int) -> int:
    """The port of the first task of a node: MOBILEARC_PORT, or one that jobs and steps of near numbers do not share."""
    if environ.get("MOBILEARC_PORT"):
        base = _integer("MOBILEARC_PORT", environ["MOBILEARC_PORT"])
        if not 0 < base <= 65536 - most_tasks:
            raise FaceError(
                f"MOBILEARC_PORT is the first of {most_tasks} ports a node. Received: {base}. "
                "Take one between 10000 and 30000."
            )
        return base
    job = _integer("SLURM_JOB_ID", environ.get("SLURM_JOB_ID", "0"))
    step = _integer("SLURM_STEP_ID", environ.get("SLURM_STEP_ID", "0"))
    return FIRST_PORT + (job + 101 * step) % NUM_BLOCKS * PORTS_A_JOB


def expand_hosts(text: str) -> list[str]:
    """The hosts of a Slurm host list, in its order: "node[01-03,7],gpu1" -> node01 node02 node03 node7 gpu1.

    A range keeps the zeros of its first number; several brackets in a name give every combination, the last fastest.

    Raises:
        FaceError: not of that form.
    """
    hosts: list[str] = []
    if not re.fullmatch(r"(?:[^\s\[\],]|\[[0-9,-]+\])+(?:,(?:[^\s\[\],]|\[[0-9,-]+\])+)*", text):
        raise _bad_hosts(text)
    for name in re.findall(r"(?:[^\[\],]|\[[^\]]*\])+", text):
        parts = re.split(r"\[([^\]]*)\]", name)  # text and numbers by turns
        choices = [_numbers(part, text) if i % 2 else [part] for i, part in enumerate(parts)]
        hosts += map("".join, itertools.islice(itertools.product(*choices), MAX_HOSTS))
        if len(hosts) >= MAX_HOSTS:
            raise _bad_hosts(text)
    return hosts


def _numbers(ranges: str, text: str) -> list[str]:
    numbers: list[str] = []
    for item in ranges.split(","):
        match = re.fullmatch(r"(\d{1,18})(?:-(\d{1,18}))?", item)
        if match is None:
            raise _bad_hosts(text)
        low, high = int(match[1]), int(match[2] or match[1])
        if not low <= high < low + MAX_HOSTS:
            raise _bad_hosts(text)
        numbers += (str(number).zfill(len(match[1])) for number in range(low, high + 1))
    return numbers


def _bad_hosts(text: str) -> FaceError:
    return FaceError(
        f"Slurm lists hosts as in node[01-03,7],gpu1. Received: '{_short(text)}'. Start the tasks with srun, or set "
        f"{TF_CONFIG}."
    )


def expand_counts(text: str) -> list[int]:
    """The tasks of each node: "2(x2),1" -> 2 2 1.

    Raises:
        FaceError: not of that form.
    """
    counts: list[int] = []
    for item in text.split(","):
        match = re.fullmatch(r"([0-9]{1,6})(?:\(x([0-9]{1,6})\))?", item)
        if match is None or len(counts) + int(match[2] or 1) > MAX_HOSTS:
            raise FaceError(
                f"Slurm lists the tasks of nodes as in 2(x2),1. Received: '{_short(text)}'. Start them with srun, or "
                f"set {TF_CONFIG}."
            )
        counts += [int(match[1])] * int(match[2] or 1)
    return counts


def _first(environ: Mapping[str, str], *keys: str) -> str:
    return next((environ[key] for key in keys if environ.get(key)), "")


def _integer(key: str, text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise FaceError(f"{key} is a whole number. Received: '{_short(text)}'. Set it right, or set {TF_CONFIG}.")
    return int(text)
