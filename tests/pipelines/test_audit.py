"""The audit: exact numbers, every fault found and told with its remedy, nothing written, and files found by the key."""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pyspark.sql import SparkSession

from featurizers.phantoms import draw_phantom
from featurizers.reasons import Reason
from pipelines.audit import AuditConfig, audit
from pipelines.datasets import Dataset, claim
from pipelines.errors import ConfigError, LakeError, SourceError
from pipelines.ingest import IngestConfig, ingest
from pipelines.intake import Intake
from pipelines.lake import Lake
from pipelines.pseudonyms import KEY_VARIABLE
from pipelines.score import ScoreConfig, score
from pipelines.tables import QUARANTINE
from pipelines.train import TrainConfig, train
from tests.conftest import PHANTOM_STUDIES

pytestmark = pytest.mark.usefixtures("spark")

KEY = b"k" * 64
PIXELS = draw_phantom(3, size=(96, 96)).pixels
#: In a path, so that the uri is a pseudonym.
PATIENT = "PID-SECRET-77"


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def tree(folder: Path) -> dict[Path, tuple[int, int]]:
    """Every file's size and time: what a write would change."""
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


def values(report: str) -> dict[str, str]:
    """The rows of a report by their names; of equal ones the last."""
    rows = (re.split(r"\s{2,}", line.strip(), maxsplit=1) for line in report.splitlines() if "  " in line)
    return {row[0]: row[1] for row in rows if len(row) == 2}


def audited(lake: Path, **settings: object) -> str:
    return str(audit(AuditConfig.model_validate({"lake": str(lake)} | settings)))


def faults(lake: Path, **settings: object) -> str:
    """What an audit tells to look at."""
    with pytest.raises(LakeError, match=r"not in order.*\n\nAudit of") as told:
        audited(lake, **settings)
    return str(told.value).partition("To look at")[2]


