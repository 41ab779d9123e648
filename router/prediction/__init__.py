"""Prediction: from the text of a request to its success, spread and output tokens on every model.

Names are loaded when first used: importing the package loads neither torch nor pandas.
"""

from __future__ import annotations

from apportion.router.lazy import lazy_names

_HOME = {
    "Calibrated": "calibrated",
    "ESTIMATORS": "estimators",
    "Encoder": "encoder",
    "Estimator": "estimator",
    "Features": "features",
    "FittedEstimator": "estimator",
    "FleetPredictor": "fleet_predictor",
    "HeadEstimator": "head_training",
    "KnnEstimator": "knn",
    "Prediction": "prediction",
    "Predictor": "predictor",
    "add_models": "training",
    "estimator": "estimators",
    "load_encoder": "encoders",
    "recalibrate": "training",
    "train_predictor": "training",
}

__all__ = sorted(_HOME)

__getattr__, __dir__ = lazy_names(__name__, _HOME)
