"""Ingest of DICOM archives: headers tell whose images they are, what they show, and which labels are theirs."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest
from dicom_files import PIXELS, chest_dataset, chest_dicom, dicom_bytes
from PIL import Image
from pydicom.uid import CTImageStorage

from pipelines.errors import LakeError, SourceError
from pipelines.ingest import IngestConfig, ingest
from pipelines.job import JobRecord
from pipelines.lake import Lake
from pipelines.pseudonyms import KEY_VARIABLE

pytestmark = pytest.mark.usefixtures("spark")


def unlike(number: int) -> np.ndarray:
    """Pixels of no other number: each file must have bytes of its own."""
    pixels = PIXELS.copy()
    pixels[0, 0] = number
    return pixels


def written(folder: Path, *datasets: object) -> None:
    for number, dataset in enumerate(datasets):
        content = dataset if isinstance(dataset, bytes) else dicom_bytes(dataset)  # type: ignore[arg-type]
        (folder / "DOE_JANE").mkdir(parents=True, exist_ok=True)
        (folder / "DOE_JANE" / f"IM{number:04d}").write_bytes(content)


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(KEY_VARIABLE, "k" * 64)
    return tmp_path / "archive"


def run(archive: Path, **settings: object) -> JobRecord:
    values = {"source": "dicom", "archive": str(archive), "lake": str(archive.parent / "lake")} | settings
    return ingest(IngestConfig.model_validate(values))


def tables(archive: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    lake = Lake.at(str(archive.parent / "lake"))
    studies = lake.studies.to_arrow([name for name in lake.studies.schema.names if name != "crop"]).to_pandas()
    return studies, lake.quarantine.to_arrow(lake.quarantine.schema.names).to_pandas()


def test_each_file_is_a_study_or_has_its_reason(archive: Path) -> None:
    written(
        archive,
        chest_dataset(unlike(0)),
        chest_dataset(unlike(1), ViewPosition="LL"),
        chest_dataset(unlike(2), BodyPartExamined="KNEE"),
        chest_dataset(unlike(3), Modality="CT", SOPClassUID=CTImageStorage),
        chest_dataset(unlike(4), BurnedInAnnotation="YES"),
        chest_dataset(unlike(5), Modality="OT", BodyPartExamined=""),
        chest_dataset(unlike(6), NumberOfFrames=2),
        b"no DICOM at all",
        b"",
        chest_dicom(unlike(7))[:400],
    )
    Image.fromarray(PIXELS).save(archive / "picture.png")
    (archive / "DICOMDIR").write_bytes(b"ignored")
    record = run(archive)
    studies, quarantine = tables(archive)
    assert len(studies) == 1
    assert dict(quarantine["reason"].value_counts()) == {
        "not_frontal": 1,
        "not_chest": 3,
        "burned_in_annotation": 1,
        "unsupported_dicom": 1,
        "not_dicom": 2,
        "empty_file": 1,
        "no_pixel_data": 1,
    }
    assert record.counts["inputs"] == 11
    assert all(re.fullmatch(r"[0-9a-f]{32}(\.png)?", uri) for uri in [*studies["uri"], *quarantine["uri"]])


def test_the_config_says_what_is_taken(archive: Path) -> None:
    written(
        archive,
        chest_dataset(unlike(1), ViewPosition="LL"),
        chest_dataset(unlike(2), BodyPartExamined="KNEE"),
        chest_dataset(unlike(4), BurnedInAnnotation="YES"),
        chest_dataset(unlike(5), Modality="OT", BodyPartExamined=""),
    )
    assert run(archive).counts["studies"] == 0
    # What the policy lets in now is read without being asked for again.
    run(archive, policy={"not_frontal": "ingest"})
    studies, quarantine = tables(archive)
    assert list(studies["view"]) == ["LATERAL"]
    assert len(quarantine) == 3
    run(archive, policy={"not_frontal": "ingest", "not_chest": "ingest", "burned_in_annotation": "ingest"})
    studies, quarantine = tables(archive)
    assert len(studies) == 4
    assert quarantine.empty


def test_what_the_header_tells(archive: Path) -> None:
    written(
        archive,
        chest_dataset(unlike(0), PatientSex="F", PatientAge="093Y", ImagerPixelSpacing=[0.143, 0.143]),
        chest_dataset(unlike(1), StudyInstanceUID="1.2.3.9", ViewPosition="AP"),
        chest_dataset(unlike(2), PatientID="", StudyInstanceUID="1.2.3.10"),
    )
    record = run(archive)
    studies, _ = tables(archive)
    by_view = studies.sort_values(["view", "bits"]).reset_index(drop=True)
    first = studies[studies["sex"] == "F"].iloc[0]
    assert first["age_years"] == 90
    assert first["view"] == "PA"
    assert first["pixel_spacing"] == pytest.approx([0.143, 0.143])
    assert studies["patient_key"].nunique() == 2
    assert studies["study_key"].nunique() == 3
    assert set(by_view["view"]) == {"AP", "PA"}
    assert "1 studies; each stands for a patient of its own" in str(record)


@pytest.mark.parametrize("key", ["SOPInstanceUID", "StudyInstanceUID", "AccessionNumber"])
def test_labels_join_by_any_of_the_keys_and_missing_images_are_counted(archive: Path, key: str) -> None:
    written(archive, chest_dataset(unlike(0), **{key: "1.77"}), chest_dataset(unlike(1), **{key: "1.78"}))
    (archive / "labels.csv").write_text(f"{key},Mass,Edema\n1.77,1,-1\n1.99,0,1\n")
    record = run(archive)
    studies, _ = tables(archive)
    assert sorted(str(dict(findings)) for findings in studies["findings"]) == ["{'Mass': 1, 'Edema': -1}", "{}"]
    assert "1 of 2 label rows have no image in the archive: row 3" in str(record)
    assert record.counts["without label row"] == 1
    # The image of the first row is known from before: its row is not missing.
    assert "1 of 2 label rows" in str(run(archive))
    with pytest.raises(SourceError, match="strict=true"):
        run(archive, strict=True)
    written(archive, *(chest_dataset(unlike(n), **{key: uid}) for n, uid in enumerate(("1.77", "1.78", "1.99"))))
    assert "have no image" not in str(run(archive, strict=True))


def test_labels_that_come_later_find_the_images_that_are_known(archive: Path) -> None:
    written(archive, chest_dataset(unlike(0), AccessionNumber="77"))
    run(archive)
    (archive / "labels.csv").write_text("AccessionNumber,Mass\n77,1\n78,0\n")
    assert "1 of 2 label rows have no image in the archive: row 3" in str(run(archive))


def test_one_patient_is_in_one_split_whatever_the_chunks(archive: Path) -> None:
    written(archive, *(chest_dataset(unlike(n), StudyInstanceUID=f"1.2.3.{n}") for n in range(6)))
    run(archive, chunk_images=2)
    studies, _ = tables(archive)
    assert len(studies) == 6
    assert studies["split"].nunique() == 1
    with pytest.raises(LakeError, match="another split"):
        written(archive, *(chest_dataset(unlike(n), StudyInstanceUID=f"1.2.3.{n}") for n in range(7)))
        other = {"train": {"test_fraction": 0.999, "val_fraction": 0.0}, "test": {"test_fraction": 0.0}}
        run(archive, **other.get(studies["split"][0], {"test_fraction": 0.999, "val_fraction": 0.0}))


def test_a_lake_inside_the_archive_is_no_part_of_it(archive: Path) -> None:
    written(archive, chest_dataset(unlike(0)))
    for _ in range(2):
        assert run(archive, lake=str(archive / "lake")).counts["inputs"] == 1


def test_a_file_name_that_is_no_text_is_an_input_like_the_others(archive: Path) -> None:
    written(archive, chest_dataset(unlike(0)))
    (archive / os.fsdecode(b"IM\xff\xfe")).write_bytes(chest_dicom(unlike(1)))
    assert run(archive).counts["studies"] == 2
    assert run(archive).counts["known"] == 2


def test_images_that_take_too_long_or_too_much_are_told_and_the_others_go_on(archive: Path) -> None:
    written(archive, chest_dataset(unlike(0)), chest_dataset(unlike(1)))
    run(archive, limits={"max_seconds": 0.0001})
    _, quarantine = tables(archive)
    assert list(quarantine["reason"]) == ["too_slow"] * 2
    assert run(archive, retry=True).counts["studies"] == 2


@pytest.mark.real
def test_real_files_are_studies_or_no_chests(real_data: Path, archive: Path) -> None:
    archive.mkdir()
    run(real_data / "dicom", lake=str(archive.parent / "lake"))
    studies, quarantine = tables(archive)
    assert len(studies) == 3
    assert list(quarantine["reason"]) == ["not_chest"] * 5
    assert studies["patient_key"].nunique() == 2


def test_every_file_of_pydicoms_own_tests_ends_as_a_study_or_with_a_reason(archive: Path) -> None:
    folder = Path(pydicom.__file__).parent / "data"
    record = run(
        folder, lake=str(archive.parent / "lake"), policy={"not_chest": "ingest", "burned_in_annotation": "ingest"}
    )
    studies, quarantine = tables(archive)
    assert len(studies) + len(quarantine) == record.counts["inputs"] > 100
    assert len(studies) > 20
    assert not {"processing_failed", "decoder_crashed", "too_slow"} & set(quarantine["reason"])
