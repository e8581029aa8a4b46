"""Register a bundle in MLflow: under which name, with which code. harness.track.models does it."""

import re
from pathlib import Path

from harness.ensemble.bundle import Bundle
from harness.errors import RequestError
from harness.home import Home
from harness.track.models import Registered, register_bundle

CODE = Path(__file__).with_name("mlflow_model.py")
NEEDED = ("torch", "torchvision", "timm", "numpy", "scikit-learn", "xgboost")
"""packages whose versions a model names: this program itself is not in the public index"""


def model_name(bundle: Bundle) -> str:
    """harness-STUDY-METHOD"""
    return f"harness-{bundle.study}-{bundle.method}"


def register(home: Home, bundle: Bundle, name: str | None = None) -> Registered:
    """The next version of `name`, or of harness-STUDY-METHOD. Raises StoreAway where MLflow does not answer,
    RequestError for what is no name."""
    if name is not None and not re.fullmatch(r"[\w.-]+", name):
        raise RequestError(f"--name {name!r} is no name for a model: use letters, digits, and . _ - only.")
    versions = bundle.about["versions"]
    requirements = [f"{package}=={versions[package].partition('+')[0]}" for package in NEEDED]
    tags = {f"harness.{key}": str(bundle.about[key]) for key in ("study", "method", "commit", "data_hash")}
    return register_bundle(home, bundle.study, name or model_name(bundle), bundle.path, CODE, requirements, tags)
