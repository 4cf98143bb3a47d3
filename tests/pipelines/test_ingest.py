"""Ingest: balanced books, a reason for every bad file, no identifier anywhere, and nothing done twice."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest
from mask_folders import write_pairs
from PIL import Image
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian
from pyspark.sql import SparkSession

from featurizers.crops import decode_png
from featurizers.phantoms import draw_phantom
from featurizers.projection import ProjectionFinder
from pipelines.errors import USER_ERRORS, ConfigError, LakeError, SourceError
from pipelines.folders import Folder
from pipelines.ingest import IngestConfig, ingest
from pipelines.intake import Intake
from pipelines.lake import Lake
from pipelines.pseudonyms import KEY_VARIABLE
from pipelines.tables import Table
from tests.conftest import PHANTOM_STUDIES

pytestmark = pytest.mark.usefixtures("spark")

PIXELS = draw_phantom(3, size=(160, 160)).pixels


def encoded(mode: str, image_format: str, pixels: np.ndarray = PIXELS) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, image_format)
    return buffer.getvalue()


def sixteen_bit_png() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PIXELS.astype(np.uint16) * 200).save(buffer, "PNG")
    return buffer.getvalue()


def declared_png(width: int, height: int) -> bytes:
    """A PNG whose header declares a size and whose pixels are missing."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")
    )


def dicom(*, with_pixels: bool, patient: str = "Nobody^Anna") -> bytes:
    dataset = pydicom.Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = ComputedRadiographyImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    dataset.SOPClassUID, dataset.SOPInstanceUID, dataset.Modality = ComputedRadiographyImageStorage, "1.2.3.4", "CR"
    dataset.PatientName, dataset.PatientID = patient, "PID-SECRET-991"
    if with_pixels:
        dataset.Rows, dataset.Columns = PIXELS.shape
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PixelRepresentation = 1, "MONOCHROME2", 0
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
        dataset.PixelData = (PIXELS.astype(np.uint16) * 16).tobytes()
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


