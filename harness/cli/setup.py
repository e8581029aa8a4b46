"""Commands of a home and a machine: init, doctor, ui, completion.

harness init: a first study file for a folder of images, with what was guessed and what to look at.

harness doctor: what this machine and this home have, what is wrong with them, and what to type.

harness study schema, harness completion: what editors and shells read.

harness ui: MLflow's own pages over this home, on this machine only.

MLflow runs as a program of its own; nothing of it is imported here.
"""

import json
import json as json_
import os
import re
import socket
import subprocess
import sys
import textwrap
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from harness.cli.options import Json
from harness.cli.streams import claim_stdout, print_json, show, show_command
from harness.errors import HarnessError, RequestError
from harness.store.home import Home

if TYPE_CHECKING:
    from harness.data.guess import Guess
    from harness.data.manifest import Scan
    from harness.store.records import StudyRecord

WIDTH = 118
ORDER = ("labels", "image", "pattern", "join", "label", "missing", "classes", "group", "split", "decode")
REST = """
model:
  backbone: resnet10t
  dropout: {choice: [0.0, 0.3]}

optim:
  name: adamw
  lr: {float: [1.0e-4, 1.0e-2], log: true}
  weight_decay: 0.05

train:
  epochs: 12
  batch_size: 32

augment:                 # leave out what would change the answer: is left not right here?
  hflip: {choice: [0.0, 0.5]}
  rotate: {choice: [0.0, 10.0]}
  translate: {choice: [0.0, 0.1]}
  contrast: {choice: [0.0, 0.2]}

search:
  trials: 8
  metric: auroc
  startup: 4
"""


def init(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A folder of images, or a MedMNIST .npz file.")],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="The study file; studies/NAME.yaml when left out.")
    ] = None,
    json: Json = False,
) -> None:
    """Write a first study file for a folder: its table of labels, classes, groups, file names.

    Says what it guessed and what to look at. A group is taken from a column whose name says so, and never made up.
    """
    claim_stdout()
    from harness.config.load import check_study
    from harness.errors import RequestError
    from harness.output.progress import step_progress
    from harness.store.files import write_text
    from harness.store.home import open_home

    name = _study_name(folder, out)
    path = out or Path("studies") / f"{name}.yaml"
    if path.exists():
        raise RequestError(f"{path} is there already. Name another: --out studies/{name}-2.yaml")
    if path.suffix not in (".yaml", ".yml"):
        raise RequestError(f"--out {path}: a study file ends in .yaml, such as {path.with_suffix('.yaml')}.")
    home = open_home()
    with step_progress() as progress:
        from harness.data.guess import guess
        from harness.data.manifest import scan_data

        found = guess(folder, home)
        root = _from_here(folder)
        tree = {"name": name, "data": {"root": root, **found.keys}, "search": {"trials": 1}}
        scan = None
        try:
            scan = scan_data(check_study(tree, str(path)).spec.data, home, progress)
            _fit_folds(found, scan)
        except RequestError as error:  # a draft with its fault named is more use than none
            found.check.insert(0, f"As it stands this is refused. {error}")
    text = study_text(name, root, path, found, scan)
    write_text(path, text)
    if json:
        print_json({"file": str(path), "data": {"root": root, **found.keys}, "why": found.why, "check": found.check})
        return
    show(f"{path} written: {_count(scan)}\n")
    for key in ORDER:
        if key in found.keys:
            why = f"   ({found.why[key]})" if key in found.why else ""
            show(f"  {key}: {_value(found.keys[key])}{why}")
    show("\nLook at:")
    for one in found.check:
        show(f"  - {one}")
    show(f"\nNext: harness data show {path}")


def _study_name(folder: Path, out: Path | None) -> str:
    stem = out.stem if out is not None else folder.absolute().name.removesuffix(".npz")
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", stem).strip("_.-")[:64] or "study"


