"""A bundle as a version of a model in MLflow's registry, so that `mlflow models serve -m models:/NAME/1` answers.

The model is code (a small file of this program, named in its MLmodel) and the bundle's own files: nothing is pickled.
Its files are hard links to the bundle's, so a version costs a few kilobytes of disk.
"""

import logging
import os
import shutil
import tempfile
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from harness.errors import HarnessError
from harness.store.files import link_or_copy
from harness.store.home import Home
from harness.track.mlflow_store import StoreAway, open_store

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlflow import MlflowClient
    from mlflow.models import ModelSignature

IMAGE = "image"
"""the column of a request: one image file per row"""
BUNDLE = "bundle"
"""what the model's code calls the bundle's folder"""


@dataclass(frozen=True)
class Registered:
    name: str
    """in the registry"""
    version: str
    folder: Path
    """of the model's files"""
    copied: int
    """bytes that had to be copied, where no hard link could be made"""


def register_bundle(
    home: Home, study: str, name: str, bundle: Path, code: Path, requirements: list[str], tags: dict[str, str]
) -> Registered:
    """Log `bundle` as a model of the study's experiment, beside the run that built it, and register it as the next
    version of the model `name`.

    `code`: a Python file that hands MLflow a PythonModel (mlflow.models.set_model). Raises StoreAway where the store
    does not answer, HarnessError where it refuses.
    """
    client, experiment = open_store(home, study)
    try:
        run = _run_of(client, experiment, bundle.relative_to(home.root).as_posix() if _inside(bundle, home) else "")
        model = client.create_logged_model(experiment, name=bundle.name, source_run_id=run, tags=tags)
        folder = _local(model.artifact_location)
        copied = _write(folder, model.model_id, run, bundle, code, requirements)
        client.finalize_logged_model(model.model_id, "READY")
        _ensure_name(client, name)
        # by its place: MLflow looks for a source of the form models:/ID in its global store, which need not be this
        version = client.create_model_version(
            name, source=model.artifact_location, run_id=run, tags=tags, model_id=model.model_id if run else None
        )
    except HarnessError:
        raise
    except Exception as error:
        raise StoreAway(
            f"MLflow did not take {bundle.name} as a model: {str(error).splitlines()[0]}. The bundle itself is whole."
        ) from error
    return Registered(name, str(version.version), folder, copied)


def _inside(bundle: Path, home: Home) -> bool:
    return bundle.is_relative_to(home.root)


def _run_of(client: "MlflowClient", experiment: str, bundle: str) -> str | None:
    """The newest run that built this bundle."""
    found = client.search_runs(
        [experiment], f"tags.`harness.bundle` = '{bundle}'", order_by=["attributes.start_time DESC"], max_results=1
    )
    return str(found[0].info.run_id) if found else None


def _local(location: str) -> Path:
    parts = urlsplit(location)
    if parts.scheme not in ("", "file"):
        raise HarnessError(f"the experiment's artifacts lie at {location}, which is no folder of this machine.")
    return Path(unquote(parts.path))


def _ensure_name(client: "MlflowClient", name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _write(folder: Path, model_id: str, run: str | None, bundle: Path, code: Path, requirements: list[str]) -> int:
    """MLflow's own files by MLflow, then the bundle's by hard links. Returns the bytes that were copied."""
    from mlflow.models import Model
    from mlflow.pyfunc import save_model

    with tempfile.TemporaryDirectory() as temporary, _silent():
        # MLflow copies what it is given: it is given a folder with one small file of the bundle
        stand_in = Path(temporary) / BUNDLE
        stand_in.mkdir()
        shutil.copyfile(bundle / "bundle.json", stand_in / "bundle.json")
        save_model(
            folder,
            python_model=str(code),
            artifacts={BUNDLE: str(stand_in)},
            signature=_signature(),
            pip_requirements=requirements,
            mlflow_model=Model(model_id=model_id, run_id=run),
        )
    inside = folder / "artifacts" / BUNDLE
    shutil.rmtree(inside)
    copied = 0
    for file in sorted(file for file in bundle.rglob("*") if file.is_file()):
        target = inside / file.relative_to(bundle)
        link_or_copy(file, target)
        copied += 0 if os.path.samefile(file, target) else target.stat().st_size
    described = Model.load(str(folder))
    function: dict[str, Any] = described.flavors["python_function"]
    function["model_code_path"] = code.name  # not where it was on this machine
    function["artifacts"][BUNDLE]["uri"] = f"artifacts/{BUNDLE}"
    described.model_size_bytes = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    described.save(str(folder / "MLmodel"))
    return copied


def _signature() -> "ModelSignature":
    """An image file per row; what `harness predict --json` says of it."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
    from mlflow.types.schema import Map

    return ModelSignature(
        inputs=Schema([ColSpec(DataType.binary, IMAGE)]),
        outputs=Schema(
            [
                ColSpec(Map(DataType.double), "probabilities"),
                ColSpec(DataType.string, "decision"),
                ColSpec(DataType.double, "disagreement", required=False),
                ColSpec(DataType.double, "out_of_distribution", required=False),
                ColSpec(DataType.boolean, "abstain", required=False),
            ]
        ),
        params=ParamSchema(
            [
                ParamSpec("raw", DataType.boolean, False),
                ParamSpec("decide", DataType.string, ""),
                ParamSpec("tta", DataType.long, 1),
            ]
        ),
    )


@contextmanager
def _silent() -> "Iterator[None]":
    """MLflow asks for input examples (it would run every network on them), draws progress bars, and adds the uv project
    of the working directory to a model, whatever that is."""
    os.environ["MLFLOW_UV_AUTO_DETECT"] = "false"
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
