"""A study that is killed all over, beside the same study left alone: nothing lost, nothing twice, the same numbers.

The real command line with four workers, an MLflow server and Optuna's journal. At random moments, each some epochs
after the last, SIGKILL meets a worker, the driver (half of the times the journal and an epoch log are left with a torn
line, as a power failure leaves them) or the server, which stays away for seconds; once the disk is filled to the last
byte, where mounting a small one is permitted. The driver is started again as a person would.

`ratio` is the share of trials that are complete, there once (ledger, Optuna, MLflow with all curves) and equal to the
undisturbed ones, scores and weights, bit for bit; the goal is all of them. Points come from the random sampler: they
depend on the trial's number alone. TPE learns from the trials that ended before, so that with it another order of ends
gives other points, rightly.

    python -m benchmarks.chaos [--kills 30] [--trials 32] [--json]
"""

import os
import random
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from benchmarks._hurt_study import epochs_of, problems, results, said, start, tiny, weights, workers
from benchmarks._report import arguments, publish
from benchmarks._servers import Mlflow, kill_group
from harness.config.load import Study
from harness.store.home import Home

KINDS = ("worker", "worker", "worker", "driver", "server")
PATIENCE = 300.0
"""seconds until a study that makes no progress counts as stuck"""


class Chaos:
    """A study under attack: its driver and its server, and what has been done to them."""

    def __init__(self, home: Home, study: Study, jobs: int, server: Mlflow, seed: int) -> None:
        self.home, self.study, self.jobs, self.server = home, study, jobs, server
        self.trials = study.spec.search.trials
        self.draw = random.Random(seed)
        self.done: Counter[str] = Counter()
        self.retrainable = 0
        self.hit: dict[int, int] = {}
        """epochs that a trial had when its worker was killed last"""
        self.driver = self.launch()

    def launch(self) -> "subprocess.Popen[str]":
        return start(self.home, self.study, self.jobs, MLFLOW_TRACKING_URI=self.server.address)

    def epochs(self) -> int:
        return sum(epochs_of(self.home, number) for number in range(self.trials))

    def wait_for_epochs(self, more: int) -> bool:
        """False where the study came to its end before that."""
        goal, end = self.epochs() + more, time.monotonic() + PATIENCE
        while self.epochs() < goal:
            if self.driver.poll() is not None:
                return False
            if time.monotonic() > end:
                raise SystemExit(f"no progress in {PATIENCE:.0f} s:\n{said(self.home)[-3000:]}")
            time.sleep(0.02)
        time.sleep(self.draw.random() * 0.3)
        return self.driver.poll() is None

    def hurt(self, kind: str) -> None:
        {"worker": self.kill_worker, "driver": self.kill_driver, "server": self.kill_server}[kind]()

    def kill_worker(self) -> None:
        """One that has finished an epoch of its trial: killed three times before that, a trial is given up, rightly."""
        alive = {pid: trial for pid in workers(self.driver.pid) if (trial := trial_of(pid)) is not None}
        ripe = [pid for pid, trial in sorted(alive.items()) if epochs_of(self.home, trial) > self.hit.get(trial, 0)]
        if ripe:
            pid = self.draw.choice(ripe)
            self.hit[alive[pid]] = epochs_of(self.home, alive[pid])
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                self.done["worker"] += 1
                self.retrainable += 1

    def kill_driver(self) -> None:
        self.driver.send_signal(signal.SIGKILL)
        self.driver.wait()
        self.done["driver"] += 1
        self.retrainable += self.jobs
        if self.done["driver"] % 2:
            self.tear_lines()
        self.driver = self.launch()

    def tear_lines(self) -> None:
        logs = sorted((self.home.work("tiny") / "trials").glob("*.jsonl"), key=lambda path: path.stat().st_mtime)
        for path in [self.home.optuna_journal, *logs[-1:]]:
            line = path.read_bytes().splitlines()[-1]
            with open(path, "ab") as file:
                file.write(line[: len(line) // 2])
        self.done["torn line"] += 1

    def kill_server(self) -> None:
        self.server.kill()
        self.done["server"] += 1
        time.sleep(self.draw.uniform(1, 6))
        self.server.start(wait=False)

    def fill_disk(self, disk: Path) -> None:
        """Until the study notices and stops; then there is room again."""
        with open(disk / "filler", "wb", buffering=0) as file:
            for size in (2**20, 2**12, 1):
                with suppress(OSError):
                    while True:
                        file.write(bytes(size))
        code = self.driver.wait(timeout=PATIENCE)
        self.done["full disk"] += 1
        self.retrainable += 2 * self.jobs
        if code != 1 or "no room is left to write" not in said(self.home):
            raise SystemExit(f"on a full disk it ended with {code}:\n{said(self.home)[-3000:]}")
        (disk / "filler").unlink()
        self.driver = self.launch()


def trial_of(pid: int) -> int | None:
    """The trial whose lock a worker holds."""
    with suppress(OSError):
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            name = os.path.basename(os.readlink(entry))
            if name.startswith("trial-") and name.endswith(".lock"):
                return int(name[6:-5])
    return None


@contextmanager
def small_disk(place: Path, size: str = "512m") -> Iterator[bool]:
    """A file system of its own at `place`, where that is permitted. Says whether it is."""
    place.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(place)], capture_output=True)
    try:
        yield made.returncode == 0
    finally:
        if made.returncode == 0:
            subprocess.run(["umount", "-l", str(place)], check=True)


