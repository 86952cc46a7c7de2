"""facelib/distributed/cluster.py: workers as TF_CONFIG describes them, and one line for what is wrong."""

import json

import pytest

from facelib.distributed import cluster as module
from facelib.distributed.cluster import Cluster, cores_of_worker, find_cluster, set_tf_config, split_address
from facelib.errors import FaceError

THREE = ["a:1000", "a:1001", "b:1000"]


def config(cluster, task):
    return {"TF_CONFIG": json.dumps({"cluster": cluster, "task": task})}


def worker(index):
    return {"type": "worker", "index": index}


def refusal(environ):
    """The one line with which it is refused."""
    with pytest.raises(FaceError) as caught:
        find_cluster(environ)
    assert "\n" not in str(caught.value) and "Received" in str(caught.value)
    return str(caught.value)


# ---------------------------------------------------------------------------------------------------------- alone


@pytest.mark.parametrize("environ", [{}, {"TF_CONFIG": ""}, {"TF_CONFIG": "{}"}, {"HOME": "/root"}])
def test_a_plain_run_is_one_worker(environ):
    cluster = find_cluster(environ)

    assert cluster == Cluster() and (cluster.rank, cluster.count, cluster.peers) == (0, 1, {})


# ------------------------------------------------------------------------------------------------------- TF_CONFIG


@pytest.mark.parametrize("index", [0, 1, 2, "2"])
def test_a_worker_has_its_place_in_the_list(index):
    cluster = find_cluster(config({"worker": THREE}, worker(index)))

    assert cluster == Cluster(int(index), tuple(THREE))
    assert cluster.count == 3
    assert cluster.peers == {i: THREE[i] for i in range(3) if i != int(index)}


def test_the_chief_comes_before_the_workers():
    jobs = {"worker": THREE[1:], "chief": THREE[:1]}

    assert find_cluster(config(jobs, {"type": "chief", "index": 0})) == Cluster(0, tuple(THREE))
    assert find_cluster(config(jobs, worker(0))) == Cluster(1, tuple(THREE))
    assert find_cluster(config(jobs, worker(1))) == Cluster(2, tuple(THREE))


@pytest.mark.parametrize(("cluster", "on_host", "expected"), [
    (Cluster(), 1, 8), (Cluster(0, tuple(THREE)), 2, 4), (Cluster(2, tuple(THREE)), 1, 8),
    (Cluster(3, tuple(f"[::1]:{port}" for port in range(1000, 1016))), 16, 1),
])  # fmt: skip
def test_the_workers_of_a_host_share_its_cores(cluster, on_host, expected, monkeypatch):
    monkeypatch.setattr(module, "cores", lambda: 8)

    assert cluster.on_host == on_host
    assert cores_of_worker(cluster, {}) == expected
    assert cores_of_worker(cluster, {"SLURM_CPUS_PER_TASK": "6"}) == 6  # Slurm may bind the task to these
    assert cores_of_worker(cluster, {"SLURM_CPUS_PER_TASK": "6", "TF_CONFIG": "{}"}) == expected  # of launch.py


def test_tf_config_takes_precedence_over_slurm():
    slurm = {"SLURM_NTASKS": "5", "SLURM_PROCID": "3", "SLURM_STEP_NODELIST": "n[1-5]", "SLURM_TASKS_PER_NODE": "1(x5)"}

    assert find_cluster(slurm).count == 5
    assert find_cluster(config({"worker": THREE}, worker(1)) | slurm) == Cluster(1, tuple(THREE))


@pytest.mark.parametrize(
    "text, said",
    [
        ("{'cluster': 1}", "must be valid JSON"),
        ("[]", "cluster = null"),
        ("7", "cluster = null"),
        ('{"cluster": {"worker": ["a:1"]}}', "task = null"),
        ('{"cluster": ["a:1"], "task": {}}', 'cluster = ["a:1"]'),
    ],
)
def test_what_has_not_the_form_of_tf_config_is_refused(text, said):
    assert said in refusal({"TF_CONFIG": text})


@pytest.mark.parametrize(
    "jobs, task, said",
    [
        ({"worker": THREE}, {"type": "worker"}, "no index"),
        ({"worker": THREE}, worker(3), "here 0 to 2. Received: index 3"),
        ({"worker": THREE}, worker(-1), "index -1"),
        ({"worker": THREE}, worker(True), "index true"),
        ({"worker": THREE}, worker(0.0), "index 0.0"),
        ({"worker": THREE}, worker("one"), 'index "one"'),
        ({"worker": THREE}, {"index": 0}, "null"),
        ({"worker": THREE}, {"type": "ps", "index": 0}, '"ps"'),
        ({"worker": THREE}, {"type": "evaluator", "index": 0}, '"evaluator"'),
        ({"worker": THREE}, {"type": "chief", "index": 0}, "there is no chief"),
        ({"worker": THREE, "ps": ["c:1"]}, worker(0), "'ps'"),
        ({"worker": THREE, "chief": ["c:1", "c:2"]}, worker(0), "at most one chief. Received: 2"),
        ({"worker": []}, worker(0), "none"),
        ({"worker": ["a:1", "a:1"]}, worker(0), "'a:1' twice"),
        ({"worker": ["a:1"], "chief": ["a:1"]}, worker(0), "'a:1' twice"),
        ({"worker": ["a"]}, worker(0), "'a'"),
        ({"worker": ["a:"]}, worker(0), "'a:'"),
        ({"worker": [":1"]}, worker(0), "':1'"),
        ({"worker": ["a:0"]}, worker(0), "'a:0'"),
        ({"worker": ["a:65536"]}, worker(0), "'a:65536'"),
        ({"worker": ["grpc://a:1"]}, worker(0), "'grpc://a:1'"),
        ({"worker": ["a:1 "]}, worker(0), "'a:1 '"),
        ({"worker": [7]}, worker(0), "[7]"),
        ({"worker": {"0": "a:1"}}, worker(0), '{"0": "a:1"}'),
    ],
)
def test_a_wrong_cluster_is_one_line_that_shows_what_is_wrong(jobs, task, said):
    assert said in refusal(config(jobs, task))


def test_a_long_wrong_value_is_cut():
    assert len(refusal({"TF_CONFIG": "x" * 10_000})) < 300


def test_addresses_are_split_at_the_port():
    assert split_address("node-1.example.org:65535") == ("node-1.example.org", 65535)
    assert split_address("10.0.0.1:1") == ("10.0.0.1", 1)
    assert split_address("[fe80::1]:22") == ("fe80::1", 22)


def test_what_is_written_for_tensorflow_is_read_back():
    environ = config({"worker": THREE[1:], "chief": THREE[:1]}, worker(1))
    cluster = find_cluster(environ)

    set_tf_config(cluster, environ)

    assert json.loads(environ["TF_CONFIG"]) == {"cluster": {"worker": THREE}, "task": worker(2)}
    assert find_cluster(environ) == cluster


def test_for_one_worker_there_is_no_tf_config():
    environ = config({"worker": ["a:1"]}, worker(0))

    set_tf_config(find_cluster(environ), environ)
    set_tf_config(Cluster(), environ)

    assert environ == {}
