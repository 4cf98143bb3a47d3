"""petastorm where it is not: one message that tells how to have it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from crop_lake import MASS, write_crop_lake

from pipelines.crop_rows import find_crops
from pipelines.errors import ConfigError
from pipelines.petastorm_reader import PetastormReader


def test_without_petastorm_the_extra_and_its_versions_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "petastorm", None)
    lake = write_crop_lake(tmp_path / "lake", 10)
    told = r"extra 'petastorm'.* 0\.13\.1.* pyarrow up to 14\.0\.2, numpy below 2.* Or take reader=parquet"
    with pytest.raises(ConfigError, match=told):
        PetastormReader(lake.studies.folder, find_crops(lake, MASS), 8)
