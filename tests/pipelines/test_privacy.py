"""Privacy: what identifies a person goes into ingest and is in no byte that any job writes or says.

Recognisable values stand in every attribute of DICOM's dictionary that can hold text, dates or UIDs (all of PS3.15's
basic profile, and more), in private and nested ones, in file names, and in label files.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from dicom_files import chest_dataset, dicom_bytes
from PIL import Image
from pydicom.datadict import DicomDictionary
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import Tag
from small_backbone import UNTRAINED

from featurizers.phantoms import Finding, draw_phantom
from pipelines.extract import ExtractConfig, extract
from pipelines.ingest import IngestConfig, ingest
from pipelines.localize import LocalizeConfig, localize
from pipelines.pseudonyms import KEY_VARIABLE
from pipelines.score import ScoreConfig, score
from pipelines.sources.chexpert import CHEXPERT_OBSERVATIONS
from pipelines.train import TrainConfig, train

pytestmark = pytest.mark.usefixtures("spark")

KEY = "pleura-test-key-0123456789abcdef"
#: What is planted, and how it may look once it is written elsewhere.
WORD, DATE, UID, NUMBER = "QXPLANTED", "19430217", "1.2.826.0.1.77777", "8675309041"
PLANTED = re.compile(
    rb"qxplanted|1943[-/.]?02[-/.]?17|1\.2\.826\.0\.1\.77777|8675309041|pleura-test-key", re.IGNORECASE
)

_VALUES = {
    **dict.fromkeys(("LO", "LT", "SH", "ST", "UC", "UT"), WORD),
    **dict.fromkeys(("AE", "CS"), WORD),
    "PN": f"{WORD}^Jane",
    "DA": DATE,
    "DT": f"{DATE}101112",
    "UI": UID,
    "UR": f"http://{WORD}.example",
    "IS": NUMBER,
    "DS": NUMBER,
    "AS": "098Y",
}
#: Attributes whose value decides whether and how the image is read.
_NEEDED = {
    "AccessionNumber",
    "BodyPartExamined",
    "BurnedInAnnotation",
    "Modality",
    "PatientAge",
    "PhotometricInterpretation",
    "RescaleIntercept",
    "RescaleSlope",
    "SOPClassUID",
    "SpecificCharacterSet",
    "StudyInstanceUID",
    "SOPInstanceUID",
    "PatientID",
    "VOILUTFunction",
    "ViewPosition",
    "WindowCenter",
    "WindowWidth",
}
#: Groups of the file meta information, and of the pixels, which the decoder reads.
_NEEDED_GROUPS = (0x0000, 0x0002, 0x0004, 0x0028, 0x7FE0, 0xFFFC, 0xFFFE)


def planted(number: int) -> Dataset:
    """A sound radiograph of one of ten people, full of identifiers."""
    kind = (Finding.NORMAL, Finding.BACTERIAL)[number % 2]
    dataset = chest_dataset(draw_phantom(number, (kind,), size=(96, 96)).pixels)
    nested = Dataset()
    for tag, (vr, _, _, _, keyword) in DicomDictionary.items():
        first_vr = vr.split(" ")[0]
        if not keyword or keyword in _NEEDED or tag >> 16 in _NEEDED_GROUPS:
            continue
        if first_vr in _VALUES:
            dataset.add_new(tag, first_vr, _VALUES[first_vr])
            nested.add_new(tag, first_vr, _VALUES[first_vr])
    dataset.RequestAttributesSequence = Sequence([nested])
    private = dataset.private_block(0x0099, WORD, create=True)
    private.add_new(0x01, "LO", WORD)
    dataset.add_new(Tag(0x6000, 0x4000), "LT", WORD)
    dataset.PatientID = f"{WORD}{number % 10}"
    dataset.AccessionNumber = f"{WORD}-A{number}"
    dataset.StudyInstanceUID, dataset.SOPInstanceUID = f"{UID}.1.{number}", f"{UID}.2.{number}"
    dataset.PatientAge = "098Y"
    return dataset


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PACS export whose paths, headers and labels name people, with files of every fate among them."""
    folder = tmp_path_factory.mktemp("pacs") / WORD
    rows = []
    for number in range(40):
        dataset = planted(number)
        path = folder / f"{WORD}^Jane" / DATE / f"{UID}.2.{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(dicom_bytes(dataset))
        rows.append({"AccessionNumber": dataset.AccessionNumber, "normal": 1 - number % 2, "pneumonia": number % 2})
    for number, fault in enumerate(("lateral", "knee", "text", "cut")):
        dataset = planted(100 + number)
        match fault:
            case "lateral":
                dataset.ViewPosition = "LL"
            case "knee":
                dataset.BodyPartExamined = "KNEE"
            case "text":
                dataset.BurnedInAnnotation = "YES"
        content = dicom_bytes(dataset)
        (path.parent / f"{WORD}_{fault}.{WORD}").write_bytes(content[: len(content) // (2 if fault == "cut" else 1)])
    (path.parent / f"{WORD}.txt").write_text(f"{WORD} born {DATE}")
    (path.parent / f"{WORD}_twin").write_bytes(path.read_bytes())
    rows.append({"AccessionNumber": f"{WORD}-GONE", "normal": 1, "pneumonia": 0})
    pd.DataFrame(rows).to_csv(folder / "labels.csv", index=False)
    return folder


def everything(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Name and content of all that was written; Parquet also as its values, for it compresses."""
    for file in folder.rglob("*"):
        if file.is_file():
            yield str(file.relative_to(folder)), str(file.relative_to(folder)).encode()
            content = file.read_bytes()
            yield str(file.relative_to(folder)), content
            if file.suffix == ".parquet":
                table = pq.read_table(file)
                light = [name for name in table.column_names if name not in ("crop", "features")]
                yield f"values of {file.name}", str(table.select(light).to_pylist()).encode()
                yield f"metadata of {file.name}", str(pq.read_metadata(file).to_dict()).encode()


def test_no_identifier_of_a_dicom_archive_is_in_any_byte_of_ingest_extract_train_score_and_localize(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    # Where Python and its libraries put what is meant to be temporary. Spark's own scratch lies elsewhere: ingest has
    # it encrypted where it starts the session, and here the session runs already.
    (tmp_path / "scratch").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "scratch"))
    # The archive's own path is the user's choice, and stands in the config; a name without identifiers is asked for.
    link = tmp_path / "pacs"
    link.symlink_to(archive)
    lake = str(tmp_path / "lake")
    shared = {"val_fraction": 0.3, "test_fraction": 0.2}
    record = ingest(IngestConfig.model_validate({"source": "dicom", "archive": str(link), "lake": lake} | shared))
    assert record.counts["studies"] == 40
    assert record.counts["inputs"] == 46
    extract(ExtractConfig(lake=lake, backbone=UNTRAINED, batch_size=8))
    train(TrainConfig.model_validate({"lake": lake, "task": "binary", "head": "logistic"}))
    score(ScoreConfig.model_validate({"lake": lake, "heads": "binary/logistic"}))
    shown = {"per_class": 2, "checks": 2, "resamples": 20}
    localize(LocalizeConfig.model_validate({"lake": lake, "head": "binary/logistic", "split": "all", "report": shown}))
    said = capfd.readouterr()
    link.unlink()
    texts = [("output", said.out.encode()), ("errors", said.err.encode()), ("summary", str(record).encode())]
    leaks = [(name, PLANTED.search(text)) for name, text in [*texts, *everything(tmp_path)]]
    assert [(name, match[0]) for name, match in leaks if match] == []


def test_no_identifier_of_a_manifest_is_in_any_byte_of_ingest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    folder = tmp_path / "archive"
    names = [f"{WORD}7.png", f"{DATE}/a.jpeg", f"b-{UID}.3.dcm", f"{WORD}^Jane/c.dcm", f"gone/{WORD}-S1.png", "bad.png"]
    pixels = draw_phantom(1, size=(96, 96)).pixels
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pixels[0, 0] = number
        if name.endswith("dcm"):
            (folder / name).write_bytes(dicom_bytes(planted(number)))
        elif not name.startswith("gone"):
            Image.fromarray(pixels).save(folder / name)
    (folder / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n" + WORD.encode())
    rows = [{"path": name, "patient_id": f"{WORD}7", "study_id": f"{WORD}-S1", "Mass": "1"} for name in names]
    pd.DataFrame(rows).to_csv(folder / "labels.csv", index=False)
    record = ingest(IngestConfig(source="manifest", archive=str(folder), lake=str(tmp_path / "lake")))
    assert record.counts["studies"] == 4
    said = capfd.readouterr()
    texts = [("output", said.out.encode()), ("errors", said.err.encode()), ("summary", str(record).encode())]
    leaks = [(name, PLANTED.search(text)) for name, text in [*texts, *everything(tmp_path / "lake")]]
    assert [(name, match[0]) for name, match in leaks if match] == []


def test_no_identifier_of_mimic_is_in_any_byte_of_ingest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    folder = tmp_path / "archive"
    subject, study = NUMBER[:8], NUMBER[-8:]
    image = "aaaaaaaa-bbbbbbbb-cccccccc-dddddddd-eeeeeeee"
    place = folder / "files" / f"p{subject[:2]}" / f"p{subject}" / f"s{study}"
    place.mkdir(parents=True)
    Image.fromarray(np.asarray(draw_phantom(1, size=(96, 96)).pixels)).save(place / f"{image}.jpg")
    (place / "0-0-0-0-0.jpg").write_bytes(b"no label")
    tables = {
        "chexpert": f"subject_id,study_id,{','.join(CHEXPERT_OBSERVATIONS)}\n{subject},{study}{',-1.0' * 14}\n",
        "metadata": f"dicom_id,subject_id,study_id,ViewPosition,StudyDate\n{image},{subject},{study},PA,{DATE}\n"
        f"ffffffff-0-0-0-0,{subject},{study},AP,{DATE}\n",
        "split": f"dicom_id,study_id,subject_id,split\n{image},{study},{subject},train\n"
        f"ffffffff-0-0-0-0,{study},{subject},train\n",
    }
    for name, content in tables.items():
        (folder / f"mimic-cxr-2.0.0-{name}.csv.gz").write_bytes(gzip.compress(content.encode()))
    record = ingest(IngestConfig(source="mimic_cxr_jpg", archive=str(folder), lake=str(tmp_path / "lake")))
    assert record.counts["studies"] == 1
    said = capfd.readouterr()
    texts = [("output", said.out.encode()), ("errors", said.err.encode()), ("summary", str(record).encode())]
    secret = re.compile(rb"|".join([subject.encode(), study.encode(), image.encode(), DATE.encode()]))
    leaks = [(name, secret.search(text)) for name, text in [*texts, *everything(tmp_path / "lake")]]
    assert [(name, match[0]) for name, match in leaks if match] == []
