"""A real SLURM cluster of two nodes on this machine, for tests; needs root and Debian's packages of SLURM.

As a program it installs them (`python slurm_cluster.py install`), or runs a command on a cluster of its own
(`python slurm_cluster.py run srun -N 2 hostname`).
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.waiting import wait_until

PACKAGES = ("slurm-wlm", "slurmd", "slurmctld", "slurm-client", "munge")
NODES = ("n1", "n2")
_CONFIG = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
AuthType=auth/munge
CryptoType=crypto/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
SlurmctldPort={port}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmdSpoolDir={folder}/spool.%n
SlurmdLogFile={folder}/slurmd.%n.log
SlurmctldLogFile={folder}/slurmctld.log
StateSaveLocation={folder}/state
SlurmUser=root
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
KillWait=30
MinJobAge=3600
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={port_1} CPUs=2 RealMemory=4000 State=UNKNOWN
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={port_2} CPUs=2 RealMemory=4000 State=UNKNOWN
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=60 State=UP OverSubscribe=FORCE:4
"""


def obstacle() -> str | None:
    """The reason why no cluster can be started here; None if one can."""
    if os.geteuid() != 0:
        return "starting SLURM's daemons needs root"
    missing = [name for name in ("slurmctld", "slurmd", "munged", "srun") if _program(name) is None]
    return f"{', '.join(missing)} not installed (Debian: {' '.join(PACKAGES)})" if missing else None


def _program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [int(sock.getsockname()[1]) for sock in sockets]


@contextlib.contextmanager
def slurm_cluster() -> Iterator[dict[str, str]]:
    """Start the cluster; gives the environment variables with which its commands find it."""
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    (folder / "state").mkdir()
    ports = _free_ports(3)
    config = folder / "slurm.conf"
    host = socket.gethostname().partition(".")[0]
    config.write_text(_CONFIG.format(host=host, folder=folder, port=ports[0], port_1=ports[1], port_2=ports[2]))
    variables = {"SLURM_CONF": str(config)}
    environment = {**os.environ, **variables}
    munged = _start_munged()
    try:
        for command in (["slurmctld"], *(["slurmd", "-N", node] for node in NODES)):
            program = _program(command[0])
            assert program is not None
            subprocess.run([program, *command[1:]], env=environment, check=True, timeout=60)
        _wait_for_nodes(environment, folder)
        yield variables
    finally:
        for pid_file in folder.glob("*.pid"):
            with contextlib.suppress(ProcessLookupError, ValueError):
                os.kill(int(pid_file.read_text()), signal.SIGTERM)
        if munged is not None:
            munged.terminate()
            munged.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _start_munged() -> "subprocess.Popen[bytes] | None":
    """Start the daemon that authenticates messages, unless one runs."""
    if Path("/run/munge/munge.socket.2").is_socket():
        with contextlib.suppress(subprocess.SubprocessError):
            subprocess.run(["munge", "-n"], check=True, capture_output=True, timeout=10)
            return None
    subprocess.run(["install", "-d", "-o", "munge", "-g", "munge", "-m", "755", "/run/munge"], check=True)
    daemon = subprocess.Popen(
        ["runuser", "-u", "munge", "--", _program("munged") or "munged", "--foreground", "--force"]
    )
    wait_until(Path("/run/munge/munge.socket.2").is_socket, 20, "the socket of munged", job=daemon)
    return daemon


def _wait_for_nodes(environment: dict[str, str], folder: Path) -> None:
    states = list[str]()

    def idle() -> bool:
        shown = subprocess.run(
            ["sinfo", "-h", "-o", "%D %t"], env=environment, capture_output=True, text=True, timeout=60
        )
        states.append(shown.stdout + shown.stderr)
        return shown.stdout.split() == ["2", "idle"]

    try:
        wait_until(idle, 60, "two idle nodes", every_s=0.3)
    except AssertionError as error:
        log = folder / "slurmctld.log"
        error.add_note(states[-1] + (log.read_text() if log.exists() else ""))
        raise


def install() -> None:
    """Install SLURM with Debian's package manager, where that is possible."""
    if obstacle() is None or os.geteuid() != 0 or shutil.which("apt-get") is None:
        return
    for command in (
        ["apt-get", "update", "-qq"],
        ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *PACKAGES],
    ):
        subprocess.run(command, timeout=600, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"})


def run(command: Sequence[str]) -> int:
    """Run a command on a new cluster, which ends with it; returns the exit status."""
    if (reason := obstacle()) is not None:
        raise SystemExit(reason)
    with slurm_cluster() as variables:
        return subprocess.run(command, env={**os.environ, **variables}).returncode


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["install"]:
            install()
        case ["run", *command] if command:
            sys.exit(run(command))
        case _:
            sys.exit(__doc__)
