"""Finds the workers of this training: from TF_CONFIG, from Slurm, or this process alone."""

import json
import os
from collections.abc import Mapping

from facelib.distributed.cluster import TF_CONFIG, Cluster, shorten, split_address
from facelib.distributed.slurm import from_slurm
from facelib.errors import FaceError


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
        config = json.loads(text)
    except json.JSONDecodeError as error:
        raise FaceError(
            f"{TF_CONFIG} is JSON. Received: {shorten(text)} ({error.msg} at character {error.pos}). "
            "Correct it, or unset it to train in one process."
        ) from error
    if config == {}:
        return Cluster()
    jobs, task = (_table(config, key) for key in ("cluster", "task"))
    for job in jobs:
        if job not in ("chief", "worker"):
            raise FaceError(
                f"There are no parameter servers: the jobs of {TF_CONFIG} are worker, and chief for the first worker. "
                f"Received: '{job}'. Leave it out."
            )
    chiefs, workers = (_addresses(jobs, job) for job in ("chief", "worker"))
    if len(chiefs) > 1:
        raise FaceError(f"{TF_CONFIG} has at most one chief. Received: {len(chiefs)}. Make the others workers.")
    addresses = (*chiefs, *workers)
    if not addresses:
        raise FaceError(
            f"{TF_CONFIG} lists the workers. Received none. List them, or unset it to train in one process."
        )
    if len(set(addresses)) < len(addresses):
        double = next(address for address in addresses if addresses.count(address) > 1)
        raise FaceError(
            f"No two workers share an address. Received: '{double}' twice in {TF_CONFIG}. Give each its own port."
        )
    return Cluster(_rank(task, chiefs, workers), addresses)


def _table(config, key: str) -> dict:
    value = config.get(key) if isinstance(config, dict) else None
    if not isinstance(value, dict):
        example = '{"cluster": {"worker": ["host:port", ...]}, "task": {"type": "worker", "index": 0}}'
        raise FaceError(
            f"{TF_CONFIG} has the form {example}. Received: {key} = {shorten(json.dumps(value))}. "
            "Correct it, or unset it to train in one process."
        )
    return value


def _addresses(jobs: dict, job: str) -> list[str]:
    addresses = jobs.get(job, [])
    if not isinstance(addresses, list) or not all(isinstance(address, str) for address in addresses):
        raise FaceError(
            f'The {job} of {TF_CONFIG} is a list such as ["host:port", ...]. '
            f"Received: {shorten(json.dumps(addresses))}. Correct it."
        )
    for address in addresses:
        split_address(address)
    return addresses


def _rank(task: dict, chiefs: list[str], workers: list[str]) -> int:
    kind, index = task.get("type"), task.get("index")
    if kind not in ("chief", "worker"):
        raise FaceError(
            f"The task of {TF_CONFIG} is of type worker, or chief for the first. "
            f"Received: {shorten(json.dumps(kind))}. Start train.py only in the workers."
        )
    if isinstance(index, str) and index.isascii() and index.isdigit():
        index = int(index)  # a shell's $INDEX is a string; TensorFlow accepts it too
    same = chiefs if kind == "chief" else workers
    if type(index) is not int or not 0 <= index < len(same):
        received = "no index" if index is None else f"index {shorten(json.dumps(index))}"
        allowed = f"0 to {len(same) - 1}" if same else f"none: there is no {kind}"
        raise FaceError(
            f"The index of a task in {TF_CONFIG} is its place in the list of {kind}s, here {allowed}. "
            f"Received: {received}. Give each process its own index."
        )
    return index + (len(chiefs) if kind == "worker" else 0)
