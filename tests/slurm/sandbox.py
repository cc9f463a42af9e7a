"""A real SLURM on this machine while the tests run.

munged, slurmctld and one slurmd per simulated node run as ordinary processes of the user. All their files are in one
folder. There is no systemd, no cgroup, no GPU and no database. The simulated nodes claim many CPUs, much memory and
GPUs, so that job files can stay unchanged, and SLURM enforces nothing. The code is written for the packages of
Debian 12 (SLURM 22.05).
"""

import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from random import SystemRandom

PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge")
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "scontrol", "sinfo", "munged", "mungekey")
SEARCH_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin", "/sbin"])
CPUS, MEMORY_MB, GPUS = 64, 512 * 1024, 8

# AuthInfo: cred_expire is the delay before a requeued job starts again. The default is 120 s, and the minimum is 5 s.
# TaskProlog: hides simulated GPUs from jobs. A job would refuse to run because torch can't use these GPUs.
# cons_tres, config_overrides: SLURM allocates simulated CPUs and memory like real ones.
# SchedulerParameters: SLURM checks the queue after every change, and every second.
# MinJobAge: scontrol still shows finished jobs.
CONFIGURATION = """
ClusterName=fungi{port}
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd-%n.log
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
TaskProlog={folder}/hide_gpus
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0,bf_interval=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
SlurmdParameters=config_overrides
JobRequeue=1
ReturnToService=2
KillWait=5
MinJobAge=86400
MessageTimeout=30
GresTypes=gpu
DefMemPerCPU=1024
PartitionName=normal Nodes=ALL Default=YES MaxTime=UNLIMITED PriorityTier=10 State=UP
PartitionName=urgent Nodes=ALL Default=NO MaxTime=UNLIMITED PriorityTier=100 PreemptMode=OFF State=UP
"""


class NotInstallableError(RuntimeError):
    """SLURM is not installed and cannot be installed."""


