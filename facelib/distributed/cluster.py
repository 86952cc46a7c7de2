"""The workers of one training (`Cluster`), found in TF_CONFIG or in Slurm's variables, or this process alone.

There is one process per device. TF_CONFIG is TensorFlow's own form:
{"cluster": {"worker": ["host:port", ...]}, "task": {"type": "worker", "index": 0}}.
launch.py and `set_tf_config` write it.

TensorFlow's SlurmClusterResolver is not used. It sorts hosts as text, node10 before node2, so its ranks can disagree
with SLURM_PROCID; and it asks nvidia-smi for GPUs.
"""

import itertools
import json
import os
import re
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass

from facelib.errors import FaceError
from facelib.files import parse_json
from facelib.machine import cores

TF_CONFIG = "TF_CONFIG"
JOIN_SECONDS = 300  # in which all workers join
CONNECT_TIMEOUT = 5.0  # seconds; a host that is switched off does not refuse a connection, it does not answer
MAX_HOSTS = 100_000  # a longer host list is a typing error, and would fill the memory
FIRST_PORT, PORTS_A_JOB, NUM_BLOCKS = 10_000, 32, 700  # below 32768, from where Linux gives ports to connections


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
    def on_host(self) -> int:
        """The number of workers on the host of this one, itself included."""
        hosts = [address.rpartition(":")[0] for address in self.addresses]
        return hosts.count(hosts[self.rank]) if hosts else 1

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


def cores_of_worker(cluster: Cluster, environ: Mapping[str, str] = os.environ) -> int:
    """The number of cores for one worker, at least 1: its share of the host's.

    A Slurm task may already be bound to its own cores, so the number comes from --cpus-per-task, if that is given.
    """
    given = environ.get("SLURM_CPUS_PER_TASK", "")
    if not environ.get(TF_CONFIG, "").strip() and given.isdecimal() and int(given):
        return int(given)
    return max(1, cores() // cluster.on_host)


def split_address(address: str) -> tuple[str, int]:
    """Splits "host:port" into (host, port). An IPv6 host has brackets there, and none in the result.

    Raises:
        FaceError: the text has another form.
    """
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.%\w]+)\]|([^\s:/\[\]]+)):([0-9]{1,5})", address)
    if match is None or not 0 < int(match[3]) < 65536:
        raise FaceError(
            f"The address of a worker must be host:port, with a port from 1 to 65535. Received: '{address}'. Correct "
            "this address."
        )
    return match[1] or match[2], int(match[3])


def shorten(text: str, most: int = 80) -> str:
    """A value as an error message shows it: on one line, cut after `most` characters."""
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[:most]}..."


def find_cluster(environ: Mapping[str, str] = os.environ) -> Cluster:
    """The cluster that the environment variables describe. TF_CONFIG takes precedence over Slurm.

    Raises:
        FaceError: a variable that is set to something wrong.
    """
    if environ.get(TF_CONFIG, "").strip():
        return _from_tf_config(environ[TF_CONFIG])
    return from_slurm(environ) or Cluster()


def _from_tf_config(text: str) -> Cluster:
    try:
        config = parse_json(text)
    except ValueError as error:
        reason = f"{error.msg} at character {error.pos}" if isinstance(error, json.JSONDecodeError) else error
        raise FaceError(
            f"{TF_CONFIG} must be valid JSON. Received: {shorten(text[:200])} ({reason}). Correct it, or unset "
            f"{TF_CONFIG} to train in one process."
        ) from error
    if config == {}:
        return Cluster()
    jobs, task = (_table(config, key) for key in ("cluster", "task"))
    for job in jobs:
        if job not in ("chief", "worker"):
            raise FaceError(
                f"{TF_CONFIG} can have only the jobs 'worker' and 'chief' (the first worker), because there are no "
                f"parameter servers. Received: '{job}'. Leave this job out."
            )
    chiefs, workers = (_addresses(jobs, job) for job in ("chief", "worker"))
    if len(chiefs) > 1:
        raise FaceError(
            f"{TF_CONFIG} can have at most one chief. Received: {len(chiefs)}. Change the others to workers."
        )
    addresses = (*chiefs, *workers)
    if not addresses:
        raise FaceError(
            f"{TF_CONFIG} must list the workers. Received none. List the workers, or unset this variable to train "
            "in one process."
        )
    if len(set(addresses)) < len(addresses):
        double = next(address for address in addresses if addresses.count(address) > 1)
        raise FaceError(
            f"Each worker must have its own address. Received: '{double}' twice in {TF_CONFIG}. Use a different "
            "port for each worker."
        )
    return Cluster(_rank(task, chiefs, workers), addresses)