def _from_here(folder: Path) -> str:
    """Relative where the folder lies inside the working directory, so that the two can move together."""
    inside = os.path.relpath(folder.expanduser())
    return str(folder.expanduser().absolute()) if inside.startswith("..") else Path(inside).as_posix()


def _fit_folds(found: "Guess", scan: "Scan") -> None:
    """Five folds, or as many as the rarest class has groups for."""
    usable = scan.manifest[scan.manifest["problem"] == ""]
    labels = usable["label"]
    several = isinstance(found.keys["label"], list)
    held_out = usable["split"].str.lower() == "test" if "split" in found.keys else labels != labels
    development = usable[~held_out]
    if several or not len(development):
        return
    fewest = int(development.groupby("label")["group"].nunique().min()) - ("split" not in found.keys)
    found.keys["folds"] = max(2, min(5, fewest))
    if found.keys["folds"] < 5:
        found.check.append(
            f"The rarest class has {fewest + ('split' not in found.keys)} groups: too few for five folds."
        )


def _count(scan: "Scan | None") -> str:
    from harness.output.format import plural

    if scan is None:
        return "a draft that is refused as it stands"
    usable = scan.manifest[scan.manifest["problem"] == ""]
    bad = len(scan.manifest) - len(usable)
    faulty = f", and {bad} that cannot be used (harness data scan lists them)" if bad else ""
    return f"{plural(len(usable), 'image')} of {plural(usable['group'].nunique(), 'group')}{faulty}"


def study_text(name: str, root: str, path: Path, found: "Guess", scan: "Scan | None") -> str:
    """The study file with what was guessed, why, and what to look at as comments."""
    lines = _comment(f"{name}: {_count(scan)} under {root}. A first draft, written by `harness init`.")
    lines += ["#", f"#   command   harness study run {path if path.parent != Path('studies') else name}", "#"]
    lines += ["# Look at:"]
    for one in found.check:
        lines += _comment(one, "#   - ", "#     ")
    lines += ["", f"name: {_value(name)}", "seed: 0", "", "data:", f"  root: {_value(root)}"]
    for key in (*ORDER[:-1], "folds", "decode"):
        if key not in found.keys:
            continue
        if key == "group" and found.keys[key] == "none":
            lines += [f"  # {'!' * 20} {found.why['group']} {'!' * 20}"]
            lines += _comment("Images of one patient in two folds make every score too good.", "  # ", "  # ")
        elif key in found.why:
            lines += _comment(found.why[key], "  # ", "  # ")
        lines.append(f"  {key}: {_value(found.keys[key])}")
    return "\n".join(lines) + "\n" + REST


def _comment(text: str, first: str = "# ", rest: str = "# ") -> list[str]:
    return textwrap.wrap(
        " ".join(text.split()), WIDTH, initial_indent=first, subsequent_indent=rest, break_long_words=False
    )


def _value(value: Any) -> str:
    """As YAML on one line; JSON is YAML, and plain words need no quotes."""
    if isinstance(value, list):
        return f"[{', '.join(_value(one) for one in value)}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {_value(one)}' for key, one in value.items())}}}"
    if isinstance(value, str):
        plain = re.fullmatch(r"[A-Za-z_/][\w./-]*( [\w./-]+)*", value)
        words = {"true", "false", "yes", "no", "on", "off", "null", "y", "n"}
        return value if plain and value.lower() not in words else json_.dumps(value, ensure_ascii=False)
    return str(value)


def doctor(json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False) -> None:
    """Versions, devices, memory, disk, stores, codecs, weights at hand; and each problem with what to type.

    Exit code 1 where something that a study needs is broken.
    """
    claim_stdout()
    from harness.doctor import examine
    from harness.errors import HarnessError

    found = examine()
    if json:
        print_json(found)
    else:
        _show(found)
    broken = sum(problem.breaks for problem in found["problems"])
    if broken:
        from harness.output.format import plural

        raise HarnessError(f"{plural(broken, 'thing')} that a study needs {'is' if broken == 1 else 'are'} broken.")


