"""Kermany's layout: patients, findings and splits out of folder and file names."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.errors import SourceError
from pipelines.folders import Folder
from pipelines.sources.kermany import KermanySource, describe
from pipelines.splits import Split


@pytest.mark.parametrize(
    ("label", "name", "patient", "positive"),
    [
        ("NORMAL", "IM-0115-0001.jpeg", "IM-0115", {"normal"}),
        ("NORMAL", "IM-0256-0001-0002.jpeg", "IM-0256", {"normal"}),
        ("NORMAL", "NORMAL2-IM-0501-0001.jpeg", "NORMAL2-IM-0501", {"normal"}),
        ("PNEUMONIA", "person12_virus_46.jpeg", "person12", {"pneumonia", "viral"}),
        ("PNEUMONIA", "person3_bacteria_13.jpeg", "person3", {"pneumonia", "bacterial"}),
        ("PNEUMONIA", "unheard_of.jpeg", "unheard_of.jpeg", {"pneumonia"}),
        ("NORMAL", "unheard_of.jpeg", "unheard_of.jpeg", {"normal"}),
    ],
)
def test_a_files_name_tells_patient_and_findings(label: str, name: str, patient: str, positive: set[str]) -> None:
    told, findings = describe(label, name)
    assert told == patient
    assert {finding for finding, value in findings.items() if value == 1} == positive
    assert set(findings.values()) <= {0, 1}


def test_what_kind_of_pneumonia_is_not_guessed() -> None:
    _, findings = describe("PNEUMONIA", "unheard_of.jpeg")
    assert "viral" not in findings
    assert "bacterial" not in findings


def write(root: Path, *names: str) -> KermanySource:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return KermanySource(Folder.at(str(root)))


@pytest.mark.parametrize("root", ["", "chest_xray/"])
def test_the_official_test_part_is_kept_and_train_left_to_the_hash(tmp_path: Path, root: str) -> None:
    source = write(
        tmp_path,
        f"{root}train/NORMAL/IM-0001-0001.jpeg",
        f"{root}train/PNEUMONIA/person1_virus_1.jpeg",
        f"{root}val/PNEUMONIA/person1_bacteria_2.jpeg",
        f"{root}test/PNEUMONIA/person1_virus_9.jpeg",
        f"{root}train/NORMAL/.DS_Store",
    )
    records = {record.path.removeprefix(root): record for record in source.records()}
    assert source.check().records == len(records) == 4
    assert records["test/PNEUMONIA/person1_virus_9.jpeg"].split is Split.TEST
    assert records["train/PNEUMONIA/person1_virus_1.jpeg"].split is None
    patients = {name: record.patient_id for name, record in records.items()}
    # Train and val are one series of numbers, test is another.
    assert patients["train/PNEUMONIA/person1_virus_1.jpeg"] == patients["val/PNEUMONIA/person1_bacteria_2.jpeg"]
    assert patients["train/PNEUMONIA/person1_virus_1.jpeg"] != patients["test/PNEUMONIA/person1_virus_9.jpeg"]


def test_another_layout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="train/NORMAL"):
        write(tmp_path, "a.png").check()


@pytest.mark.real
def test_the_real_set_has_its_published_counts(real_data: Path) -> None:
    source = KermanySource(Folder.at(str(real_data / "kermany")))
    records = list(source.records())
    assert source.check().records == len(records) == 5216
    for finding, count in {"normal": 1341, "pneumonia": 3875, "viral": 1345, "bacterial": 2530}.items():
        assert sum(record.findings.get(finding) == 1 for record in records) == count
