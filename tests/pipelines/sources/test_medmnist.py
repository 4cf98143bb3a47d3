"""MedMNIST's files: every label, the files' own splits, and the mistakes that are told before any work starts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipelines.errors import SourceError
from pipelines.folders import Folder
from pipelines.npz_images import NpzImages
from pipelines.phantoms import PhantomsConfig, write_phantoms
from pipelines.sources.chestxray14 import CHESTXRAY14_LABELS
from pipelines.sources.medmnist import MedMnistSource
from pipelines.splits import Split


def source(folder: Path) -> MedMnistSource:
    return MedMnistSource(Folder.at(str(folder)))


def arrays(columns: int = 14, side: int = 4, images: int = 3) -> dict[str, np.ndarray]:
    labels = np.arange(images * columns, dtype=np.uint8).reshape(images, columns) % 2
    return {f"{split}_images": np.zeros((images, side, side), np.uint8) for split in Split} | {
        f"{split}_labels": labels for split in Split
    }


def test_phantoms_come_out_with_the_labels_they_went_in_with(tmp_path: Path) -> None:
    config = PhantomsConfig(out=str(tmp_path), studies=40, layout="medmnist", long_side=28)
    archive = write_phantoms(config, lambda done, total: None)
    medmnist = source(tmp_path)
    contents = medmnist.check()
    records = list(medmnist.records())
    assert contents.records == contents.label_rows == len(records) == 40
    assert contents.missing == 0
    drawn = {count.finding: count.images for count in archive.counts if count.finding != "normal"}
    told = {name: sum(record.findings[name] for record in records) for name in CHESTXRAY14_LABELS}
    assert drawn == {name: total for name, total in told.items() if total}
    assert all(set(record.findings) == set(CHESTXRAY14_LABELS) for record in records)
    assert {record.split for record in records} == medmnist.official_splits == set(Split)
    assert len({record.patient_id for record in records}) == 40
    assert len({record.version for record in records}) == 1
    assert records[0].version
    assert medmnist.is_public


def test_every_path_leads_to_its_image(tmp_path: Path) -> None:
    content = arrays()
    for split in Split:
        content[f"{split}_images"] = np.random.default_rng(len(split)).integers(0, 256, (3, 4, 4), dtype=np.uint8)
    np.savez_compressed(tmp_path / "chestmnist_64.npz", **content)
    images = NpzImages(Folder.at(str(tmp_path)))
    records = list(source(tmp_path).records())
    expected = [content[f"{split}_images"][index].tobytes() for split in Split for index in range(3)]
    assert [images.read(record.path)[-16:] for record in records] == expected


def test_pneumonia_or_normal(tmp_path: Path) -> None:
    np.savez(tmp_path / "pneumoniamnist.npz", **arrays(columns=1, images=2))
    findings = [record.findings for record in source(tmp_path).records()]
    assert findings[:2] == [{"normal": 1, "pneumonia": 0}, {"normal": 0, "pneumonia": 1}]


def test_both_sets_in_one_folder_keep_their_patients_apart(tmp_path: Path) -> None:
    np.savez(tmp_path / "chestmnist.npz", **arrays())
    np.savez(tmp_path / "pneumoniamnist_128.npz", **arrays(columns=1))
    np.savez(tmp_path / "breastmnist.npz", **arrays(columns=1))
    medmnist = source(tmp_path)
    assert medmnist.check().records == 18
    assert len({record.patient_id for record in medmnist.records()}) == 18


def test_other_bytes_are_another_version(tmp_path: Path) -> None:
    versions = set()
    for images in (2, 3):
        np.savez(tmp_path / "chestmnist.npz", **arrays(images=images))
        versions |= {record.version for record in source(tmp_path).records()}
    assert len(versions) == 2


def test_several_sizes_of_a_set_are_refused(tmp_path: Path) -> None:
    for name in ("chestmnist.npz", "chestmnist_224.npz"):
        np.savez(tmp_path / name, **arrays())
    with pytest.raises(SourceError, match=r"chestmnist\.npz, chestmnist_224\.npz hold the same images.*Leave one"):
        source(tmp_path).check()


def test_a_file_is_no_archive(tmp_path: Path) -> None:
    np.savez(tmp_path / "chestmnist.npz", **arrays())
    with pytest.raises(SourceError, match="Give its folder"):
        source(tmp_path / "chestmnist.npz").check()


def test_files_below_the_top_folder_are_none_of_it(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    np.savez(tmp_path / "old" / "chestmnist.npz", **arrays())
    with pytest.raises(SourceError, match=r"chestmnist\.npz or pneumoniamnist\.npz"):
        source(tmp_path).check()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"val_labels": None}, r"no val_labels\.npy"),
        ({"test_images": None}, r"no test_images\.npy"),
        ({"train_labels": np.zeros((3, 1), np.uint8)}, "labels of train .* 14 column"),
        ({"train_labels": np.full((3, 14), 2, np.uint8)}, "labels of train"),
        ({"val_images": np.zeros((2, 4, 4), np.uint8)}, "images of val .* 3 of grey bytes"),
        ({"val_images": np.zeros((3, 4, 4, 3), np.uint8)}, "images of val"),
        ({"val_images": np.zeros((3, 4, 4), np.float32)}, "images of val .* float32"),
        ({"test_labels": np.array([["a"]], dtype=object)}, "damaged"),
    ],
)
def test_a_file_of_another_make_is_refused(tmp_path: Path, changes: dict[str, np.ndarray | None], message: str) -> None:
    content = {name: array for name, array in (arrays() | changes).items() if array is not None}
    np.savez(tmp_path / "chestmnist.npz", **content)
    with pytest.raises(SourceError, match=message):
        source(tmp_path).check()


@pytest.mark.parametrize("keep", [0, 100, -30])
def test_a_damaged_file_is_refused(tmp_path: Path, keep: int) -> None:
    np.savez_compressed(tmp_path / "whole.npz", **arrays())
    (tmp_path / "chestmnist.npz").write_bytes((tmp_path / "whole.npz").read_bytes()[:keep])
    with pytest.raises(SourceError, match=r"chestmnist\.npz.*damaged.*again"):
        source(tmp_path).check()


@pytest.mark.real
def test_the_real_file_has_its_counts(real_data: Path) -> None:
    medmnist = source(real_data)
    records = list(medmnist.records())
    assert medmnist.check().records == len(records) == 2428 + 270 + 468
    for split, count, pneumonia in ((Split.TRAIN, 2428, 1214), (Split.VAL, 270, 135), (Split.TEST, 468, 234)):
        part = [record for record in records if record.split is split]
        assert len(part) == count
        assert sum(record.findings["pneumonia"] for record in part) == pneumonia
        assert all(record.findings["normal"] == 1 - record.findings["pneumonia"] for record in part)
