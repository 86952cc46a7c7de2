"""A Slurm of its own: munged, slurmctld and a slurmd on each of some hosts of network_hosts.py. Debian's packages
slurmctld, slurmd, slurm-client and munge; nothing outside the folder is written.

Processes are found without cgroups (proctrack/linuxproc), and the GPUs are device files that nobody opens.
"""

import os
import secrets
import signal
import subprocess
import time

CPUS, GPUS = 8, ("/dev/null", "/dev/zero", "/dev/full", "/dev/random")  # of each node, as far as Slurm knows
CONFIG = """
ClusterName=mobilearc
SlurmctldHost={control}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
SchedulerParameters=sched_interval=1,batch_sched_delay=0
KillWait=30
GresTypes=gpu
{nodes}
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


class SlurmCluster:
    """A Slurm whose nodes are these hosts. The first one also runs slurmctld, and the commands.

    Args:
        hosts: `NetworkHosts`.
        names: of the hosts that are nodes.
        folder: for its files.
    """

    def __init__(self, hosts, names, folder):
        self.hosts, self.names, self.folder, self._daemons = hosts, names, folder, []
        folder.mkdir(mode=0o755)
        self._write_files()
        self.environ = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
        try:
            self._start()
        except BaseException:
            self.close()
            raise

    def _write_files(self):
        nodes = (
            f"NodeName={name} CPUs={CPUS} RealMemory=8000 Gres=gpu:{len(GPUS)} State=UNKNOWN" for name in self.names
        )
        config = CONFIG.format(control=self.names[0], folder=self.folder, nodes="\n".join(nodes))
        (self.folder / "slurm.conf").write_text(config)
        (self.folder / "gres.conf").write_text("".join(f"Name=gpu File={file}\n" for file in GPUS))
        (self.folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\nCgroupAutomount=no\n")
        for name in ("state", *(f"spool-{name}" for name in self.names)):
            (self.folder / name).mkdir()
        key = self.folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(128))

    def _start(self):
        files = (f"--{kind}-file={self.folder}/munge.{kind}" for kind in ("key", "log", "pid", "seed"))
        munged = ["munged", "--foreground", "--force", f"--socket={self.folder}/munge.socket", *files]
        self._daemons.append(subprocess.Popen(munged, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        self._wait((self.folder / "munge.socket").exists, 20)
        self._start_on(self.names[0], "slurmctld", "-D")
        for name in self.names:
            self._start_on(name, "slurmd", "-D")
        self._wait(lambda: self.run("sinfo", "-h", "-N", "-o", "%T").split() == ["idle"] * len(self.names), 60)

    def _start_on(self, name, *command):
        named = ["unshare", "--uts", "sh", "-c", 'hostname "$0"; exec "$@"', name, *command]
        with open(self.folder / f"{command[0]}-{name}.out", "wb") as log:
            self._daemons.append(self.hosts.start(name, named, env=self.environ, stdout=log, stderr=log))

    def _wait(self, condition, seconds):
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, self.logs()
            time.sleep(0.2)

    def run(self, *command, cwd=None):
        """The output of a Slurm command on the first node, errors included."""
        process = self.hosts.start(
            self.names[0], command, env=self.environ, cwd=cwd or self.folder, text=True, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )  # fmt: skip
        return process.communicate(timeout=60)[0]

    def state(self, job):
        """Such as RUNNING, COMPLETED, FAILED."""
        found = [word for word in self.run("scontrol", "show", "job", job).split() if word.startswith("JobState=")]
        return found[0].removeprefix("JobState=") if found else "UNKNOWN"

    def logs(self):
        return "\n".join(f"--- {path.name}\n{path.read_text()[-3000:]}" for path in self.folder.glob("slurm*.*") if
                         path.suffix in (".log", ".out"))  # fmt: skip

    def close(self):
        """Ends all jobs and the daemons."""
        if len(self._daemons) > 1:
            self.run("scancel", "--user=root", "--signal=KILL")
            time.sleep(1)
        for daemon in reversed(self._daemons):
            daemon.send_signal(signal.SIGTERM)
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