def _show(found: dict[str, Any]) -> None:
    from harness.output.format import bytes_, plural
    from harness.output.tables import table

    memory, free = found["memory_free_gib"], found["disk_free_gib"]
    lines: list[tuple[str, str]] = [("python", found["python"])]
    lines += [(name, version or "MISSING") for name, version in found["packages"].items()]
    lines += [("processor", f"{found['cores']} cores, bf16 {'yes' if found['cpu_bf16'] else 'no (fp32 is used)'}")]
    lines += [("memory free", "-" if memory is None else f"{memory:.1f} GiB")]
    lines += [("gpu", _gpu(gpu)) for gpu in found["gpus"]] or [("gpu", "none that torch can use: --device cpu")]
    lines += [("codecs", ", ".join(name for name, there in found["codecs"].items() if there) or "-")]
    weights = found["weights"]
    at_hand = f"{plural(len(weights), 'file')}, {bytes_(sum(one['bytes'] for one in weights))}"
    lines += [("weights", f"{at_hand}, in the libraries' caches" if weights else "none yet; downloaded when asked for")]
    lines += [("home", found["home"]), ("disk free", "-" if free is None else f"{free:.1f} GiB")]
    used = [f"{part} {bytes_(size)}" for part, size in found["used"].items() if size]
    lines += [("used", ", ".join(used) or "nothing yet")]
    lines += [(name, _store(found[name])) for name in ("mlflow", "optuna")]
    lines += [("studies", ", ".join(f"{name} ({state})" for name, state in found["studies"].items()) or "none yet")]
    show(table(["", ""], lines))
    for problem in found["problems"]:
        show(f"\n{'BROKEN' if problem.breaks else 'look'}: {problem.what}")
        show_command(problem.type)
    show("\nNext:" if found["problems"] else "\nNothing is wrong. Next:")
    show_command(found["next"])


def _gpu(gpu: dict[str, Any]) -> str:
    precision = "bf16" if gpu["bf16"] else "fp16"
    memory = f"{gpu['memory_free_gib']:.0f} of {gpu['memory_gib']:.0f} GiB free"
    return f"{gpu['device']} {gpu['name']}, {memory}, {precision}"


def _store(store: dict[str, Any] | None) -> str:
    return "-" if store is None else f"{store['store']}{' DOES NOT ANSWER' if store['error'] else ''}"


def schema() -> None:
    """The JSON schema of a study file: an editor that knows it completes keys and marks mistakes.

    Write it to a file and name that in the first line of a study file, as the example shows.
    """
    claim_stdout()
    from harness.config.reference import study_schema

    print_json(study_schema())


def completion(
    shell: Annotated[Literal["bash", "zsh", "fish"], typer.Argument(metavar="SHELL", help="bash, zsh or fish.")],
) -> None:
    """What a shell reads to complete commands, options, studies, bundles, backbones and keys with the tab key.

    New shells complete once it lies where they look. zsh needs fpath+=~/.zfunc in front of compinit in ~/.zshrc.
    """
    stream = claim_stdout()
    from harness.cli.options import script

    stream.write(script(shell))


HOST = "127.0.0.1"
START_SECONDS = 180.0


def ui(
    port: Annotated[int, typer.Option("--port", metavar="N", min=1, max=65535, help="Port on 127.0.0.1.")] = 5000,
) -> None:
    """Open MLflow's pages: the trials of a study as a table to sort and compare. Ctrl-C ends it."""
    claim_stdout()
    from harness.store.home import open_home
    from harness.track.mlflow_store import relocate, store_lock

    home = open_home()
    if home.mlflow_uri.startswith(("http://", "https://")):
        raise RequestError(
            "MLFLOW_TRACKING_URI names an MLflow server, which shows its pages itself: open that address. "
            "For the store in this home, unset MLFLOW_TRACKING_URI."
        )
    _require_free(port)
    address = f"http://{HOST}:{port}"
    with store_lock(home):  # the server makes the tables of a new store
        relocate(home)
        server = subprocess.Popen(_command(home, port), env=_environment(), stdin=subprocess.DEVNULL)
        try:
            _wait_until_up(server, address)
        except BaseException:
            _stop(server)
            raise
    try:
        show(f"MLflow is at {address}   (only from this machine; Ctrl-C ends it)")
        _show_pages(home, address)
        code = server.wait()
        if code != 0:
            raise HarnessError(f"MLflow's server ended with code {code}; its messages are above.")
    finally:
        _stop(server)