#: What a hospital's folder may hold, and what becomes of it: a reason, or None for a study.
INPUTS: dict[str, tuple[Callable[[], bytes], str | None]] = {
    "grey.png": (lambda: encoded("L", "PNG"), None),
    "grey.jpeg": (lambda: encoded("L", "JPEG"), None),
    "sixteen_bit.png": (sixteen_bit_png, None),
    "cmyk.jpeg": (lambda: encoded("CMYK", "JPEG"), None),
    "palette.png": (lambda: encoded("P", "PNG"), None),
    "rgba.png": (lambda: encoded("RGBA", "PNG"), None),
    "good.dcm": (lambda: dicom(with_pixels=True), None),
    "truncated.jpeg": (lambda: encoded("L", "JPEG")[:1500], "corrupt_image"),
    "empty.png": (lambda: b"", "empty_file"),
    "text.png": (lambda: b"this is no picture\n" * 20, "not_an_image"),
    "one.png": (lambda: encoded("L", "PNG", PIXELS[:1, :1]), "too_small"),
    "huge.png": (lambda: declared_png(30_000, 30_000), "too_large"),
    "no_pixels.dcm": (lambda: dicom(with_pixels=False), "no_pixel_data"),
    "grey_again.png": (lambda: encoded("L", "PNG"), "duplicate"),
}


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A manifest archive with one of each of INPUTS and a missing file."""
    monkeypatch.setenv(KEY_VARIABLE, "k" * 64)
    folder = tmp_path / "archive"
    folder.mkdir()
    for name, (content, _) in INPUTS.items():
        (folder / name).write_bytes(content())
    rows = [{"path": name, "patient_id": f"PID-SECRET-{i}", "age": "93", "Mass": "1"} for i, name in enumerate(INPUTS)]
    rows.append({"path": "PID-SECRET-990/gone.png", "patient_id": "PID-SECRET-990", "age": "", "Mass": ""})
    pd.DataFrame(rows).to_csv(folder / "labels.csv", index=False)
    return folder


def config(archive: Path, lake: Path, **settings: object) -> IngestConfig:
    return IngestConfig.model_validate({"source": "manifest", "archive": str(archive), "lake": str(lake)} | settings)


def outcomes(lake: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    there = Lake.at(str(lake))
    studies = there.studies.to_arrow(there.studies.schema.names).to_pandas()
    return studies, there.quarantine.to_arrow(there.quarantine.schema.names).to_pandas()


def test_every_input_is_a_study_or_has_its_own_reason(archive: Path, tmp_path: Path) -> None:
    summary = str(ingest(config(archive, tmp_path / "lake")))
    studies, quarantine = outcomes(tmp_path / "lake")
    found = dict.fromkeys(studies["uri"]) | dict(zip(quarantine["uri"], quarantine["reason"], strict=True))
    # Its path holds the patient's id, so its uri is a pseudonym.
    (gone,) = set(found) - set(INPUTS)
    assert found.pop(gone) == "missing_file"
    assert re.fullmatch(r"[0-9a-f]{32}\.png", gone)
    assert found == {name: reason for name, (_, reason) in INPUTS.items()}
    assert len(studies) + len(quarantine) == len(INPUTS) + 1
    assert "quarantine: duplicate" in summary
    duplicate = quarantine[quarantine["reason"] == "duplicate"]["detail"].item()
    conflict = "conflicting labels of the patient: find out which are right"
    # The header is row 1.
    assert duplicate == f"same bytes as grey.png; {conflict} (row {len(INPUTS) + 1})"


def test_what_a_study_tells(archive: Path, tmp_path: Path) -> None:
    ingest(config(archive, tmp_path / "lake", crop={"size": 96}))
    studies, _ = outcomes(tmp_path / "lake")
    for study in studies.to_dict("records"):
        assert decode_png(study["crop"]).shape == (96, 96)
        assert (study["width"], study["height"]) == (160, 160)
        assert study["dataset"] == "manifest"
        assert study["split"] in ("train", "val", "test")
        assert dict(study["findings"]) == {"Mass": 1}
        assert study["age_years"] == 90.0
        assert 0 <= study["lung_quality"] <= 1
        box = study["lung_box"]
        assert 0 <= box["left"] < box["right"] <= 1
        assert 0 <= box["top"] < box["bottom"] <= 1
    bits = dict(zip(studies["uri"], studies["bits"], strict=True))
    assert bits["sixteen_bit.png"] == 16
    assert bits["good.dcm"] == 12


def test_no_identifier_is_in_any_byte_that_was_written(
    archive: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    print_out = str(ingest(config(archive, tmp_path / "lake")))
    written = [file.read_bytes() for file in (tmp_path / "lake").rglob("*") if file.is_file()]
    said = capfd.readouterr()
    texts = [*written, print_out.encode(), said.out.encode(), said.err.encode()]
    # Parquet compresses: read its values too.
    studies, quarantine = outcomes(tmp_path / "lake")
    texts += [studies.drop(columns="crop").to_json().encode(), quarantine.to_json().encode()]
    for secret in (b"PID-SECRET", b"Nobody", b"Anna", b"k" * 64):
        assert not any(secret in text for text in texts)


def test_a_second_ingest_finds_nothing_to_do_and_new_files_are_added(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = tmp_path / "lake"
    ingest(config(archive, lake))
    before = outcomes(lake)
    ingest(config(archive, lake))
    after = outcomes(lake)
    assert [len(table) for table in before] == [len(table) for table in after]
    (archive / "new.png").write_bytes(encoded("L", "PNG", PIXELS[:, ::-1]))
    (archive / "twin_of_an_old_one.jpeg").write_bytes((archive / "grey.jpeg").read_bytes())
    labels = pd.read_csv(archive / "labels.csv", dtype=str)
    more = [{"path": name, "patient_id": "PID-SECRET-77"} for name in ("new.png", "twin_of_an_old_one.jpeg")]
    pd.concat([labels, pd.DataFrame(more)]).to_csv(archive / "labels.csv", index=False)
    ingest(config(archive, lake))
    studies, quarantine = outcomes(lake)
    assert len(studies) == len(before[0]) + 1
    assert len(quarantine) == len(before[1]) + 1
    assert quarantine.iloc[-1]["detail"].startswith("same bytes as grey.jpeg")


def test_chunks_give_the_same_lake_and_duplicates_across_them_are_found(archive: Path, tmp_path: Path) -> None:
    ingest(config(archive, tmp_path / "whole"))
    ingest(config(archive, tmp_path / "chunked", chunk_images=4))
    for whole, chunked in zip(outcomes(tmp_path / "whole"), outcomes(tmp_path / "chunked"), strict=True):
        left, right = (table.sort_values("uri").reset_index(drop=True) for table in (whole, chunked))
        pd.testing.assert_frame_equal(left, right)


def test_a_killed_ingest_goes_on_and_leaves_nothing_half_done(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = tmp_path / "lake"
    calls = iter([None, KeyboardInterrupt()])
    stage = Intake._stage

    def stage_once(*arguments: object) -> None:
        if error := next(calls, None):
            raise error
        stage(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Intake, "_stage", stage_once)
    with pytest.raises(KeyboardInterrupt):
        ingest(config(archive, lake, chunk_images=5))
    studies, quarantine = outcomes(lake)
    assert len(studies) + len(quarantine) == 5
    ingest(config(archive, lake, chunk_images=5))
    studies, quarantine = outcomes(lake)
    assert len(studies) + len(quarantine) == len(INPUTS) + 1
    assert not list(lake.glob("_staging*"))


@pytest.mark.parametrize("commits", [0, 1])
def test_a_kill_between_two_commits_of_a_chunk_changes_nothing_in_the_end(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, commits: int
) -> None:
    """Quarantine is one commit, studies are the other; the job dies just after the first or before both."""
    undisturbed, lake = tmp_path / "undisturbed", tmp_path / "lake"
    ingest(config(archive, undisturbed))
    left = iter(range(commits))

    def until_killed(method: Callable[..., Folder]) -> Callable[..., Folder]:
        def commit(*arguments: object) -> Folder:
            if next(left, None) is None:
                raise KeyboardInterrupt
            return method(*arguments)

        return commit

    with monkeypatch.context() as patched:
        patched.setattr(Table, "append", until_killed(Table.append))
        patched.setattr(Table, "append_arrow", until_killed(Table.append_arrow))
        with pytest.raises(KeyboardInterrupt):
            ingest(config(archive, lake))
    assert len(outcomes(lake)[1]) == (len(outcomes(undisturbed)[1]) if commits else 0)
    ingest(config(archive, lake))
    for expected, found in zip(outcomes(undisturbed), outcomes(lake), strict=True):
        assert sorted(expected["uri"]) == sorted(found["uri"])


def test_a_file_that_was_damaged_and_is_as_before_again_leaves_quarantine(archive: Path, tmp_path: Path) -> None:
    lake, file = tmp_path / "lake", archive / "grey.png"
    ingest(config(archive, lake))
    before, status = file.read_bytes(), file.stat()
    file.write_bytes(before[:99])
    ingest(config(archive, lake))
    assert "grey.png" in set(outcomes(lake)[1]["uri"])
    file.write_bytes(before)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    ingest(config(archive, lake))
    studies, quarantine = outcomes(lake)
    assert list(studies["uri"]).count("grey.png") == 1
    assert "grey.png" not in set(quarantine["uri"])


def test_a_file_that_was_mended_is_new_content(archive: Path, tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    ingest(config(archive, lake))
    before = set(outcomes(lake)[0]["uri"])
    (archive / "truncated.jpeg").write_bytes(encoded("L", "JPEG", PIXELS[::-1]))
    ingest(config(archive, lake))
    studies, quarantine = outcomes(lake)
    assert set(studies["uri"]) == before | {"truncated.jpeg"}
    # It is in one of the two tables, never in both.
    assert "truncated.jpeg" not in set(quarantine["uri"])
    assert len(studies) + len(quarantine) == len(INPUTS) + 1


def test_a_missing_file_that_arrives_is_read(archive: Path, tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    first = ingest(config(archive, lake))
    assert f"1 of {len(INPUTS) + 1} label rows have no image in the archive: row {len(INPUTS) + 2}" in str(first)
    gone = archive / "PID-SECRET-990" / "gone.png"
    gone.parent.mkdir()
    gone.write_bytes(encoded("L", "PNG", PIXELS[::-1, ::-1]))
    second = ingest(config(archive, lake))
    assert second.counts["studies"] == 1
    assert "missing_file" not in set(outcomes(lake)[1]["reason"])


def test_a_study_whose_file_changed_is_a_second_study(archive: Path, tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    ingest(config(archive, lake))
    (archive / "grey.png").write_bytes(encoded("L", "PNG", PIXELS[:, ::-1]))
    record = ingest(config(archive, lake))
    assert record.counts["studies"] == 1
    studies, _ = outcomes(lake)
    assert studies[studies["uri"] == "grey.png"]["image_id"].nunique() == 2


def test_a_file_with_a_new_date_and_its_old_bytes_changes_nothing(archive: Path, tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    ingest(config(archive, lake))
    before = [len(table) for table in outcomes(lake)]
    for name in ("grey.jpeg", "truncated.jpeg"):
        os.utime(archive / name, (1, 1))
    second = ingest(config(archive, lake))
    assert second.counts["unchanged"] == 1
    assert [len(table) for table in outcomes(lake)] == before
    third = ingest(config(archive, lake))
    assert third.counts["known"] == third.counts["inputs"]


def test_a_retry_reads_what_is_in_quarantine_and_nothing_else(archive: Path, tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    ingest(config(archive, lake, limits={"min_side": 161}))
    assert outcomes(lake)[0].empty
    (archive / "new.png").write_bytes(encoded("L", "PNG", PIXELS[:, ::-1]))
    labels = pd.read_csv(archive / "labels.csv", dtype=str)
    pd.concat([labels, pd.DataFrame([{"path": "new.png", "patient_id": "PID-SECRET-77"}])]).to_csv(
        archive / "labels.csv", index=False
    )
    unasked = ingest(config(archive, lake, retry=True, limits={"min_side": 161}))
    assert unasked.counts["left alone"] == 1
    asked = ingest(config(archive, lake, retry=True))
    studies, quarantine = outcomes(lake)
    good = {name for name, (_, reason) in INPUTS.items() if reason is None}
    assert set(studies["uri"]) == good
    assert not good & set(quarantine["uri"])
    assert len(studies) + len(quarantine) == len(INPUTS) + 1
    assert f"{len(quarantine)}; retry=true" in str(asked)
    assert ingest(config(archive, lake)).counts["studies"] == 1


def test_strict_makes_missing_images_an_error_before_any_work(archive: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"strict=true, and 1 of .* no image in the archive: row"):
        ingest(config(archive, tmp_path / "lake", strict=True))
    assert not (tmp_path / "lake").exists()


def test_the_same_bytes_with_other_labels_are_told_as_a_conflict(archive: Path, tmp_path: Path) -> None:
    rows = [{"path": name, "patient_id": "PID-1", "Mass": str(mass)} for mass, name in enumerate(("a.png", "b.png"))]
    for row in rows:
        (archive / row["path"]).write_bytes(encoded("L", "PNG"))
    pd.DataFrame(rows).to_csv(archive / "labels.csv", index=False)
    record = ingest(config(archive, tmp_path / "lake"))
    assert record.counts["duplicates with conflicting labels"] == 1
    _, quarantine = outcomes(tmp_path / "lake")
    assert quarantine["detail"].item().startswith("same bytes as a.png; conflicting labels in Mass:")


def test_the_summary_tells_the_findings_that_were_taken(archive: Path, tmp_path: Path) -> None:
    summary = str(ingest(config(archive, tmp_path / "lake")))
    studies = len(outcomes(tmp_path / "lake")[0])
    assert f"Mass {studies}/0" in summary


def test_a_lost_row_is_noticed(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    append = Table.append
    monkeypatch.setattr(Table, "append", lambda table, rows, *_: append(table, rows.limit(rows.count() - 1)))
    with pytest.raises(LakeError, match="books do not balance"):
        ingest(config(archive, tmp_path / "lake"))


def test_another_archive_of_the_same_name_is_refused_and_under_its_own_name_read(archive: Path, tmp_path: Path) -> None:
    lake, other = tmp_path / "lake", tmp_path / "other"
    ingest(config(archive, lake))
    shutil.copytree(archive, other)
    (other / "grey.png").write_bytes(encoded("L", "PNG", PIXELS[::-1]))
    with pytest.raises(LakeError, match=r"another archive.*dataset=NAME"):
        ingest(config(other, lake))
    ingest(config(other, lake, dataset="other"))
    studies, quarantine = outcomes(lake)
    assert len(studies) + len(quarantine) == 2 * (len(INPUTS) + 1)
    assert list(studies[studies["dataset"] == "other"]["uri"]) == ["grey.png"]


def test_another_key_is_refused(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ingest(config(archive, tmp_path / "lake"))
    monkeypatch.setenv(KEY_VARIABLE, "x" * 64)
    with pytest.raises(LakeError, match="key of the first ingest") as caught:
        ingest(config(archive, tmp_path / "lake"))
    assert "xxxx" not in str(caught.value)


def test_other_crop_settings_are_refused(archive: Path, tmp_path: Path) -> None:
    ingest(config(archive, tmp_path / "lake", crop={"finder": "projection"}))
    with pytest.raises(LakeError, match="unlike crops"):
        ingest(config(archive, tmp_path / "lake", dataset="more", crop={"finder": "projection", "margin": 0.2}))
    with pytest.raises(LakeError, match=r"there .*projection profiles.*\n  here .*; whole images; padded to a square"):
        ingest(config(archive, tmp_path / "lake", crop={"finder": "none", "fit": "pad"}))


def test_settings_that_come_to_the_same_crops_are_the_same_rules(archive: Path, tmp_path: Path) -> None:
    ingest(config(archive, tmp_path / "lake", crop={"finder": "projection"}))
    recommended = ProjectionFinder().min_quality
    ingest(config(archive, tmp_path / "lake", crop={"finder": "projection", "min_quality": recommended}))


def test_without_a_finder_images_are_whole_and_have_no_quality(archive: Path, tmp_path: Path) -> None:
    summary = str(ingest(config(archive, tmp_path / "lake", crop={"finder": "none", "size": 64})))
    studies, _ = outcomes(tmp_path / "lake")
    assert set(studies["cropper"]) == {"whole_image"}
    assert studies["lung_quality"].isna().all()
    assert all(box == {"left": 0, "top": 0, "right": 1, "bottom": 1} for box in studies["lung_box"])
    assert re.search(rf"crops +whole_image {len(studies)}$", summary, re.MULTILINE)


def test_the_summary_tells_croppers_and_images_kept_for_low_quality(archive: Path, tmp_path: Path) -> None:
    Image.fromarray(np.full((160, 160), 77, np.uint8)).save(archive / "grey.png")
    summary = str(ingest(config(archive, tmp_path / "lake")))
    studies, _ = outcomes(tmp_path / "lake")
    whole = (studies["cropper"] == "whole_image").sum()
    assert 0 < whole < len(studies)
    told = f"segmenter {len(studies) - whole}, whole_image (lung_quality too low) {whole}"
    assert re.search(rf"crops +{re.escape(told)}$", summary, re.MULTILINE)


def test_padded_crops_of_an_atlas_are_black_outside_the_lungs(archive: Path, tmp_path: Path) -> None:
    pytest.importorskip("cv2")
    write_pairs(tmp_path / "atlas", 6)
    crop = {"finder": "atlas", "atlas": str(tmp_path / "atlas"), "min_quality": 0, "fit": "pad", "mask_out": True}
    ingest(config(archive, tmp_path / "lake", crop=crop))
    studies, _ = outcomes(tmp_path / "lake")
    cropped = studies[studies["cropper"] == "atlas"]
    assert len(cropped) > len(studies) / 2
    for study in cropped.to_dict("records"):
        assert (decode_png(study["crop"]) == 0).mean() > 0.3
        box = study["lung_box"]
        assert box["right"] - box["left"] == pytest.approx(box["bottom"] - box["top"], abs=0.01)


@pytest.mark.parametrize(
    ("crop", "remedy"),
    [
        ({"mask_out": True, "finder": "projection"}, "crop.finder=segmenter or atlas"),
        ({"mask_out": True, "finder": "none"}, "crop.finder=segmenter or atlas"),
        ({"finder": "atlas"}, "give both, or neither"),
        ({"finder": "projection", "atlas": "somewhere"}, "give both, or neither"),
        ({"finder": "none", "weights": "somewhere"}, "take crop.finder=segmenter"),
        ({"finder": "atlas", "atlas": "nowhere"}, "there is no folder nowhere"),
        ({"finder": "segmenter", "weights": "nowhere"}, "weights nowhere can.t be read"),
    ],
)
def test_crops_that_can_not_be_made_are_refused_before_any_work(
    crop: dict[str, object], remedy: str, archive: Path, tmp_path: Path
) -> None:
    with pytest.raises(USER_ERRORS, match=remedy):
        ingest(config(archive, tmp_path / "lake", crop=crop))
    assert not (tmp_path / "lake").exists()


def test_a_patient_who_would_change_split_is_noticed(archive: Path, tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    ingest(config(archive, lake, val_fraction=0.0, test_fraction=0.0))
    (archive / "new.png").write_bytes(encoded("L", "PNG", PIXELS[:, ::-1]))
    labels = pd.read_csv(archive / "labels.csv", dtype=str)
    known = labels[labels["path"] == "grey.png"]["patient_id"].item()
    more = pd.DataFrame([{"path": "new.png", "patient_id": known, "split": "test"}])
    pd.concat([labels, more]).assign(split="test").to_csv(archive / "labels.csv", index=False)
    with pytest.raises(LakeError, match=r"1 patients .* another split"):
        ingest(config(archive, lake))
    assert "new.png" not in set(outcomes(lake)[0]["uri"])


def test_a_lake_whose_path_is_a_pattern_is_refused(archive: Path, tmp_path: Path) -> None:
    with pytest.raises(LakeError, match="pattern"):
        ingest(config(archive, tmp_path / "lake[1]"))


def test_a_run_without_its_marker_is_not_there(ingested_lake: Path, tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    shutil.copytree(ingested_lake, lake)
    studies, _ = outcomes(lake)
    run = next((lake / "studies").glob("run=*"))
    shutil.copytree(run, lake / "studies" / "run=20990101T000000000000-dead", ignore=shutil.ignore_patterns("_SUCCESS"))
    assert len(outcomes(lake)[0]) == len(studies)


def test_kermanys_layout_keeps_patients_whole_and_the_official_test(ingested_lake: Path) -> None:
    studies, quarantine = outcomes(ingested_lake)
    assert len(studies) + len(quarantine) == PHANTOM_STUDIES
    assert (studies.groupby("patient_key")["split"].nunique() == 1).all()
    assert set(studies["split"]) == {"train", "val", "test"}
    in_test_folder = studies["uri"].str.contains("/test/")
    assert (in_test_folder == (studies["split"] == "test")).all()


def test_run_json_tells_config_counts_timings_and_versions(ingested_lake: Path) -> None:
    (file,) = (ingested_lake / "studies" / "_jobs").glob("*/run.json")
    record = json.loads(file.read_text())
    assert record["config"]["val_fraction"] == 0.3
    assert record["counts"]["inputs"] == PHANTOM_STUDIES
    assert record["timings"]["ingest"] > 0
    assert {"pleura", "pyspark", "torch"} <= set(record["versions"])


def test_a_source_with_identifiers_needs_a_key(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY_VARIABLE)
    with pytest.raises(ConfigError, match="secret key"):
        ingest(config(archive, tmp_path / "lake"))
    assert not (tmp_path / "lake").exists()


def test_an_archive_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no archive"):
        ingest(config(tmp_path / "nowhere", tmp_path / "lake"))


def test_fractions_that_leave_no_train_are_refused(archive: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="below 1"):
        ingest(config(archive, tmp_path / "lake", val_fraction=0.5, test_fraction=0.5))


@pytest.mark.real
def test_real_full_resolution_radiographs_are_all_studies(real_data: Path, tmp_path: Path, spark: SparkSession) -> None:
    archive = real_data / "kermany_full_resolution"
    ingest(IngestConfig(source="kermany", archive=str(archive), lake=str(tmp_path / "lake")))
    studies, quarantine = outcomes(tmp_path / "lake")
    assert len(studies) == 150
    assert quarantine.empty
    assert studies["lung_quality"].median() > 0
