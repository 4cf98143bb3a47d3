"""MIMIC-CXR-JPG's layout: three label files joined, and nobody's number in a message."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from featurizers.reasons import Reason
from pipelines.errors import SourceError
from pipelines.folders import Folder
from pipelines.sources.base import StudyRecord
from pipelines.sources.chexpert import CHEXPERT_OBSERVATIONS
from pipelines.sources.mimic_cxr_jpg import MimicCxrJpgSource
from pipelines.splits import Split

#: Made-up numbers: subject, study, image, and another image.
SUBJECT, STUDY, IMAGE = "19999901", "59999901", "aaaaaaaa-bbbbbbbb-cccccccc-dddddddd-eeeeeeee"
OTHER = "ffffffff-bbbbbbbb-cccccccc-dddddddd-eeeeeeee"
METADATA = "dicom_id,subject_id,study_id,PerformedProcedureStepDescription,ViewPosition,Rows,Columns"
SPLIT = "dicom_id,study_id,subject_id,split"
#: Alphabetical there.
OBSERVATIONS = sorted(CHEXPERT_OBSERVATIONS)
CHEXPERT = ",".join(["subject_id", "study_id", *OBSERVATIONS])


def metadata(image: str = IMAGE, subject: str = SUBJECT, study: str = STUDY, view: str = "PA") -> str:
    return f"{image},{subject},{study},CHEST (PA AND LAT),{view},3056,2544"


def split(image: str = IMAGE, name: str = "train") -> str:
    return f"{image},{STUDY},{SUBJECT},{name}"


def observations(cells: dict[str, str] | None = None, subject: str = SUBJECT, study: str = STUDY) -> str:
    return ",".join([subject, study, *((cells or {}).get(name, "") for name in OBSERVATIONS)])


def path(image: str = IMAGE, subject: str = SUBJECT, study: str = STUDY) -> str:
    return f"files/p{subject[:2]}/p{subject}/s{study}/{image}.jpg"


def table(header: str, *rows: str) -> str:
    return "\n".join([header, *rows]) + "\n"


def labels(**tables: str) -> dict[str, str]:
    told = {
        "metadata": table(METADATA, metadata()),
        "split": table(SPLIT, split()),
        "chexpert": table(CHEXPERT, observations()),
    }
    return {f"mimic-cxr-2.0.0-{name}.csv": content for name, content in (told | tables).items()}


def archive(root: Path, files: dict[str, str], *images: str) -> MimicCxrJpgSource:
    for name, content in (files | dict.fromkeys(images, "x")).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(gzip.compress(content.encode()) if name.endswith(".gz") else content.encode())
    return MimicCxrJpgSource(Folder.at(str(root)))


def one_record(root: Path, files: dict[str, str]) -> StudyRecord:
    source = archive(root, files, path())
    source.check()
    (record,) = source.records()
    return record


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_three_files_tell_of_an_image(tmp_path: Path, suffix: str) -> None:
    cells = {"Edema": "1.0", "Fracture": "0.0", "Pleural Effusion": "-1.0"}
    files = labels(chexpert=table(CHEXPERT, observations(study="59999902"), observations(cells)))
    record = one_record(tmp_path, {f"{name}{suffix}": content for name, content in files.items()})
    assert (record.path, record.row) == (path(), 2)
    assert (record.patient_id, record.study_id) == (SUBJECT, STUDY)
    assert record.findings == {"Edema": 1, "Fracture": 0, "Pleural Effusion": -1}
    assert (record.view, record.split, record.sex, record.age_years) == ("PA", Split.TRAIN, None, None)


def test_its_identifiers_need_a_secret_key_and_its_splits_are_official(tmp_path: Path) -> None:
    source = archive(tmp_path, labels(), path())
    assert not source.is_public
    assert source.official_splits == set(Split)


@pytest.mark.parametrize(("name", "part"), [("train", Split.TRAIN), ("validate", Split.VAL), ("test", Split.TEST)])
def test_parts_are_splits(tmp_path: Path, name: str, part: Split) -> None:
    assert one_record(tmp_path, labels(split=table(SPLIT, split(name=name)))).split is part


@pytest.mark.parametrize(
    ("position", "view"),
    [
        ("PA", "PA"),
        ("AP", "AP"),
        ("LATERAL", "LATERAL"),
        ("LL", "LATERAL"),
        ("XTABLE LATERAL", "LATERAL"),
        ("AP LLD", None),
        ("", None),
    ],
)
def test_views(tmp_path: Path, position: str, view: str | None) -> None:
    assert one_record(tmp_path, labels(metadata=table(METADATA, metadata(view=position)))).view == view


def test_a_study_that_the_labeler_did_not_read_has_no_findings(tmp_path: Path) -> None:
    other = observations({"Edema": "1.0"}, study="59999902")
    assert one_record(tmp_path, labels(chexpert=table(CHEXPERT, other))).findings == {}


def test_images_of_a_study_share_its_findings_and_another_subjects_study_is_another(tmp_path: Path) -> None:
    foreign = "0" * 44
    files = labels(
        metadata=table(METADATA, metadata(), metadata(OTHER, view="LATERAL"), metadata(foreign, subject="19999902")),
        split=table(SPLIT, split(foreign), split(OTHER), split()),
        chexpert=table(CHEXPERT, observations({"Edema": "1.0"})),
    )
    source = archive(tmp_path, files, path(), path(OTHER), path(foreign, "19999902"))
    told = {Path(record.path).stem: record.findings for record in source.records()}
    assert told == {IMAGE: {"Edema": 1}, OTHER: {"Edema": 1}, foreign: {}}


def test_images_without_metadata_or_in_anothers_folder_have_no_label(tmp_path: Path) -> None:
    misplaced, unknown = path(subject="19999902"), path(OTHER)
    source = archive(tmp_path, labels(), path(), misplaced, unknown, f"{path()}.txt", "files/p19/index.html")
    assert source.check().records == 3
    records = {record.path: record for record in source.records()}
    assert records[path()].rejection is None
    for stranger in (records[misplaced], records[unknown]):
        assert stranger.patient_id is None
        assert stranger.rejection is not None
        assert stranger.rejection.reason is Reason.NO_LABEL


def test_missing_images_are_told_by_rows_alone(tmp_path: Path) -> None:
    files = labels(
        metadata=table(METADATA, metadata(), metadata(OTHER)),
        split=table(SPLIT, split(), split(OTHER)),
    )
    told = archive(tmp_path, files, path()).check()
    assert (told.records, told.label_rows, told.missing) == (1, 2, 1)
    assert told.missing_names == ("row 3 of mimic-cxr-2.0.0-metadata.csv",)


def test_the_newest_version_of_a_label_file_wins(tmp_path: Path) -> None:
    newer = {
        "mimic-cxr-2.1.0-split.csv.gz": table(SPLIT, split(name="test")),
        "mimic-cxr-2.1.0-test-set-labeled.csv": "another format",
    }
    assert one_record(tmp_path, labels() | newer).split is Split.TEST


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"metadata": table(METADATA, metadata(subject="x19999901"))}, r"row 2, column 'subject_id'"),
        ({"metadata": table(METADATA, metadata(study=""))}, r"row 2, column 'study_id'"),
        ({"metadata": table(METADATA, metadata(""))}, r"row 2, column 'dicom_id': is blank"),
        ({"metadata": table(METADATA, metadata(), metadata())}, r"several rows.* 2, 3 "),
        ({"metadata": table(METADATA, metadata(), metadata(OTHER))}, r"row 3, column 'dicom_id': has no row in"),
        ({"metadata": table(METADATA.replace("subject_id", "subject"), metadata())}, "is 'subject' meant"),
        ({"split": table(SPLIT, split(name="val"))}, r"row 2, column 'split'"),
        ({"split": table(SPLIT, split(), split())}, r"'dicom_id' stand in several rows.* 2, 3 "),
        ({"chexpert": table(CHEXPERT, observations({"Edema": "2.0"}))}, r"row 2, column 'Edema'"),
        ({"chexpert": table(CHEXPERT, observations(), observations())}, r"'study_id' stand in several rows.* 2, 3 "),
        (
            {
                "metadata": table(METADATA, metadata(), metadata(OTHER)),
                "split": table(SPLIT, split(OTHER, "test"), split()),
            },
            r"more than one official split.*row 2 of mimic.*, row 3 of mimic",
        ),
    ],
)
def test_a_mistake_is_told_by_row_and_column_and_nobody_is_named(
    tmp_path: Path, tables: dict[str, str], message: str
) -> None:
    with pytest.raises(SourceError, match=message) as caught:
        archive(tmp_path, labels(**tables), path()).check()
    told = str(caught.value).replace(str(tmp_path), "")
    assert not any(identifier in told for identifier in (SUBJECT, STUDY, IMAGE, OTHER))


@pytest.mark.parametrize(
    ("files", "images", "message"),
    [
        ({"a.csv": "x"}, [path()], r"expected mimic-cxr-2\.0\.0-\{metadata,split,chexpert\}.*is source=manifest meant"),
        ({"mimic-cxr-2.0.0-split.csv": "x"}, [path()], r"lacks mimic-cxr-2\.0\.0-metadata\.csv, mimic-cxr-2"),
        (labels(), [], "expected images in files"),
    ],
)
def test_another_layout_is_refused(tmp_path: Path, files: dict[str, str], images: list[str], message: str) -> None:
    with pytest.raises(SourceError, match=message):
        archive(tmp_path, files, *images).check()
