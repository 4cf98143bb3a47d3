"""Settings that make every kind of head quick enough for a test."""

from __future__ import annotations

from typing import Any

DIM = 32
EXTRACTOR = "e" * 64
QUICK: dict[str, dict[str, Any]] = {
    "majority": {},
    "logistic": {},
    "mlp": {"hidden": (16,), "learning_rate": 1e-2, "batch_size": 32, "max_epochs": 20},
    "xgboost": {"n_estimators": 15, "n_jobs": 1, "colsample_bytree": 0.5},
}
