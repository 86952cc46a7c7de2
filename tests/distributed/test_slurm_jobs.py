"""The batch script of docs/scaling.md in a real Slurm of two nodes, which are network namespaces of this machine.

python -m pytest -m slow -s tests/distributed/test_slurm_jobs.py    prints the rows of docs/scaling.md
"""

import re
import sys
import time
from pathlib import Path

import pytest

from tests.helpers.network_hosts import network_hosts
from tests.helpers.slurm_cluster import SlurmCluster
from tests.helpers.toy_data import logged_steps, write_data

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "tests" / "helpers" / "tiny_train.py"  # train.py with a small net
REQUEUE = '[ $? = 143 ] && scontrol requeue "$SLURM_JOB_ID"'
RECIPE = """
name = "tiny"
[model]
embedding_size = 32
[data]
batch_size = 12
[[stage]]
epochs = {epochs}
scale = 16.0
margin = 0.2
"""

pytestmark = [pytest.mark.slow, pytest.mark.needs_tool("ip", "slurmctld", "slurmd", "srun", "munged")]


@pytest.fixture(scope="module")
def hosts():
    yield from network_hosts(2)


@pytest.fixture(scope="module")
def slurm(hosts, tmp_path_factory):
    cluster = SlurmCluster(hosts, hosts.names, tmp_path_factory.mktemp("slurm") / "files")
    yield cluster
    cluster.close()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A data directory of 600 images: 50 steps an epoch."""
    return write_data(tmp_path_factory.mktemp("toy"), 20, 30)


class Job:
    """The batch script of the page, submitted, with the sizes and paths of this machine."""

    def __init__(self, slurm, folder, data, nodes, tasks, *, epochs, last_line="", **changes):
        self.slurm, self.folder, self.run = slurm, folder, folder / "run"
        (folder / "tiny.toml").write_text(RECIPE.format(epochs=epochs))
        page = (ROOT / "docs" / "scaling.md").read_text()
        text = re.search(r"## Slurm\n.*?```bash\n(.*?)```", page, re.S)[1]
        changes = {
            "--nodes=4": f"--nodes={nodes}",
            "--ntasks-per-node=8": f"--ntasks-per-node={tasks}",
            "--cpus-per-task=8": "--cpus-per-task=1",
            "python train.py recipes/ms1m_mobilefacenet.toml": f"{sys.executable} {TINY} {folder / 'tiny.toml'}",
            "--data /shared/ms1m": f"--data {data} --log-every 5 --checkpoint-every 20",
            "--out /shared/runs/ms1m": f"--out {self.run}",
            **changes,
        }
        for old, new in changes.items():
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        (folder / "job.sh").write_text(text + last_line + "\n")
        self.number = slurm.run("sbatch", "--parsable", "--open-mode=append", "job.sh", cwd=folder).strip()
        assert self.number.isdigit(), self.number
        self.began = time.monotonic()

    @property
    def output(self):
        path = self.folder / f"slurm-{self.number}.out"
        return path.read_text() if path.exists() else ""

    def steps(self):
        return logged_steps(self.run)

    def wait(self, condition, seconds=500):
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"{self.slurm.state(self.number)}\n{self.output}\n{self.slurm.logs()}"
            time.sleep(0.2)

    def wait_for_state(self, *states):
        self.wait(lambda: self.slurm.state(self.number) in states)

    def exit_code(self):
        return re.search(r" ExitCode=(\S+)", self.slurm.run("scontrol", "show", "job", self.number))[1]

    def resumed(self):
        """The steps at which the training was resumed."""
        return [int(step) for step in re.findall(r"resuming at epoch \d+, step (\d+)", self.output)]


@pytest.mark.parametrize("nodes, tasks", [(2, 1), (1, 2)])
def test_the_tasks_of_a_job_train_together_to_the_end(slurm, data, tmp_path, nodes, tasks):
    job = Job(slurm, tmp_path, data, nodes, tasks, epochs=1)

    job.wait_for_state("COMPLETED", "FAILED")

    print(f"\n| {nodes} nodes, {tasks} tasks each | COMPLETED after {time.monotonic() - job.began:.0f} s |")
    assert slurm.state(job.number) == "COMPLETED" and job.exit_code() == "0:0", job.output
    assert "; 2 workers" in job.output and "MOBILEARC_TOKEN is not set" not in job.output
    assert (job.run / "embedder.h5").exists() and job.steps() == list(range(5, 51, 5))


def test_scancel_with_term_writes_a_checkpoint_and_requeue_resumes(slurm, data, tmp_path):
    job = Job(slurm, tmp_path, data, 2, 1, epochs=200)
    job.wait(lambda: max(job.steps(), default=0) >= 30)

    began = time.monotonic()
    slurm.run("scancel", "--signal=TERM", job.number)
    job.wait_for_state("FAILED", "COMPLETED", "CANCELLED")
    print(f"\n| scancel --signal=TERM | {slurm.state(job.number)} after {time.monotonic() - began:.0f} s |")
    assert (slurm.state(job.number), job.exit_code()) == ("FAILED", "143:0"), job.output
    stopped = int(re.search(r"stopped by SIGTERM at epoch 1, step (\d+); wrote", job.output)[1])
    assert stopped >= 30 and "Traceback" not in job.output

    began = time.monotonic()
    slurm.run("scontrol", "requeue", job.number)
    job.wait(lambda: max(job.steps()) >= stopped + 20)
    print(f"| scontrol requeue of the stopped job | 20 steps more after {time.monotonic() - began:.0f} s |")
    assert job.resumed() == [stopped]

    began = time.monotonic()
    slurm.run("scontrol", "requeue", job.number)  # while it runs, as when a node is taken away
    job.wait(lambda: len(job.resumed()) == 2)
    reached = max(job.steps())
    job.wait(lambda: max(job.steps()) >= reached + 10)
    print(f"| scontrol requeue of the running job | trains again after {time.monotonic() - began:.0f} s |")
    slurm.run("scancel", job.number)
    job.wait_for_state("CANCELLED")
    assert job.steps() == list(range(5, max(job.steps()) + 1, 5))


def test_at_the_time_limit_the_job_queues_itself_again_and_resumes(slurm, data, tmp_path):
    job = Job(
        slurm, tmp_path, data, 2, 1, epochs=200, last_line=REQUEUE,
        **{"--signal=TERM@300": "--signal=TERM@60", "--time=12:00:00": "--time=4"},
    )  # fmt: skip
    assert REQUEUE in (ROOT / "docs" / "scaling.md").read_text()

    job.wait(lambda: "stopped by SIGTERM" in job.output)
    print(f"\n| time limit 4 min, TERM@60 | stopped after {time.monotonic() - job.began:.0f} s |")
    job.wait(lambda: bool(job.resumed()))
    reached = max(job.steps())
    job.wait(lambda: max(job.steps()) >= reached + 10)
    print(f"| queued itself again | trains again after {time.monotonic() - job.began:.0f} s |")
    slurm.run("scancel", job.number)
    job.wait_for_state("CANCELLED")
    assert job.steps() == list(range(5, max(job.steps()) + 1, 5))
