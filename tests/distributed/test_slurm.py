"""facelib/distributed/cluster.py: the workers of a job step, host lists, and one line for what is wrong."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facelib.distributed.cluster import Cluster, expand_counts, expand_hosts, find_cluster, from_slurm, split_address
from facelib.errors import FaceError


def refusal(environ):
    """The one line with which it is refused."""
    with pytest.raises(FaceError) as caught:
        find_cluster(environ)
    assert "\n" not in str(caught.value) and "Received" in str(caught.value)
    return str(caught.value)


SLURM = {
    "SLURM_JOB_ID": "4711",
    "SLURM_STEP_ID": "0",
    "SLURM_NTASKS": "5",
    "SLURM_PROCID": "3",
    "SLURM_STEP_NODELIST": "node[2,10],gpu1",
    "SLURM_TASKS_PER_NODE": "2(x2),1",
}


def places(cluster):
    """[(host, port - lowest port)]"""
    split = [split_address(address) for address in cluster.addresses]
    return [(host, port - min(port for _, port in split)) for host, port in split]


def test_a_job_step_is_read_without_tf_config():
    cluster = from_slurm(SLURM)

    assert cluster == find_cluster(SLURM) and cluster.count == 5
    assert from_slurm({}) is None


def test_slurm_tasks_fill_one_node_after_the_other_in_slurms_order():
    cluster = find_cluster(SLURM)

    assert cluster.rank == 3
    assert places(cluster) == [("node2", 0), ("node2", 1), ("node10", 0), ("node10", 1), ("gpu1", 0)]


def test_every_task_of_a_step_finds_the_same_cluster():
    found = [find_cluster(SLURM | {"SLURM_PROCID": str(rank)}) for rank in range(5)]

    assert [cluster.rank for cluster in found] == [0, 1, 2, 3, 4]
    assert len({cluster.addresses for cluster in found}) == 1


def test_the_step_counts_before_the_job():
    job = {"SLURM_JOB_NODELIST": "other[1-9]", "SLURM_NTASKS": "36", "SLURM_TASKS_PER_NODE": "4(x9)"}
    step = {"SLURM_STEP_NUM_TASKS": "5", "SLURM_STEP_TASKS_PER_NODE": "2(x2),1"}

    assert find_cluster(SLURM | job | step) == find_cluster(SLURM)


def test_without_a_step_list_the_jobs_list_counts():
    environ = {key: value for key, value in SLURM.items() if key != "SLURM_STEP_NODELIST"}

    assert find_cluster(environ | {"SLURM_JOB_NODELIST": "node[2,10],gpu1"}) == find_cluster(SLURM)


@pytest.mark.parametrize(
    "change", [{"SLURM_NTASKS": "1"}, {"SLURM_STEP_NUM_TASKS": "1"}, {"SLURM_NTASKS": ""}, {"SLURM_PROCID": None}]
)
def test_a_step_of_one_task_and_a_shell_are_one_worker(change):
    environ = {key: value for key, value in (SLURM | change).items() if value is not None}

    assert find_cluster(environ) == Cluster()


def test_the_port_can_be_given():
    ports = [split_address(address)[1] for address in find_cluster(SLURM | {"MOBILEARC_PORT": "23456"}).addresses]

    assert ports == [23456, 23457, 23456, 23457, 23456]


def test_jobs_and_steps_of_near_numbers_share_no_port_and_none_that_connections_take():
    def ports(job, step):
        environ = SLURM | {"SLURM_JOB_ID": str(job), "SLURM_STEP_ID": str(step)}
        return {split_address(address)[1] for address in find_cluster(environ).addresses}

    used = [ports(job, step) for job in range(99_990, 100_090) for step in range(5)]

    assert len(set().union(*used)) == sum(map(len, used))
    assert all(1024 < port < 32_768 for some in used for port in some)


@pytest.mark.parametrize(
    "change, said",
    [
        ({"SLURM_NTASKS": "six"}, "SLURM_NTASKS"),
        ({"SLURM_PROCID": "5"}, "0 to 4. Received: 5"),
        ({"SLURM_PROCID": "-1"}, "'-1'"),
        (
            {"SLURM_NTASKS": "4"},
            "4 tasks. Received: 3 entries in the list of hosts, 3 in the list of tasks, 5 tasks in total",
        ),
        ({"SLURM_TASKS_PER_NODE": "5"}, "3 entries in the list of hosts, 1 in the list of tasks, 5 tasks in total"),
        ({"SLURM_TASKS_PER_NODE": "2(x2,1"}, "'2(x2,1'"),
        ({"SLURM_STEP_NODELIST": "node[1-"}, "'node[1-'"),
        ({"MOBILEARC_PORT": "http"}, "'http'"),
        ({"MOBILEARC_PORT": "0"}, "first of 2 ports per node. Received: 0"),
        ({"MOBILEARC_PORT": "65535"}, "65535"),
        ({"SLURM_JOB_ID": "x"}, "SLURM_JOB_ID"),
    ],
)
def test_wrong_slurm_variables_are_one_line(change, said):
    assert said in refusal(SLURM | change)


@pytest.mark.parametrize(
    "change, said",
    [
        ({"SLURM_STEP_NODELIST": ""}, "SLURM_STEP_NODELIST to find each other. It is not set"),
        ({"SLURM_TASKS_PER_NODE": ""}, "SLURM_STEP_TASKS_PER_NODE to find each other. It is not set"),
        ({"SLURM_NODEID": "0", "SLURM_LOCALID": "1"}, "would have SLURM_NODEID=1, but it has 0"),  # as srun -m cyclic
        ({"SLURM_NODEID": "1", "SLURM_LOCALID": "0"}, "would have SLURM_LOCALID=1, but it has 0"),
    ],
)
def test_tasks_that_cannot_be_placed_are_one_line(change, said):
    with pytest.raises(FaceError, match=said):
        find_cluster(SLURM | change)


def test_tasks_where_slurm_says_they_are_are_accepted():
    assert find_cluster(SLURM | {"SLURM_NODEID": "1", "SLURM_LOCALID": "1"}) == find_cluster(SLURM)


def test_a_batch_script_that_forgot_srun_is_told_so():
    """Its own variables say task 0 of 5 (ENVIRONMENT=BATCH, SLURM_PROCID=0), and nobody starts the others."""
    batch = SLURM | {"ENVIRONMENT": "BATCH", "SLURM_JOB_NODELIST": SLURM["SLURM_STEP_NODELIST"], "SLURM_PROCID": "0"}
    inside_srun = dict(batch)
    del batch["SLURM_STEP_NODELIST"]

    with pytest.raises(FaceError, match=r"srun python train\.py"):
        find_cluster(batch)
    assert find_cluster(inside_srun).count == 5


# ------------------------------------------------------------------------------------------------------- host lists


@pytest.mark.parametrize(
    "text, hosts",
    [
        ("node[01-03,7],gpu1", "node01 node02 node03 node7 gpu1"),
        ("n[8-11]", "n8 n9 n10 n11"),
        ("n[08-11]", "n08 n09 n10 n11"),
        ("n[098-101]", "n098 n099 n100 n101"),
        ("login", "login"),
        ("a,b,a2", "a b a2"),
        ("r[1-2]n[3-4]-ib", "r1n3-ib r1n4-ib r2n3-ib r2n4-ib"),
        ("n[5,3]", "n5 n3"),
        ("gpu-1.example.org", "gpu-1.example.org"),
    ],
)
def test_host_lists_by_hand(text, hosts):
    assert expand_hosts(text) == hosts.split()


def fold(hosts):
    """An independent writer: [(prefix, digits or "", suffix)] -> a host list, neighbours in brackets as Slurm folds."""
    parts = []
    for (prefix, suffix, is_numbered), run in itertools.groupby(hosts, lambda h: (h[0], h[2], h[1] != "")):
        run = [digits for _, digits, _ in run]
        if not is_numbered:
            parts += [prefix + suffix] * len(run)
            continue
        spans = []
        for digits in run:
            follows = spans and int(digits) == int(spans[-1][1]) + 1
            # one range: the same width, or grown by a digit without leading zeros, as 9-10
            keeps = follows and (len(digits) == len(spans[-1][0]) or digits == str(int(spans[-1][1]) + 1))
            if keeps and len(digits) >= len(spans[-1][0]):
                spans[-1][1] = digits
            else:
                spans.append([digits, digits])
        inside = ",".join(low if low == high else f"{low}-{high}" for low, high in spans)
        parts.append(f"{prefix}[{inside}]{suffix}")
    return ",".join(parts)


names = st.text("abz-_.", min_size=1, max_size=4)
runs = st.builds(
    lambda prefix, suffix, start, length, width: [(prefix, str(start + i).zfill(width), suffix) for i in range(length)],
    names, st.sampled_from(["", "-ib", ".org"]), st.integers(0, 1200), st.integers(1, 15), st.integers(1, 5),
)  # fmt: skip
plain = st.builds(lambda name: [(name, "", "")], names)


@given(st.lists(runs | plain, min_size=1, max_size=6))
def test_expanding_undoes_folding(groups):
    hosts = list(itertools.chain(*groups))

    assert expand_hosts(fold(hosts)) == ["".join(host) for host in hosts]


@given(st.text("ab1[],- ", max_size=12))
def test_any_text_is_hosts_or_one_line(text):
    try:
        hosts = expand_hosts(text)
    except FaceError as error:
        assert "\n" not in str(error)
        return
    assert hosts and all(host and not set(host) & set("[], ") for host in hosts)


@pytest.mark.parametrize(
    "text",
    ["", ",", "a,", "a,,b", "n[", "n]", "n[]", "n[1", "n[1-]", "n[-1]", "n[3-1]", "n[1-2-3]", "n[[1]]", "n[a]", "a b",
     "n[1,]", "n[0-999999999999]", "n[1-999][1-999][1-999]"],
)  # fmt: skip
def test_a_wrong_host_list_is_refused(text):
    with pytest.raises(FaceError, match="Slurm must list hosts in the form"):
        expand_hosts(text)


def test_counts_of_tasks():
    assert expand_counts("2(x2),1") == [2, 2, 1]
    assert expand_counts("8") == [8]


@pytest.mark.parametrize("text", ["", "2,", "x2", "2(x)", "2x2", "-1", "1(x999999999)", "1(x99999),1(x99999)"])
def test_wrong_counts_are_refused(text):
    with pytest.raises(FaceError, match="tasks of the nodes"):
        expand_counts(text)