def _require_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise RequestError(
                f"port {port} on {HOST} cannot be used: {error.strerror}. Type: harness ui --port {_free_port()}"
            ) from error


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _command(home: Home, port: int) -> list[str]:
    return [
        *(sys.executable, "-m", "mlflow", "server"),
        *("--backend-store-uri", home.mlflow_uri),
        *("--default-artifact-root", str(home.artifacts)),
        *("--host", HOST, "--port", str(port), "--workers", "1"),
        *("--uvicorn-opts", "--log-level warning"),  # else a line for every click
    ]


def _environment() -> dict[str, str]:
    return {
        **os.environ,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_LOGGING_LEVEL": "WARNING",
        "PYTHONWARNINGS": "ignore",
    }


def _wait_until_up(server: "subprocess.Popen[bytes]", address: str) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        if server.poll() is not None:
            raise HarnessError(f"MLflow's server did not start (code {server.returncode}); its messages are above.")
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise HarnessError(f"MLflow's server did not answer within {START_SECONDS:.0f} s.")


def _show_pages(home: Home, address: str) -> None:
    """Name the pages of the newest study: its trials as an ablation table, its ensembles once there are any."""
    from harness.store.records import list_studies
    from harness.track.mlflow_store import page

    every = sorted(list_studies(home), key=lambda study: study.finished or study.started)
    studies = [study for study in every if not study.ablates]
    if not studies:
        show("No study has run here yet. Type: harness study run lr_aug_sweep")
        return
    numbers = {study.name: _give_views(address, study) for study in studies}
    newest = studies[-1].name
    number = numbers[newest]
    if number is None:
        return
    show(f"  study {newest}: {page(address, number, 'trials')}")
    if any(home.bundles(newest).glob("*/DONE")):
        show(f"  its ensembles: {page(address, number, 'ensembles')}")
        show(f"  registered models: {address}/#/models")
    if any(study.ablates == newest for study in every):
        show(f"  its ablations: {page(address, number, 'ablations')}")


def _give_views(address: str, study: "StudyRecord") -> str | None:
    """Put the views of a study on its experiment's page. Returns the experiment's id, None where there is no such."""
    from harness.config.space import find_ranges
    from harness.store.records import is_optimistic
    from harness.track.mlflow_store import study_tags

    metric, varied = study.tree["search"]["metric"], list(find_ranges(study.tree))
    query = urllib.parse.urlencode({"experiment_name": study.name})
    try:
        found = _ask(f"{address}/api/2.0/mlflow/experiments/get-by-name?{query}")
        number = str(found["experiment"]["experiment_id"])
        known = {tag["key"]: tag["value"] for tag in found["experiment"].get("tags", [])}
        for key, value in study_tags(metric, varied, is_optimistic(study.tree)).items():
            if known.get(key) != value:
                body = {"experiment_id": number, "key": key, "value": value}
                _ask(f"{address}/api/2.0/mlflow/experiments/set-experiment-tag", body)
    except (urllib.error.URLError, OSError, KeyError, ValueError):
        return None
    return number


def _ask(url: str, body: dict[str, str] | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def _stop(server: "subprocess.Popen[bytes]") -> None:
    if server.poll() is None:
        server.terminate()
        try:
            server.wait(timeout=10)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
