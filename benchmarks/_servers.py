"""Real servers on this machine, for benchmarks and tests: PostgreSQL, MLflow's server, a Ray cluster of several nodes.

Each has its own folder and ports that the operating system chose, and nothing of it outlives its `with` block. A server
is a process group of its own, so that killing one is what a power cut is to a machine.
"""

import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

BIN = Path(sys.executable).parent
DATABASES = ("optuna", "mlflow")
START_SECONDS = 120.0
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "RAY_USAGE_STATS_ENABLED": "0",
    "PYTHONWARNINGS": "ignore",
}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(done: Callable[[], bool], what: str, seconds: float = START_SECONDS, every: float = 0.1) -> None:
    """Raises TimeoutError that says what did not come."""
    end = time.monotonic() + seconds
    while not done():
        if time.monotonic() > end:
            raise TimeoutError(f"{what} did not come within {seconds:.0f} s")
        time.sleep(every)


def postgres_programs() -> Path | None:
    """The folder of PostgreSQL's server programs: Debian's newest, else the PATH's; None where there is none."""
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    found = str(debian[-1]) if debian else shutil.which("initdb")
    return Path(found).parent if found else None


class Postgres:
    """A PostgreSQL server with the role `harness` and a database for Optuna and one for MLflow."""

    def __init__(self, folder: Path) -> None:
        programs = postgres_programs()
        if programs is None:
            raise FileNotFoundError("PostgreSQL is not installed. On Debian and Ubuntu: apt-get install postgresql")
        self.programs, self.folder, self.port = programs, folder, free_port()
        # initdb refuses root; Debian's package made this user
        self.user = "postgres" if os.getuid() == 0 else None
        if self.user:
            owner = pwd.getpwnam(self.user)
            os.chown(folder, owner.pw_uid, owner.pw_gid)
        self._run("initdb", "-D", str(folder / "data"), "-U", "harness", "--auth=trust", "--no-sync")
        self.start()
        for name in DATABASES:
            self._run("createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", "harness", name)

    def url(self, database: str) -> str:
        return f"postgresql+psycopg://harness@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        settings = f"-c port={self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self.folder}"
        log = str(self.folder / "log")
        self._run("pg_ctl", "start", "-w", "-D", str(self.folder / "data"), "-l", log, "-o", settings)

    def stop(self) -> None:
        """At once, as a power cut would: connections break, and the next start recovers from the write-ahead log."""
        self._run("pg_ctl", "stop", "-w", "-m", "immediate", "-D", str(self.folder / "data"))

    def bytes(self, database: str) -> int:
        return int(self.query(database, f"SELECT pg_database_size('{database}')"))

    def query(self, database: str, sql: str) -> str:
        where = ("-h", "127.0.0.1", "-p", str(self.port), "-U", "harness", "-d", database)
        return self._run("psql", *where, "-At", "-c", sql).strip()

    def _run(self, program: str, *arguments: str) -> str:
        command = [str(self.programs / program), *arguments]
        # pg_ctl hands its streams to the server that it starts: a pipe would never end
        with tempfile.TemporaryFile("w+") as said:
            done = subprocess.run(command, user=self.user, cwd="/", stdin=subprocess.DEVNULL, stdout=said, stderr=said)
            said.seek(0)
            text = said.read()
        if done.returncode != 0:
            raise RuntimeError(f"{program} ended with code {done.returncode}: {text}")
        return text


@contextmanager
def postgres() -> Iterator[Postgres]:
    folder = Path(tempfile.mkdtemp(prefix="harness-postgres-"))
    try:
        server = Postgres(folder)
        try:
            yield server
        finally:
            if (folder / "data" / "postmaster.pid").exists():
                server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Mlflow:
    """`mlflow server` over a database, with run artifacts on a file system that it shares with the workers.

    The port stays the same over restarts.
    """

    def __init__(self, store: str, artifacts: Path, log: Path) -> None:
        self.store, self.artifacts, self.log, self.port = store, artifacts, log, free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self, wait: bool = True) -> None:
        self.process = spawn(
            [
                *(str(BIN / "mlflow"), "server", "--backend-store-uri", self.store),
                *("--default-artifact-root", str(self.artifacts), "--no-serve-artifacts"),
                *("--host", "127.0.0.1", "--port", str(self.port), "--workers", "2"),
            ],
            self.log,
            MLFLOW_TRACKING_URI="",  # or the server would ask itself
        )
        if wait:
            wait_until(self.answers, f"mlflow server ({self.log})")

    def answers(self) -> bool:
        return answers(f"{self.address}/health")

    def stop(self) -> None:
        kill_group(self.process)

    def kill(self) -> None:
        """kill -9 of the server and its worker processes."""
        kill_group(self.process, signal.SIGKILL)

    def signal(self, number: signal.Signals) -> None:
        os.killpg(self.process.pid, number)

    def artifact_names(self, run_id: str, folder: str = "") -> set[str]:
        """What the server itself says lies in a run's folder."""
        url = f"{self.address}/api/2.0/mlflow/artifacts/list?run_id={run_id}&path={folder}"
        with urllib.request.urlopen(url, timeout=60) as answer:
            return {Path(file["path"]).name for file in json.load(answer).get("files", [])}


