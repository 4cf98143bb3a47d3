"""A real backbone that is quick: what Spark's tests extract with."""

from __future__ import annotations

from pipelines.extract_config import BackboneConfig

NAME = "resnet18:size=96"
FEATURES = 512
UNTRAINED = BackboneConfig(name=NAME, weights="random")
