"""A real Slurm on this machine for the tests: munged, slurmctld and two nodes, as the current user, in one folder.

    with slurm_cluster.start(folder) as cluster:
        cluster.run("srun", "-N2", "hostname")

Everything (keys, sockets, state, logs) lies in `folder`; nothing of the system's own Slurm is read or written, and
all ports are bound to the loopback address. The two "nodes" are two slurmd on one host, told apart by name and port;
config_overrides lets each claim more CPUs than the machine has, so that 2 nodes x 2 tasks fit two cores.
Written for Slurm 22.05 and later, built with multiple-slurmd support (Debian's slurm-wlm is).
"""

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import psutil

from tests.support.timing import scaled, wait_for

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scancel", "sinfo")
PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin:/usr/local/sbin"  # daemons live in sbin, off a user's PATH

CONFIG = """\
ClusterName=geofm
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ctld_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=10
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdPidFile={folder}/%n.pid
SlurmdLogFile={folder}/%n.log
SlurmdSpoolDir={folder}/spool-%n
SlurmdParameters=config_overrides
# Plain process tracking: no cgroups, no binding, no accounting, so that it runs in a container and without systemd.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=2,sched_interval=2,batch_sched_delay=0
ReturnToService=2
KillWait=20
MinJobAge=3600
NodeName=node1 NodeHostname={host} NodeAddr=127.0.0.1 Port={node1_port} CPUs={cpus} State=UNKNOWN
NodeName=node2 NodeHostname={host} NodeAddr=127.0.0.1 Port={node2_port} CPUs={cpus} State=UNKNOWN
PartitionName=batch Nodes=ALL Default=YES MaxTime=60 State=UP
"""


def missing():
    """Names of the programs that this machine lacks; empty when a cluster can be started."""
    return [program for program in PROGRAMS if shutil.which(program, path=PATH) is None]


class Cluster:
    """A running cluster: `env` for commands that should see it, `run` to run one, `wait` for a job's end."""

    def __init__(self, folder, env):
        self.folder, self.env = folder, env

    def run(self, *command, timeout=60, check=True, env=(), **kwargs):
        """subprocess.run in this cluster's environment, output as text. `env` adds variables."""
        done = subprocess.run(
            command,
            env={**self.env, **dict(env)},
            timeout=scaled(timeout),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            **kwargs,
        )
        if check and done.returncode:
            raise AssertionError(f"{' '.join(map(str, command))} ended with {done.returncode}:\n{done.stdout}")
        return done

    def submit(self, *arguments, **kwargs):
        """sbatch with these arguments; the job's number as a string."""
        return self.run("sbatch", "--parsable", *map(str, arguments), **kwargs).stdout.strip().splitlines()[-1]

    def job(self, number):
        """The fields of `scontrol show job` as a dict of strings (JobState, ExitCode, Restarts, ...)."""
        words = self.run("scontrol", "show", "job", number).stdout.split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def wait(self, number, seconds, states=("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")):
        """Wait until the job is in one of `states` and return its fields; AssertionError after `seconds`."""
        wait_for(lambda: self.job(number)["JobState"] in states, seconds, f"job {number} did not end", self.logs)
        return self.job(number)

    def logs(self):
        """The daemons' last lines, for the message of a test that failed."""
        parts = [
            f"--- {log.name}\n" + "\n".join(log.read_text(errors="replace").splitlines()[-15:])
            for log in sorted(Path(self.folder).glob("*.log"))
        ]
        return "\n".join(parts)


@contextlib.contextmanager
def start(folder, cpus=4, seconds=60):
    """Start the cluster in `folder` (made; short, as a socket's path must fit 108 bytes) and stop it at the end."""
    folder = Path(folder).resolve()
    (folder / "state").mkdir(parents=True)
    folder.chmod(0o755)  # munged refuses a socket that others could not reach
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o600)
    ctld_port, node1_port, node2_port = free_ports(3)
    (folder / "slurm.conf").write_text(
        CONFIG.format(
            folder=folder,
            host=socket.gethostname().split(".")[0],
            user=getpass.getuser(),
            cpus=cpus,
            ctld_port=ctld_port,
            node1_port=node1_port,
            node2_port=node2_port,
        )
    )
    # A Slurm around the tests, if any, must not be seen in here.
    env = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "SBATCH"))}
    env |= {"PATH": PATH, "SLURM_CONF": str(folder / "slurm.conf")}
    cluster = Cluster(folder, env)
    daemons = []

    def daemon(*command):
        with open(folder / f"daemon-{len(daemons)}-{command[0]}.log", "wb") as log:
            daemons.append(
                subprocess.Popen(
                    command,
                    env=env,
                    cwd=folder,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            )

    try:
        daemon(
            "munged",
            "--foreground",
            "--force",
            f"--key-file={key}",
            f"--socket={folder}/munge.socket",
            f"--pid-file={folder}/munged.pid",
            f"--log-file={folder}/munged.log",
            f"--seed-file={folder}/munged.seed",
        )
        wait_for(lambda: (folder / "munge.socket").exists(), 15, "munged made no socket", cluster.logs)
        daemon("slurmctld", "-D", "-c")
        daemon("slurmd", "-D", "-c", "-N", "node1")
        daemon("slurmd", "-D", "-c", "-N", "node2")
        wait_for(
            lambda: cluster.run("sinfo", "-h", "-t", "idle", "-o", "%D", check=False).stdout.strip() == "2",
            seconds,
            "the two nodes did not become idle",
            cluster.logs,
        )
        yield cluster
    finally:
        stop(cluster, daemons)


def stop(cluster, daemons):
    """Cancel the jobs, let their steps end, end the daemons in reverse order, then whatever is still there."""
    with contextlib.suppress(Exception):
        cluster.run("scancel", "--full", "--signal=KILL", f"--user={getpass.getuser()}", check=False, timeout=20)
        end = time.monotonic() + scaled(20)
        while cluster.run("squeue", "--noheader", timeout=20).stdout.strip() and time.monotonic() < end:
            time.sleep(0.2)
    for process in reversed(daemons):
        process.terminate()
    for process in reversed(daemons):
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for process in left_behind(cluster):
        with contextlib.suppress(psutil.Error):
            process.kill()
            process.wait(5)


def left_behind(cluster):
    """Processes of this cluster but the caller: those with its SLURM_CONF, and step daemons with its files open.

    A step daemon writes its title over its environment, so it is known only by its log.
    """
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            ours = process.environ().get("SLURM_CONF") == cluster.env["SLURM_CONF"]
            if process.name().startswith("slurm"):
                ours |= any(each.path.startswith(f"{cluster.folder}/") for each in process.open_files())
            if ours and process.pid != os.getpid():
                found.append(process)
    return found


def free_ports(count):
    """`count` different TCP ports that are free on the loopback address now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