def install() -> None:
    """Install missing packages with apt-get, without starting their daemons. Raises NotInstallableError if it fails."""
    with (Path(tempfile.gettempdir()) / "fungi-slurm-install.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two calls of apt-get at the same time would fail
        missing = [name for name in PROGRAMS if shutil.which(name, path=SEARCH_PATH) is None]
        if not missing:
            return
        if shutil.which("apt-get") is None or os.getuid() != 0:
            raise NotInstallableError(f"{', '.join(missing)} not found; installing them needs apt-get and root")
        _apt_get()


def _apt_get() -> None:
    """Install the packages. Raises NotInstallableError if apt-get fails or takes too long."""
    policy = Path("/usr/sbin/policy-rc.d")  # with this program, the daemons of the packages do not start
    is_new = not policy.exists()
    if is_new:
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        for command in (("update",), ("install", "-y", "--no-install-recommends", *PACKAGES)):
            call = ["apt-get", "-q", "-o", "DPkg::Lock::Timeout=120", *command]
            process = subprocess.run(call, env=environment, capture_output=True, text=True, timeout=300, check=False)
            if process.returncode:
                last_line = (process.stderr.strip() or process.stdout.strip()).splitlines()[-1:]
                raise NotInstallableError(f"apt-get {command[0]} failed: {''.join(last_line)}")
    except subprocess.TimeoutExpired:
        raise NotInstallableError("apt-get did not finish in 5 minutes") from None
    finally:
        if is_new:
            policy.unlink()


class Sandbox:
    """A cluster of a few simulated nodes, as a context manager. `environment` is the environment for its commands."""

    def __init__(self, nodes: int = 2) -> None:
        self._nodes = [f"n{index + 1}" for index in range(nodes)]
        self._daemons: list[subprocess.Popen[bytes]] = []
        self._cleaner: subprocess.Popen[bytes]
        self.folder = Path()
        self.environment: dict[str, str] = {}

    def __enter__(self) -> "Sandbox":
        # The folder contains Unix sockets, whose paths must be short. The folders of pytest have longer paths.
        self.folder = Path(tempfile.mkdtemp(prefix="slurm-"))
        self._cleaner = subprocess.Popen([sys.executable, __file__, self.folder], stdin=subprocess.PIPE)
        try:
            self._configure()
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for daemon in reversed(self._daemons):  # the nodes, then the controller, then munged
            daemon.terminate()
        for daemon in reversed(self._daemons):
            try:
                daemon.wait(5)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        self._cleaner.communicate()

    def _configure(self) -> None:
        """Write the configuration of SLURM, and choose ports and the environment of client commands."""
        for name in ("log", "state", "dev"):
            (self.folder / name).mkdir()
        port = _free_ports(len(self._nodes) + 1)
        user = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
        lines = [CONFIGURATION.format(folder=self.folder, port=port, user=user)]
        for index, node in enumerate(self._nodes, start=1):
            lines.append(
                f"NodeName={node} NodeHostname=localhost NodeAddr=127.0.0.1 Port={port + index} CPUs={CPUS} Boards=1 "
                f"SocketsPerBoard=1 CoresPerSocket={CPUS} ThreadsPerCore=1 RealMemory={MEMORY_MB} Gres=gpu:{GPUS}"
            )
        (self.folder / "slurm.conf").write_text("\n".join([*lines, ""]))
        (self.folder / "hide_gpus").write_text("#!/bin/sh\necho export CUDA_VISIBLE_DEVICES=-1\n")
        (self.folder / "hide_gpus").chmod(0o755)
        for index in range(GPUS):
            (self.folder / "dev" / f"nvidia{index}").symlink_to("/dev/null")
        files = f"{self.folder}/dev/nvidia[0-{GPUS - 1}]"
        gres = [f"NodeName={node} Name=gpu File={files}" for node in self._nodes]
        (self.folder / "gres.conf").write_text("\n".join(["AutoDetect=off", *gres, ""]))
        # Without this file, slurmd looks for cgroups when it starts, and fails in most containers.
        (self.folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        inherited = {
            name: text for name, text in os.environ.items() if not name.startswith(("SLURM", "SBATCH", "SQUEUE"))
        }
        self.environment = {**inherited, "PATH": SEARCH_PATH, "SLURM_CONF": f"{self.folder}/slurm.conf"}

    def _start(self) -> None:
        """Start all daemons, and wait until all nodes are idle."""
        folder = self.folder
        self.run("mungekey", "-c", "-k", folder / "munge.key")
        # --force: otherwise munged refuses a socket below a folder that only its owner can enter
        self._launch(
            *("munged", "-F", "--force", f"--socket={folder}/munge.socket", f"--key-file={folder}/munge.key"),
            *(f"--log-file={folder}/log/munged.log", f"--pid-file={folder}/munge.pid"),
            f"--seed-file={folder}/munge.seed",
        )
        self._wait_for(lambda: (folder / "munge.socket").exists(), "munged")
        self._launch("slurmctld", "-D", "-c", "-f", folder / "slurm.conf")
        for node in self._nodes:
            (folder / f"spool-{node}").mkdir()
            self._launch("slurmd", "-D", "-N", node, "-f", folder / "slurm.conf")
        self._wait_for(self._all_idle, "the nodes")

    def _all_idle(self) -> bool:
        try:
            states = self.run("sinfo", "-h", "-N", "-p", "normal", "-o", "%T").split()
        except subprocess.CalledProcessError:
            return False
        return states == ["idle"] * len(self._nodes)

    def _launch(self, *command: object) -> None:
        words = [str(word) for word in command]
        words[0] = shutil.which(words[0], path=SEARCH_PATH) or words[0]
        environment = {name: self.environment[name] for name in ("PATH", "SLURM_CONF")}
        log = (self.folder / "log" / "daemons.log").open("ab")
        self._daemons.append(subprocess.Popen(words, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log))
        log.close()

    def _wait_for(self, ready: Callable[[], bool], name: str) -> None:
        """Wait until a part of the cluster is ready. Raises RuntimeError if a daemon ends, or after 60 s."""
        end = time.monotonic() + 60
        while not ready():
            dead = [daemon.args for daemon in self._daemons if daemon.poll() is not None]
            if dead or time.monotonic() > end:
                logs = "\n".join(path.read_text()[-2000:] for path in sorted((self.folder / "log").iterdir()))
                raise RuntimeError(f"{name} did not start (ended: {dead}):\n{logs}")
            time.sleep(0.05)

    def run(self, *command: object, cwd: Path | None = None) -> str:
        """Return the output of a client command. Raises CalledProcessError if it fails."""
        words = [str(word) for word in command]
        words[0] = shutil.which(words[0], path=SEARCH_PATH) or words[0]
        return subprocess.run(
            words, env=self.environment, cwd=cwd, capture_output=True, text=True, check=True, timeout=60
        ).stdout


def _free_ports(count: int) -> int:
    """Return the first of `count` free ports in a row, below the ports that the system gives to clients."""
    for _ in range(100):
        first = SystemRandom().randrange(10000, 30000)
        if all(_is_free(first + index) for index in range(count)):
            return first
    raise RuntimeError("no free ports")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def _kill_processes_with(variable: str) -> int:
    """Kill every process with this variable in its environment, and return the number of processes."""
    count = 0
    for entry in Path("/proc").glob("[0-9]*/environ"):
        try:
            if variable.encode() in entry.read_bytes().split(b"\0"):
                os.kill(int(entry.parent.name), signal.SIGKILL)
                count += 1
        except OSError:
            continue
    return count


if __name__ == "__main__":
    # This process cleans up after a sandbox. Its input ends when the tests end, also if they are killed.
    sys.stdin.read()
    while _kill_processes_with(f"SLURM_CONF={sys.argv[1]}/slurm.conf"):  # again, for processes that have just started
        time.sleep(0.1)
    shutil.rmtree(sys.argv[1], ignore_errors=True)
