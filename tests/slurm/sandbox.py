"""A real SLURM on this machine, for as long as the tests run.

munged, slurmctld and one slurmd per pretended node, as ordinary processes of the caller with all their files in one
folder: no systemd, no cgroups, no GPUs, no database. Nodes pretend to have many CPUs, much memory and GPUs, so that job
files pass unchanged; nothing is enforced. Written for the packages of Debian 12 (SLURM 22.05).
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

# AuthInfo: cred_expire is the delay before a requeued job starts again (120 s by default, 5 at least).
# TaskProlog: pretended GPUs are hidden from jobs, which otherwise refuse to run, since torch can't use these GPUs.
# cons_tres, config_overrides: pretended CPUs and memory are handed out as if they were there.
# SchedulerParameters: look at the queue at every change, and every second.
# MinJobAge: finished jobs stay visible to scontrol.
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
    """SLURM is not there and can't be installed."""


def install() -> None:
    """Install what is missing with apt-get, without starting the packages' daemons; NotInstallableError if it fails."""
    with (Path(tempfile.gettempdir()) / "fungi-slurm-install.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # apt-get does not wait for itself
        missing = [name for name in PROGRAMS if shutil.which(name, path=SEARCH_PATH) is None]
        if not missing:
            return
        if shutil.which("apt-get") is None or os.getuid() != 0:
            raise NotInstallableError(f"{', '.join(missing)} not found; installing them needs apt-get and root")
        _apt_get()


def _apt_get() -> None:
    policy = Path("/usr/sbin/policy-rc.d")  # its refusal keeps the packages' own daemons from starting
    ours = not policy.exists()
    if ours:
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        for command in (("update",), ("install", "-y", "--no-install-recommends", *PACKAGES)):
            call = ["apt-get", "-q", "-o", "DPkg::Lock::Timeout=120", *command]
            done = subprocess.run(call, env=environment, capture_output=True, text=True, timeout=300, check=False)
            if done.returncode:
                last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
                raise NotInstallableError(f"apt-get {command[0]} failed: {''.join(last)}")
    except subprocess.TimeoutExpired:
        raise NotInstallableError("apt-get did not finish in 5 minutes") from None
    finally:
        if ours:
            policy.unlink()


class Sandbox:
    """A cluster of a few pretended nodes. Use as a context manager; inside it `environment` is what sbatch needs."""

    def __init__(self, nodes: int = 2) -> None:
        self._nodes = [f"n{index + 1}" for index in range(nodes)]
        self._daemons: list[subprocess.Popen[bytes]] = []
        self._cleaner: subprocess.Popen[bytes]
        self.folder = Path()
        self.environment: dict[str, str] = {}

    def __enter__(self) -> "Sandbox":
        # Unix sockets live in it, and their paths can't be long: not below pytest's own folders.
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
        for daemon in reversed(self._daemons):  # the nodes, the controller, munged last
            daemon.terminate()
        for daemon in reversed(self._daemons):
            try:
                daemon.wait(5)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        self._cleaner.communicate()

    def _configure(self) -> None:
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
        # Without this slurmd looks for cgroups when it starts, and gives up in most containers.
        (self.folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        kept = {name: text for name, text in os.environ.items() if not name.startswith(("SLURM", "SBATCH", "SQUEUE"))}
        self.environment = {**kept, "PATH": SEARCH_PATH, "SLURM_CONF": f"{self.folder}/slurm.conf"}

    def _start(self) -> None:
        at = self.folder
        self.run("mungekey", "-c", "-k", at / "munge.key")
        # --force: munged dislikes sockets below folders that only their owner may enter
        self._launch(
            *("munged", "-F", "--force", f"--socket={at}/munge.socket", f"--key-file={at}/munge.key"),
            *(f"--log-file={at}/log/munged.log", f"--pid-file={at}/munge.pid", f"--seed-file={at}/munge.seed"),
        )
        self._wait_for(lambda: (at / "munge.socket").exists(), "munged")
        self._launch("slurmctld", "-D", "-c", "-f", at / "slurm.conf")
        for node in self._nodes:
            (at / f"spool-{node}").mkdir()
            self._launch("slurmd", "-D", "-N", node, "-f", at / "slurm.conf")
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
        clean = {name: self.environment[name] for name in ("PATH", "SLURM_CONF")}
        log = (self.folder / "log" / "daemons.log").open("ab")
        self._daemons.append(subprocess.Popen(words, env=clean, stdin=subprocess.DEVNULL, stdout=log, stderr=log))
        log.close()

    def _wait_for(self, ready: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + 60
        while not ready():
            dead = [daemon.args for daemon in self._daemons if daemon.poll() is not None]
            if dead or time.monotonic() > end:
                logs = "\n".join(path.read_text()[-2000:] for path in sorted((self.folder / "log").iterdir()))
                raise RuntimeError(f"{what} did not come up (ended: {dead}):\n{logs}")
            time.sleep(0.05)

    def run(self, *command: object, cwd: Path | None = None) -> str:
        """Output of a client command; CalledProcessError if it fails."""
        words = [str(word) for word in command]
        words[0] = shutil.which(words[0], path=SEARCH_PATH) or words[0]
        return subprocess.run(
            words, env=self.environment, cwd=cwd, capture_output=True, text=True, check=True, timeout=60
        ).stdout


def _free_ports(count: int) -> int:
    """The first of `count` free ports in a row, below those that the system gives to clients."""
    for _ in range(100):
        first = SystemRandom().randrange(10000, 30000)
        if all(_is_free(first + index) for index in range(count)):
            return first
    raise RuntimeError("no free ports")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def _kill_all_with(variable: str) -> int:
    """End every process that carries this cluster's configuration in its environment; how many there were."""
    found = 0
    for entry in Path("/proc").glob("[0-9]*/environ"):
        try:
            if variable.encode() in entry.read_bytes().split(b"\0"):
                os.kill(int(entry.parent.name), signal.SIGKILL)
                found += 1
        except OSError:
            continue
    return found


if __name__ == "__main__":
    # The cleaner of a sandbox: its input ends when the tests end, however they do.
    sys.stdin.read()
    while _kill_all_with(f"SLURM_CONF={sys.argv[1]}/slurm.conf"):  # what is being started meanwhile, too
        time.sleep(0.1)
    shutil.rmtree(sys.argv[1], ignore_errors=True)