def _table(config, key: str) -> dict:
    value = config.get(key) if isinstance(config, dict) else None
    if not isinstance(value, dict):
        example = '{"cluster": {"worker": ["host:port", ...]}, "task": {"type": "worker", "index": 0}}'
        raise FaceError(
            f"{TF_CONFIG} must have the form {example}. Received: {key} = {shorten(json.dumps(value))}. Correct it, "
            "or unset this variable to train in one process."
        )
    return value


def _addresses(jobs: dict, job: str) -> list[str]:
    addresses = jobs.get(job, [])
    if not isinstance(addresses, list) or not all(isinstance(address, str) for address in addresses):
        raise FaceError(
            f'The {job} of {TF_CONFIG} must be a list such as ["host:port", ...]. '
            f"Received: {shorten(json.dumps(addresses))}. Correct this list."
        )
    for address in addresses:
        split_address(address)
    return addresses


def _rank(task: dict, chiefs: list[str], workers: list[str]) -> int:
    kind, index = task.get("type"), task.get("index")
    if kind not in ("chief", "worker"):
        raise FaceError(
            f"The task of {TF_CONFIG} must have the type worker, or chief for the first worker. Received: "
            f"{shorten(json.dumps(kind))}. Start train.py only in the workers."
        )
    if isinstance(index, str) and index.isascii() and index.isdigit():
        index = int(index)  # a shell's $INDEX is a string; TensorFlow accepts it too
    same = chiefs if kind == "chief" else workers
    if type(index) is not int or not 0 <= index < len(same):
        received = "no index" if index is None else f"index {shorten(json.dumps(index))}"
        allowed = f"0 to {len(same) - 1}" if same else f"none: there is no {kind}"
        raise FaceError(
            f"The index of a task in {TF_CONFIG} must be its position in the list of {kind}s, here {allowed}. "
            f"Received: {received}. Use a different index for each process."
        )
    return index + (len(chiefs) if kind == "worker" else 0)


def from_slurm(environ: Mapping[str, str]) -> Cluster | None:
    """The cluster of a job step with several tasks; None outside one.

    Raises:
        FaceError: a variable that is missing or wrong.
    """
    # The variables of the step come first: in a step of 1 task in a job of 8, such as a shell, SLURM_NTASKS may be 8.
    num_tasks_text = _first(environ, "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS")
    if num_tasks_text in ("", "1") or "SLURM_PROCID" not in environ:
        return None
    num_tasks = _integer("SLURM_NTASKS", num_tasks_text)
    host_list = _first(environ, "SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NODELIST")
    task_list = _first(environ, "SLURM_STEP_TASKS_PER_NODE", "SLURM_TASKS_PER_NODE")
    if "SLURM_STEP_NODELIST" not in environ and environ.get("ENVIRONMENT") == "BATCH":
        # A batch script itself has SLURM_PROCID=0 and SLURM_NTASKS: nobody started the other tasks.
        raise FaceError(
            f"The {num_tasks} tasks of a Slurm job must be started by srun. This process was started by the batch "
            "script itself. Use: srun python train.py ... (or unset SLURM_NTASKS to train in one process)."
        )
    if not host_list or not task_list:
        missing = "SLURM_STEP_NODELIST" if not host_list else "SLURM_STEP_TASKS_PER_NODE"
        raise FaceError(
            f"The {num_tasks} Slurm tasks need the variable {missing} to find each other. It is not set. Start the "
            f"tasks with srun, or set {TF_CONFIG}."
        )
    hosts, counts = expand_hosts(host_list), expand_counts(task_list)
    if len(hosts) != len(counts) or sum(counts) != num_tasks:
        raise FaceError(
            f"Slurm's list of hosts and its list of tasks per host must match a job of {num_tasks} tasks. Received: "
            f"{len(hosts)} entries in the list of hosts, {len(counts)} in the list of tasks, {sum(counts)} tasks in "
            f"total. Start the tasks with srun and do not change its variables, or set {TF_CONFIG}."
        )
    rank = _integer("SLURM_PROCID", environ["SLURM_PROCID"])
    places = [(node, number) for node, count in enumerate(counts) for number in range(count)]
    if rank >= num_tasks:
        raise FaceError(
            f"SLURM_PROCID must be from 0 to {num_tasks - 1}. Received: {rank}. Start the tasks with srun, or set "
            f"{TF_CONFIG}."
        )
    for key, ours in zip(("SLURM_NODEID", "SLURM_LOCALID"), places[rank], strict=True):
        if environ.get(key, str(ours)) != str(ours):
            raise FaceError(
                f"Slurm must fill one node with tasks before it uses the next node. In this order, task {rank} would "
                f"have {key}={ours}, but it has {environ[key]}. Start the tasks with: srun --distribution=block ..."
            )
    base = _base_port(environ, max(counts))
    return Cluster(rank, tuple(f"{hosts[node]}:{base + number}" for node, number in places))


