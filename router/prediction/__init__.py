"""Prediction: from the text of a request to its success, spread and output tokens on every model.

Names are loaded when first used: importing the package loads neither torch nor pandas.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOME = {
    "Calibrated": "calibrated",
    "Calibration": "calibration",
    "ESTIMATORS": "estimators",
    "Encoder": "encoder",
    "Estimator": "estimator",
    "Features": "features",
    "FittedEstimator": "estimator",
    "HeadEstimator": "head_training",
    "KnnEstimator": "knn",
    "Prediction": "prediction",
    "Predictor": "predictor",
    "add_models": "training",
    "estimator": "estimators",
    "prompt_text": "chat",
    "recalibrate": "training",
    "train_predictor": "training",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
