"""What all tests share: one Spark session, a phantom archive and a lake made of it, and where real data lies."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from pyspark.sql import SparkSession
from small_backbone import UNTRAINED

from pipelines.extract import ExtractConfig, extract
from pipelines.ingest import IngestConfig, ingest
from pipelines.phantoms import PhantomsConfig, make_phantoms
from pipelines.session import TaskCores, spark_session

# How long an example takes says nothing here: machines are shared.
settings.register_profile("pleura", deadline=None)
settings.load_profile("pleura")

REAL_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
PHANTOM_STUDIES = 90


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """`real` tests skip where the real data is missing, `gpu` tests where there is no device."""
    for item in items:
        if item.get_closest_marker("real") and not REAL_DATA.is_dir():
            item.add_marker(pytest.mark.skip(reason="no real radiographs beside this clone"))
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real radiographs; only for tests marked `real`."""
    return REAL_DATA


@pytest.fixture(scope="session")
def spark() -> Iterator[SparkSession]:
    """The one Spark session of all tests; pipelines find it running and use it."""
    with spark_session("tests", "local[2]", task_cores=TaskCores.WHOLE_EXECUTOR) as session:
        session.conf.set("spark.sql.shuffle.partitions", "2")
        yield session


@pytest.fixture(scope="session")
def phantom_archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Phantoms in the layout of Kermany's set."""
    archive = tmp_path_factory.mktemp("archive") / "phantoms"
    make_phantoms(PhantomsConfig(out=str(archive), studies=PHANTOM_STUDIES, seed=7, long_side=256))
    return archive


@pytest.fixture(scope="session")
def ingested_lake(spark: SparkSession, phantom_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake with the phantoms' studies; not to be written to."""
    # A blank in the path, because users have them.
    lake = tmp_path_factory.mktemp("lakes") / "ingested lake"
    ingest(IngestConfig(source="kermany", archive=str(phantom_archive), lake=str(lake), val_fraction=0.3))
    return lake


@pytest.fixture(scope="session")
def extracted_lake(ingested_lake: Path, spark: SparkSession) -> Path:
    """The same lake with features of an untrained backbone; heads and predictions may be added."""
    extract(ExtractConfig(lake=str(ingested_lake), backbone=UNTRAINED))
    return ingested_lake