def undisturbed(folder: Path, study: Study, jobs: int) -> Home:
    home = Home(folder / "home")
    folder.mkdir(exist_ok=True)
    process = start(home, study, jobs)
    if process.wait() != 0:
        raise SystemExit(f"the undisturbed study failed:\n{said(home)[-3000:]}")
    return home


def run(
    folder: Path, study: Study, jobs: int, kills: int, seed: int, say: Callable[[str], None]
) -> tuple[Home, Chaos, list[str]]:
    """Hurt a study until it has suffered that many kills, let it come to its end. Returns also what was found wrong."""
    (folder / "server").mkdir(parents=True)
    database = folder / "server" / "server.db"
    server = Mlflow(f"sqlite:///{database}", folder / "server" / "unused", folder / "server" / "log")
    with small_disk(folder / "disk") as small:
        chaos = Chaos(Home(folder / "disk" / "home"), study, jobs, server, seed)
        try:
            killed = 0
            while killed < kills and chaos.wait_for_epochs(chaos.draw.randint(2, 2 * jobs)):
                before = dict(chaos.done)
                if small and killed == kills // 2 and not chaos.done["full disk"]:
                    chaos.fill_disk(folder / "disk")
                else:
                    chaos.hurt(chaos.draw.choice(KINDS) if killed > 2 else KINDS[2 + killed])  # each kind at least once
                killed = sum(chaos.done[kind] for kind in set(KINDS))
                say(f"{killed} kills, {chaos.epochs()} epochs: {dict(chaos.done - Counter(before))}")
            code = chaos.driver.wait(timeout=10 * PATIENCE)
            end = time.monotonic() + PATIENCE
            while not server.answers() and time.monotonic() < end:
                time.sleep(0.5)
            again = chaos.launch().wait(timeout=PATIENCE)  # sends what the server missed at the very end, if anything
            found = [f"exit codes {code} and {again}: {said(chaos.home)[-2000:]}"] if code or again else []
            found += problems(chaos.home, study.spec.search.trials, server.address, chaos.retrainable)
            home = Home(folder / "kept")
            subprocess.run(["cp", "-r", str(chaos.home.root), str(home.root)], check=True)
        finally:
            for process in (chaos.driver, server.process):
                kill_group(process, signal.SIGKILL)
    return home, chaos, found


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--trials", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--jobs", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    study = tiny(search__trials=options.trials, train__epochs=options.epochs)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        calm = undisturbed(folder / "calm", study, options.jobs)
        began = time.perf_counter()
        quiet = options.json
        home, chaos, found = run(
            folder / "hurt", study, options.jobs, options.kills, options.seed, (lambda line: None) if quiet else print
        )
        seconds = time.perf_counter() - began
        killed = sum(chaos.done[kind] for kind in set(KINDS))
        if killed < options.kills:
            found.append(f"only {killed} of {options.kills} kills: the study ended before. Give it more --trials.")
        a, b = results(calm), results(home)
        x, y = weights(calm), weights(home)
        equal = [one == other for one, other in zip(a, b, strict=False)]
        equal = [same and all(x[key] == y.get(key) for key in x if key[0] == n) for n, same in enumerate(equal)]
    publish(
        "chaos",
        0.0 if found else sum(equal) / max(len(a), len(b)),
        1.0,
        options,
        kills=killed,
        suffered=dict(chaos.done),
        trials=options.trials,
        workers=options.jobs,
        equal_to_undisturbed=sum(equal),
        problems=found,
        epochs_trained_again_at_most=chaos.retrainable,
        seconds=round(seconds, 1),
        seed=options.seed,
    )


if __name__ == "__main__":
    main()