def _first(environ: Mapping[str, str], *keys: str) -> str:
    """The first of these variables that is set and not empty, else ''."""
    return next((environ[key] for key in keys if environ.get(key)), "")


def _integer(key: str, text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise FaceError(f"{key} must be a whole number. Received: '{shorten(text)}'. Correct it, or set {TF_CONFIG}.")
    return int(text)


def _base_port(environ: Mapping[str, str], most_tasks: int) -> int:
    """The port of the first task on a node: MOBILEARC_PORT, or one that differs between neighbouring jobs and steps."""
    if environ.get("MOBILEARC_PORT"):
        base = _integer("MOBILEARC_PORT", environ["MOBILEARC_PORT"])
        if not 0 < base <= 65536 - most_tasks:
            raise FaceError(
                f"MOBILEARC_PORT must be the first of {most_tasks} ports per node. Received: {base}. Use a port from "
                "10000 to 30000."
            )
        return base
    job = _integer("SLURM_JOB_ID", environ.get("SLURM_JOB_ID", "0"))
    step = _integer("SLURM_STEP_ID", environ.get("SLURM_STEP_ID", "0"))
    return FIRST_PORT + (job + 101 * step) % NUM_BLOCKS * PORTS_A_JOB


def expand_hosts(text: str) -> list[str]:
    """Expands a Slurm host list in its order: "node[01-03,7],gpu1" -> node01 node02 node03 node7 gpu1.

    A range keeps the leading zeros of its first number. Several brackets in a name give every combination; the last
    bracket changes fastest.

    Raises:
        FaceError: the text has another form.
    """
    hosts: list[str] = []
    if not re.fullmatch(r"(?:[^\s\[\],]|\[[0-9,-]+\])+(?:,(?:[^\s\[\],]|\[[0-9,-]+\])+)*", text):
        raise _bad_hosts(text)
    for name in re.findall(r"(?:[^\[\],]|\[[^\]]*\])+", text):
        parts = re.split(r"\[([^\]]*)\]", name)  # text and numbers alternate
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
        f"Slurm must list hosts in the form node[01-03,7],gpu1. Received: '{shorten(text)}'. Start the tasks with "
        f"srun, or set {TF_CONFIG}."
    )


def expand_counts(text: str) -> list[int]:
    """The number of tasks on each node: "2(x2),1" -> 2 2 1.

    Raises:
        FaceError: the text has another form.
    """
    counts: list[int] = []
    for item in text.split(","):
        match = re.fullmatch(r"([0-9]{1,6})(?:\(x([0-9]{1,6})\))?", item)
        if match is None or len(counts) + int(match[2] or 1) > MAX_HOSTS:
            raise FaceError(
                f"Slurm must list the tasks of the nodes in the form 2(x2),1. Received: '{shorten(text)}'. Start the "
                f"tasks with srun, or set {TF_CONFIG}."
            )
        counts += [int(match[1])] * int(match[2] or 1)
    return counts