@contextmanager
def mlflow_server(store: str, artifacts: Path, log: Path) -> Iterator[Mlflow]:
    server = Mlflow(store, artifacts, log)
    try:
        yield server
    finally:
        server.stop()


class RayCluster:
    """A head node without places for trials, and nodes with them; each node a process group with its own raylet."""

    def __init__(self, folder: Path) -> None:
        # Ray's sockets lie below its folder, and the kernel allows 107 characters in all
        self.folder = folder
        self.nodes: dict[str, subprocess.Popen[bytes]] = {}
        self._start(
            "head", 0, "--head", "--include-dashboard", "false", "--port", str(free_port()), "--temp-dir", str(folder)
        )
        said, place = folder / "head.log", folder / "ray_current_cluster"
        wait_until(lambda: "Ray runtime started" in said.read_text() and place.exists(), f"Ray's head node ({said})")
        self.address = place.read_text().strip()

    def _start(self, name: str, cpus: int, *where: str, **more: str) -> None:
        command = [
            *(str(BIN / "ray"), "start", "--block", "--disable-usage-stats"),
            *("--num-cpus", str(cpus), "--num-gpus", "0", "--object-store-memory", str(80 * 2**20)),
            *("--include-log-monitor", "false", "--resources", json.dumps({name: 1000}), *where),
        ]
        self.nodes[name] = spawn(command, self.folder / f"{name}.log", RAY_TMPDIR=str(self.folder), **more)

    def add(self, name: str, cpus: int, **more: str) -> None:
        """A node that joins now; `more`: of its environment. Waits until it runs: of two that start at the same time
        below one folder, one may take the other's place and neither knows."""
        self._start(name, cpus, "--address", self.address, **more)
        said = self.folder / f"{name}.log"
        wait_until(lambda: "Ray runtime started" in said.read_text(), f"Ray's node {name} ({said})")

    def wait_for(self, nodes: int) -> None:
        """Until so many are there, the head among them. Asked by Ray's own program: this process may join later."""

        code = f"import ray; ray.init({self.address!r}); print(sum(node['Alive'] for node in ray.nodes()))"

        def there() -> bool:
            asked = subprocess.run(
                [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **QUIET}
            )
            return asked.stdout.strip() == str(nodes)

        try:
            wait_until(there, f"a Ray cluster of {nodes} nodes")
        except TimeoutError as error:
            ends = [(self.folder / f"{name}.log").read_text()[-1500:] for name in self.nodes]
            raise TimeoutError("\n".join([str(error), *ends])) from None

    def kill(self, name: str) -> None:
        """kill -9 of the node's raylet, its workers and whatever else it runs."""
        process = self.nodes.pop(name)
        for number in session(process.pid):  # Ray gives each worker a process group of its own
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        process.wait()


@contextmanager
def ray_cluster(nodes: dict[str, int]) -> Iterator[RayCluster]:
    """`nodes`: CPUs by name."""
    folder = Path(tempfile.mkdtemp(prefix="hray-", dir="/tmp"))
    cluster = RayCluster(folder)
    try:
        for name, cpus in nodes.items():
            cluster.add(name, cpus)
        cluster.wait_for(1 + len(nodes))
        yield cluster
    finally:
        for name in list(cluster.nodes):
            cluster.kill(name)
        shutil.rmtree(folder, ignore_errors=True)


def spawn(command: list[str], log: Path, **more: str) -> "subprocess.Popen[bytes]":
    """A program in a process group of its own, deaf to this terminal, silent towards the network's strangers."""
    with open(log, "ab") as said:
        return subprocess.Popen(
            command,
            env={**os.environ, **QUIET, **more},
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            start_new_session=True,
        )


def session(leader: int) -> list[int]:
    """The processes of a session, its leader first."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # ended meanwhile
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            found += [int(folder.name)] if int(fields[3]) == leader else []
    return sorted(found, key=lambda number: number != leader)


def kill_group(process: "subprocess.Popen[bytes]", how: signal.Signals = signal.SIGTERM) -> None:
    """End a program and its children; what does not obey within ten seconds is killed."""
    try:
        os.killpg(process.pid, how)
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    except ProcessLookupError:
        pass


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except OSError:
        return False
