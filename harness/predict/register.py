"""Register a bundle in MLflow: under which name, with which code. harness.track.mlflow_registry does it."""

import re
from pathlib import Path

from harness.ensemble.about import About, read_about
from harness.errors import RequestError
from harness.store.home import Home
from harness.track.mlflow_registry import Registered, register_bundle

CODE = Path(__file__).with_name("mlflow_model.py")
NEEDED = ("torch", "torchvision", "timm", "numpy", "scikit-learn", "xgboost")
"""packages whose versions a model names: this program itself is not in the public index"""


def model_name(about: About) -> str:
    """harness-STUDY-METHOD"""
    return f"harness-{about.study}-{about.method}"


def register(home: Home, bundle: Path, name: str | None = None) -> Registered:
    """The next version of `name`, or of harness-STUDY-METHOD. Raises StoreAway where MLflow does not answer,
    RequestError for what is no name or no bundle. Checks no hash: whoever serves it does."""
    if name is not None and not re.fullmatch(r"[\w.-]+", name):
        raise RequestError(f"--name {name!r} is no name for a model: use letters, digits, and . _ - only.")
    plain, about = read_about(bundle)
    requirements = [f"{package}=={about.versions[package].partition('+')[0]}" for package in NEEDED]
    tags = {f"harness.{key}": str(plain[key]) for key in ("study", "method", "commit", "data_hash")}
    return register_bundle(home, about.study, name or model_name(about), bundle, CODE, requirements, tags)
