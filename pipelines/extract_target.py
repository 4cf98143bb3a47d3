"""Where an extraction's rows go: an extractor's features, and its quarantine of what has no vector."""

from __future__ import annotations

from pyspark.sql import DataFrame, SparkSession

from pipelines.crop_pass import CropTarget, Tally
from pipelines.lake import Lake
from pipelines.tables import ORIGINAL


class FeaturesTarget(CropTarget):
    """The features of one extractor.

    Args:
        lake: that holds them.
        extractor: fingerprint.
        tally: as of CropTarget.
    """

    def __init__(self, lake: Lake, extractor: str, tally: Tally) -> None:
        super().__init__(lake.features(extractor), lake.unembedded(extractor), tally)

    def tried(self, spark: SparkSession) -> DataFrame:
        """image_id and variant of whatever has a vector, or a reason for none."""
        tables = (self.table, self.quarantine)
        features, quarantine = (table.read(spark).select("image_id", "variant") for table in tables)
        return features.unionAll(quarantine)

    def done(self, spark: SparkSession) -> DataFrame:
        """See Target; copies are counted by themselves."""
        return self.tried(spark).where(f"variant = {ORIGINAL}").select("image_id").distinct()
