"""The workers of a Slurm job step, read from its environment variables."""

import itertools
import re
from collections.abc import Mapping

from facelib.distributed.cluster import (
    FIRST_PORT,
    MAX_HOSTS,
    NUM_BLOCKS,
    PORTS_A_JOB,
    TF_CONFIG,
    Cluster,
    _first,
    _integer,
    _short,
)
from facelib.errors import FaceError


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
