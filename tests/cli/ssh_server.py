"""A real OpenSSH server on loopback with keys, a port and a home folder of its own: another machine, for a test."""

import os
import shutil
import signal
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from benchmarks._servers import session

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
PASSED_ON = ("SSL_CERT_FILE", "UV_CACHE_DIR", "UV_INDEX_URL", "UV_DEFAULT_INDEX", "PIP_INDEX_URL", "PIP_CERT")


class SshServer:
    """`folder` holds its files; `home` is the home folder of whoever logs in; `ssh` is the command that does."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.home = folder, folder / "home there"
        self.home.mkdir(parents=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        for name in ("host_key", "user_key"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
        variables = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        variables.setdefault("UV_CACHE_DIR", str(Path.home() / ".cache/uv"))  # gigabytes, once for a machine
        variables |= {"HOME": str(self.home), "PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1"}
        (folder / "sshd_config").write_text(
            f"ListenAddress 127.0.0.1\nPort {self.port}\nHostKey {folder / 'host_key'}\nPidFile none\nUsePAM no\n"
            f"AuthorizedKeysFile {folder / 'user_key.pub'}\nStrictModes no\nPasswordAuthentication no\nSetEnv "
            + " ".join(f'{name}="{value}"' for name, value in variables.items())
            + "\n"
        )
        (folder / "ssh_config").write_text(
            f"Host there\n  HostName 127.0.0.1\n  Port {self.port}\n  IdentityFile {folder / 'user_key'}\n"
            f"  IdentitiesOnly yes\n  UserKnownHostsFile {folder / 'known_hosts'}\n  StrictHostKeyChecking no\n"
        )
        self.ssh = f"ssh -F {folder / 'ssh_config'}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)  # what Debian's service would have made
        log = open(self.folder / "sshd.log", "ab")  # noqa: SIM115
        command = [str(SSHD), "-D", "-e", "-f", str(self.folder / "sshd_config")]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=log, start_new_session=True)
        log.close()
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.1)
        raise TimeoutError((self.folder / "sshd.log").read_text())

    def cut(self) -> None:
        """The line is dead: the server and every connection of it are gone at once, what was started is not."""
        if self.process is None:
            return
        for number in {self.process.pid, *session(self.process.pid), *_children(self.process.pid)}:
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        self.process.wait()
        self.process = None


def _children(parent: int) -> list[int]:
    """The server's processes for each connection, and theirs: what serves a line, not what was started over it."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            name = (folder / "comm").read_text().strip()
        except OSError:
            continue
        if int(fields[1]) == parent and name.startswith("sshd"):
            found += [int(folder.name), *_children(int(folder.name))]
    return found
