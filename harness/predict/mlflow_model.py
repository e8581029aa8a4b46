"""What MLflow runs to serve a bundle: it executes this file and takes the model handed to set_model.

A copy of this file lies beside the bundle in every registered model (harness.track.mlflow_registry); this program has
to be installed where it is served.
"""

import os
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from harness.ensemble.bundle import load_bundle
from harness.errors import HarnessError, RequestError
from harness.hardware import parse_devices
from harness.predict.serving import Answerer
from harness.track.mlflow_registry import BUNDLE, IMAGE


class BundleModel(PythonModel):
    def load_context(self, context: PythonModelContext) -> None:
        """HARNESS_DEVICE says where it runs: auto (also where it is not set), cpu, cuda."""
        device = parse_devices(os.environ.get("HARNESS_DEVICE", "auto"))[0]
        self._answerer = Answerer(load_bundle(Path(context.artifacts[BUNDLE])), device)

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> list[dict[str, Any]]:
        try:
            return self._answerer.answer(list(model_input[IMAGE]), **(params or {}))
        except RequestError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from error
        except HarnessError as error:
            raise MlflowException(str(error)) from error


set_model(BundleModel())