@pytest.fixture(scope="module")
def whole_lake(extracted_lake: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake of every stage; not to be written to."""
    lake = tmp_path_factory.mktemp("audited") / "whole lake"
    shutil.copytree(extracted_lake, lake, ignore=shutil.ignore_patterns("heads", "predictions", "reports"))
    train(TrainConfig(lake=str(lake), task="binary", head="logistic"))
    score(ScoreConfig(lake=str(lake), heads=("binary/logistic",)))
    return lake


@pytest.fixture
def lake(whole_lake: Path, tmp_path: Path) -> Path:
    """A copy of the whole lake, to be damaged."""
    return Path(shutil.copytree(whole_lake, tmp_path / "lake"))


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory, spark: SparkSession) -> Path:
    """A folder with an archive that has secrets, the key, and a lake of it; not to be written to."""
    folder = tmp_path_factory.mktemp("private")
    archive = folder / "archive"
    (archive / PATIENT).mkdir(parents=True)
    (folder / "key").write_bytes(KEY)
    contents = {
        "good.png": png(PIXELS),
        "a_twin.png": png(PIXELS[::-1]),
        "b_twin.png": png(PIXELS[::-1]),
        "c_twin.png": png(PIXELS[::-1]),
        "empty_1.png": b"",
        "empty_2.png": b"",
        f"{PATIENT}/scan.png": b"no image",
    }
    for name, content in contents.items():
        (archive / name).write_bytes(content)
    rows = [
        # The first two twins agree; the third one's label is another one.
        {
            "path": name,
            "patient_id": PATIENT if "/" in name or "twin" in name else "P1",
            "Mass": "0" if name == "c_twin.png" else "1",
        }
        for name in [*contents, "gone.png"]
    ]
    pd.DataFrame(rows).to_csv(archive / "labels.csv", index=False)
    ingest(private_config(folder))
    return folder


def private_config(folder: Path, **settings: object) -> IngestConfig:
    return IngestConfig.model_validate(
        {
            "source": "manifest",
            "archive": str(folder / "archive"),
            "lake": str(folder / "lake"),
            "dataset": "pacs",
            "pseudonym_key_file": str(folder / "key"),
        }
        | settings
    )


def studies_of(lake: Path) -> pd.DataFrame:
    table = Lake.at(str(lake)).studies
    return table.to_arrow([name for name in table.schema.names if name != "crop"]).to_pandas()


def rewrite(folder: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    """Change the rows of the first committed file below a folder."""
    file = min(path for path in folder.glob("run=*/*.parquet") if (path.parent / "_SUCCESS").exists())
    pq.write_table(change(pq.read_table(file, partitioning=None)), file)
    # What executors write themselves has none.
    checksum(file).unlink(missing_ok=True)


def checksum(file: Path) -> Path:
    """Where Hadoop keeps the checksum of a local file."""
    return file.with_name(f".{file.name}.crc")


def copy_run(folder: Path, run_id: str = "20990101T000000000000-copy", *, committed: bool = True) -> None:
    ignored = [] if committed else ["_SUCCESS"]
    shutil.copytree(min(folder.glob("run=*")), folder / f"run={run_id}", ignore=shutil.ignore_patterns(*ignored))


# --- a lake in order -------------------------------------------------------------------------------------------------


def test_a_sound_lake_balances_its_numbers_are_those_of_its_rows_and_nothing_is_written(whole_lake: Path) -> None:
    before = tree(whole_lake)
    report = audited(whole_lake)
    assert tree(whole_lake) == before
    assert report.endswith("The books balance.")
    rows, studies = values(report), studies_of(whole_lake)
    assert (
        rows["inputs"] == f"{PHANTOM_STUDIES} = {len(studies)} studies + {PHANTOM_STUDIES - len(studies)} in quarantine"
    )
    images, patients = studies["split"].value_counts(), studies.groupby("split")["patient_key"].nunique()
    splits = ("train", "val", "test")
    assert rows["images"] == ", ".join(f"{split} {images[split]}" for split in splits)
    assert rows["patients"] == ", ".join(f"{split} {patients[split]}" for split in splits) + "; none in two splits"
    croppers = studies["cropper"].value_counts().sort_index()
    assert rows["crops"] == ", ".join(f"{cropper} {number}" for cropper, number in croppers.items())
    told = studies.assign(pneumonia=[dict(findings)["pneumonia"] for findings in studies["findings"]])
    by_split = told.groupby(["split", "pneumonia"]).size()
    assert rows["pneumonia"].split() == [f"{by_split[split, 1]}/{by_split[split, 0]}" for split in splits]
    assert rows["studies"].split()[0] == str(len(studies))
    assert rows["studies"].split()[-1] == "1"


def test_every_stage_has_its_row_with_the_names_that_people_know(whole_lake: Path) -> None:
    report = audited(whole_lake)
    number = len(studies_of(whole_lake))
    assert re.search(rf"features [0-9a-f]{{12}} \(resnet18:size=96 bf16, weights random.*\) +{number} ", report)
    assert re.search(rf"predictions [0-9a-f]{{12}} \(binary/logistic\) +{number} ", report)
    assert re.search(r"heads/binary/logistic .* 1$", report, re.MULTILINE)
    assert "lack" not in report
    assert "dead" not in report


def test_out_holds_the_same_numbers_and_may_not_lie_in_the_lake(whole_lake: Path, tmp_path: Path) -> None:
    out = tmp_path / "audit.json"
    audited(whole_lake, out=str(out))
    told = json.loads(out.read_text())
    number = len(studies_of(whole_lake))
    assert told["in_order"] is True
    assert told["faults"] == []
    assert sum(told["datasets"]["kermany"]["images"].values()) == number
    assert told["images"]["studies"] == {"rows": number, "lacking": 0, "without_study": 0, "twice": 0}
    assert told["counts"] == {
        "inputs": PHANTOM_STUDIES,
        "studies": number,
        "quarantined": PHANTOM_STUDIES - number,
        "dead runs": 0,
    }
    assert told["job"] == "audit_lake"
    with pytest.raises(ConfigError, match="lies in the lake"):
        audited(whole_lake, out=str(whole_lake / "audit.json"))


# --- quarantine ------------------------------------------------------------------------------------------------------


def test_quarantine_is_told_by_reason_with_examples(private: Path) -> None:
    report = audited(private / "lake")
    rows = values(report)
    assert rows["inputs"] == "8 = 2 studies + 6 in quarantine"
    assert rows["labels"] == "8 rows, 1 of them without an image"
    assert rows["duplicates"] == "2, 1 of them with conflicting labels: find out which are right"
    assert rows["empty_file"] == f"2  {Reason.EMPTY_FILE.meaning}"
    # What both say is told once.
    assert re.search(r"      \S.*\n        empty_1\.png  row 6\n        empty_2\.png  row 7\n", report)
    assert report.index("c_twin.png  same bytes") < report.index("b_twin.png  same bytes")
    assert PATIENT not in report
    assert report.endswith("The books balance.")


def test_no_more_examples_than_asked_for(private: Path) -> None:
    one, none = audited(private / "lake", examples=1), audited(private / "lake", examples=0)
    assert "c_twin.png" in one
    assert "b_twin.png" not in one
    assert ".png" not in none


def test_a_lake_with_everything_in_quarantine_is_audited(private: Path, tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    ingest(private_config(private, lake=str(lake), limits={"min_side": 97}))
    report = audited(lake, examples=0)
    assert values(report)["inputs"] == "8 = 0 studies + 8 in quarantine"
    assert report.endswith("The books balance.")


def test_a_changed_file_whose_new_content_is_bad_is_no_fault(lake: Path) -> None:
    add_quarantine(lake, stamp="another")
    report = audited(lake)
    assert values(report)["changed files"].startswith("1 in quarantine")
    assert report.endswith("The books balance.")


def add_quarantine(lake: Path, **changed: str) -> None:
    """An input in quarantine that is a study too."""
    study = studies_of(lake).iloc[0]
    row = {
        "uri": study["uri"],
        "dataset": study["dataset"],
        "reason": "empty_file",
        "detail": "",
        "stamp": study["stamp"],
    }
    Lake.at(str(lake)).quarantine.append_arrow(pa.Table.from_pylist([row | changed], QUARANTINE))


# --- what is left over, and what is to come ---------------------------------------------------------------------------


def test_dead_runs_and_staging_folders_are_told_with_their_paths_and_are_no_fault(lake: Path) -> None:
    (features,) = (lake / "features").iterdir()
    copy_run(lake / "studies", "20250101T000000000000-dead", committed=False)
    copy_run(features, "20250102T000000000000-dead", committed=False)
    copy_run(features, "mine", committed=False)
    (lake / "heads" / ".DS_Store").write_bytes(b"x")
    (lake / "_staging-20250103T000000000000-dead").mkdir()
    (lake / "_staging-20250103T000000000000-dead" / "part.parquet").write_bytes(b"x" * 2000)
    report = audited(lake)
    assert "dead runs: 3, " in report
    assert re.search(rf"  {lake}/studies/run=20250101T000000000000-dead  [\d.]+ [kM]B, \d+ days old", report)
    assert f"{features}/run=20250102T000000000000-dead" in report
    assert re.search(r"/run=mine  .*, of unknown age", report)
    assert re.search(r"staging folders: 1, 2\.0 kB.*\n  .*_staging-20250103T000000000000-dead", report)
    assert values(report)["studies"].split()[0] == str(len(studies_of(lake)))
    assert report.endswith("The books balance.")


def test_studies_without_features_are_told_with_the_job_that_makes_them(lake: Path) -> None:
    (features,) = (lake / "features").iterdir()
    rewrite(features, lambda table: table.slice(2))
    assert re.search(r"features .* 2 studies lack them: jobs/extract_features\.py", audited(lake))


def test_an_ingest_that_was_killed_is_told(private: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = iter([None, KeyboardInterrupt()])
    stage = Intake._stage

    def stage_once(*arguments: object) -> None:
        if error := next(calls, None):
            raise error
        stage(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Intake, "_stage", stage_once)
    with pytest.raises(KeyboardInterrupt):
        ingest(private_config(private, lake=str(tmp_path / "lake"), chunk_images=4))
    rows = values(audited(tmp_path / "lake"))
    assert rows["inputs"].startswith("4 = ")
    assert "NOT FINISHED" in rows["last ingest"]


def test_a_lake_in_which_nothing_was_committed(tmp_path: Path) -> None:
    claim(Lake.create(str(tmp_path / "lake")), "pacs", Dataset("/archive", "check", "crops"))
    report = audited(tmp_path / "lake")
    rows = values(report)
    assert rows["inputs"] == "0 = 0 studies + 0 in quarantine"
    assert "nothing was ever committed" in report


@pytest.mark.parametrize("name", ["nowhere", "archive"])
def test_what_is_no_lake_is_no_lake_in_order(name: str, private: Path) -> None:
    with pytest.raises(LakeError, match=r"no lake.*lake="):
        audited(private / name)


# --- faults ----------------------------------------------------------------------------------------------------------


def test_faults_among_studies_and_quarantine(lake: Path, tmp_path: Path) -> None:
    repeated = studies_of(lake)["patient_key"].value_counts().idxmax()

    def tear(table: pa.Table) -> pa.Table:
        frame = table.to_pylist()
        row = next(row for row in frame if row["patient_key"] == repeated)
        row["split"] = "val" if row["split"] == "train" else "train"
        return pa.Table.from_pylist(frame, table.schema)

    add_quarantine(lake)
    add_quarantine(lake)
    add_quarantine(lake, uri="elsewhere", stamp="elsewhere")
    rewrite(lake / "studies", tear)
    copy_run(lake / "studies")
    (lake / "_datasets" / "kermany.json").unlink()
    out = tmp_path / "audit.json"
    told = faults(lake, out=str(out))
    number = len(studies_of(lake)) // 2
    assert re.search(r"kermany: 1 patients are in two splits.*\n.*new lake", told)
    assert re.search(
        r"1 inputs are in studies and in quarantine and 1 are in quarantine more than once\.\n.*/quarantine while", told
    )
    runs = [run.name for run in sorted((lake / "studies").glob("run=*"))]
    assert f"studies: {number} images are there more than once, in {', '.join(runs)}" in told
    assert "_datasets/kermany.json is gone" in told
    assert "are in no table" not in told
    assert len(json.loads(out.read_text())["faults"]) == 4


def test_faults_among_features_and_predictions(lake: Path) -> None:
    (features,) = (lake / "features").iterdir()
    number = len(studies_of(lake))
    rewrite(lake / "studies", lambda table: table.slice(3))
    copy_run(features)
    told = faults(lake)
    assert re.search(r"kermany: 3 inputs .* are in no table.*\n.*Ingest it again", told)
    assert re.search(r"features \w+ \(.*\): 3 images in it are no study's", told)
    assert re.search(rf"features \w+ \(.*\): {number} images are in it more than once.*\n.*extract again", told)
    assert re.search(r"predictions \w+ \(binary/logistic\): 3 images in it are no study's.*\n.*score again", told)


def test_several_data_sets_are_summed_and_a_fault_names_its_own(private: Path, tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    shutil.copytree(private / "lake", lake)
    ingest(private_config(private, lake=str(lake), dataset="copy"))
    (lake / "_datasets" / "copy.json").unlink()
    with pytest.raises(LakeError) as told:
        audited(lake, examples=0)
    report = str(told.value)
    assert values(report.partition("in all")[2].partition("tables")[0])["inputs"] == "16 = 2 studies + 14 in quarantine"
    assert re.findall(r"^ +inputs +(.*)", report, re.MULTILINE)[:2] == [
        "8 = 0 studies + 8 in quarantine",
        "8 = 2 studies + 6 in quarantine",
    ]
    assert "1. copy: " in report
    assert "2. " not in report.partition("To look at")[2]


def test_a_damaged_file_is_named(lake: Path) -> None:
    file = next((lake / "studies").glob("run=*/*.parquet"))
    file.write_bytes(b"x" * 1000)
    # What executors write themselves has none.
    checksum(file).unlink(missing_ok=True)
    with pytest.raises(LakeError, match=r"can't be read.*restore") as told:
        audited(lake)
    assert str(file) in str(told.value)


def test_a_lost_quarantine_is_noticed(private: Path, tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    shutil.copytree(private / "lake", lake)
    shutil.rmtree(lake / "quarantine")
    assert "pacs: 6 inputs" in faults(lake)
    # The remedy mends it.
    ingest(private_config(private, lake=str(lake)))
    assert audited(lake).endswith("The books balance.")


# --- from a uri to its file ------------------------------------------------------------------------------------------


def located(private: Path, uri: str, **settings: object) -> str:
    return audited(private / "lake", locate=uri, **({"pseudonym_key_file": str(private / "key")} | settings))


@pytest.fixture(scope="module")
def pseudonym(private: Path) -> str:
    uris = Lake.at(str(private / "lake")).quarantine.to_arrow(["uri"])["uri"].to_pylist()
    (uri,) = (uri for uri in uris if re.fullmatch(r"[0-9a-f]{32}\.png", uri))
    return str(uri)


def test_the_key_leads_back_to_the_file_and_its_path_goes_nowhere(
    private: Path, pseudonym: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tree(private)
    path = str(private / "archive" / PATIENT / "scan.png")
    assert located(private, pseudonym) == path
    monkeypatch.setenv(KEY_VARIABLE, KEY.decode())
    assert located(private, pseudonym, pseudonym_key_file=None, dataset="pacs") == path
    assert tree(private) == before


def test_a_uri_that_is_a_path_needs_no_key(private: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    path = located(private, "empty_1.png", pseudonym_key_file=None)
    assert path == str(private / "archive" / "empty_1.png")


def test_what_stands_in_the_way_of_locating_is_told(
    private: Path, pseudonym: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    (tmp_path / "other").write_bytes(b"x" * 64)
    with pytest.raises(ConfigError, match="not the key with which data set 'pacs'"):
        located(private, pseudonym, pseudonym_key_file=str(tmp_path / "other"))
    with pytest.raises(ConfigError, match=r"only the key.*pseudonym_key_file="):
        located(private, pseudonym, pseudonym_key_file=None)
    with pytest.raises(LakeError, match=r"no data set 'pasc'.*one of: pacs"):
        located(private, pseudonym, dataset="pasc")
    with pytest.raises(SourceError, match="moved, renamed or deleted"):
        located(private, "0" * 32 + ".png")


def test_an_archive_that_is_gone_is_told(private: Path, pseudonym: str, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(private / "lake" / "_datasets", moved / "lake" / "_datasets")
    file = moved / "lake" / "_datasets" / "pacs.json"
    file.write_text(file.read_text().replace(str(private / "archive"), str(tmp_path / "away")))
    with pytest.raises(SourceError, match=r"not where it was.*_datasets/pacs\.json"):
        located(moved, pseudonym, pseudonym_key_file=str(private / "key"))
    (file.parent / "more.json").write_text(file.read_text())
    with pytest.raises(LakeError, match=r"several data sets.*more, pacs"):
        located(moved, pseudonym, pseudonym_key_file=str(private / "key"))


@pytest.mark.parametrize(
    "settings", [{"locate": "a", "out": "b"}, {"dataset": "a"}, {"pseudonym_key_file": "a"}], ids=str
)
def test_settings_that_do_not_go_together_are_refused(settings: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="locate"):
        AuditConfig.model_validate({"lake": "x"} | settings)
