"""Pairs of radiographs and lung masks: how they are found, what they must be, and who is in which split."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from mask_folders import write_pair, write_pairs, write_table

from featurizers.errors import FeaturizerError
from featurizers.mask_pairs import MaskPair, list_pairs, split_patients

GREY = np.full((40, 50), 90)
LUNG = np.zeros((40, 50))
LUNG[10:30, 10:40] = 255
COLUMNS = ("image", "mask", "patient", "label")


def one_pair(folder: Path, mask: np.ndarray = LUNG) -> MaskPair:
    write_pair(folder, "a.png", GREY, "a.png", mask)
    return list_pairs(folder)[0]


def test_a_mask_belongs_to_the_image_of_its_name(tmp_path: Path) -> None:
    for image, mask in (("b.jpeg", "b.png"), ("a.png", "a.png"), ("alone.png", "other.png")):
        write_pair(tmp_path, image, GREY, mask, LUNG)
    (tmp_path / "images" / ".hidden").write_bytes(b"")
    (tmp_path / "masks" / ".hidden").write_bytes(b"")
    pairs = list_pairs(tmp_path)
    assert [(pair.image.name, pair.mask.name, pair.patient, pair.label) for pair in pairs] == [
        ("a.png", "a.png", "a", ""),
        ("b.jpeg", "b.png", "b", ""),
    ]


def test_a_table_tells_patients_and_classes(tmp_path: Path) -> None:
    pairs = list_pairs(write_pairs(tmp_path, 4, per_patient=2))
    assert [pair.patient for pair in pairs] == ["patient-0", "patient-0", "patient-1", "patient-1"]
    assert [pair.label for pair in pairs] == ["normal", "viral", "bacterial", "normal"]


def test_what_the_annotator_could_not_tell_is_neither_lung_nor_counted(tmp_path: Path) -> None:
    mask = LUNG.copy()
    mask[:5] = 127
    pixels, lung, counted = one_pair(tmp_path, mask).read()
    assert pixels.shape == lung.shape == counted.shape == (40, 50)
    assert lung.sum() == 20 * 30
    assert not lung[:5].any()
    assert not counted[:5].any()
    assert counted[5:].all()


@pytest.mark.parametrize(
    ("mask", "told"),
    [(np.zeros((40, 50)), "shows no lung"), (np.ones((40, 50)), "shows no lung"), (LUNG[:20], "own size")],
)
def test_a_mask_that_can_not_be_used_is_told(tmp_path: Path, mask: np.ndarray, told: str) -> None:
    with pytest.raises(FeaturizerError, match=told):
        one_pair(tmp_path, mask).read()


@pytest.mark.parametrize("damage", [b"", b"no image", "half", "giant"])
def test_a_damaged_mask_is_told(tmp_path: Path, damage: bytes | str) -> None:
    pair = one_pair(tmp_path)
    whole = pair.mask.read_bytes()
    if damage == "half":
        damage = whole[: len(whole) // 2]
    if damage == "giant":
        damage = b"BM" + bytes(8) + (54).to_bytes(4, "little") + (40).to_bytes(4, "little")
        damage += (50_000).to_bytes(4, "little") * 2 + b"\1\0\x18\0" + bytes(24)
    assert isinstance(damage, bytes)
    pair.mask.write_bytes(damage)
    with pytest.raises(FeaturizerError, match=r"can't be read.*replace"):
        pair.read()


@pytest.mark.parametrize(
    ("columns", "row", "told"),
    [
        (("image", "mask"), ("a.png", "a.png"), "lacks the column patient"),
        (COLUMNS, ("a.png", "", "p", "x"), "no mask in line 2"),
        (COLUMNS, ("a.png", "a.png"), "no patient in line 2"),
        (COLUMNS, ("b.png", "a.png", "p", "x"), "b.png, which is not in"),
        (COLUMNS, ("a.png", "b.png", "p", "x"), "b.png, which is not in"),
    ],
)
def test_a_table_that_does_not_fit_is_told(
    tmp_path: Path, columns: tuple[str, ...], row: tuple[str, ...], told: str
) -> None:
    one_pair(tmp_path)
    write_table(tmp_path, columns, [row])
    with pytest.raises(FeaturizerError, match=told):
        list_pairs(tmp_path)


def test_a_table_in_another_encoding_is_told(tmp_path: Path) -> None:
    one_pair(tmp_path)
    (tmp_path / "pairs.csv").write_bytes("image,mask,patient\na.png,a.png,Jörg".encode("latin-1"))
    with pytest.raises(FeaturizerError, match="UTF-8"):
        list_pairs(tmp_path)


def test_folders_without_pairs_are_told(tmp_path: Path) -> None:
    with pytest.raises(FeaturizerError, match="images/ and their lung masks into masks/"):
        list_pairs(tmp_path)
    write_pair(tmp_path, "a.png", GREY, "b.png", LUNG)
    with pytest.raises(FeaturizerError, match="no mask has the name"):
        list_pairs(tmp_path)


def patients(number: int, images: int = 2) -> list[MaskPair]:
    return [MaskPair(Path(f"{n}-{i}"), Path("m"), f"patient-{n}", "") for n in range(number) for i in range(images)]


def test_a_patient_is_in_one_split_and_every_pair_in_one() -> None:
    pairs = patients(500)
    split = split_patients(pairs)
    assert sorted(pair.image for part in split for pair in part) == sorted(pair.image for pair in pairs)
    train, val, test = ({pair.patient for pair in part} for part in split)
    assert not (train & val or train & test or val & test)
    assert [len(part) / len(pairs) for part in split] == pytest.approx([0.7, 0.1, 0.2], abs=0.05)


def test_a_patient_stays_where_he_is_whoever_else_comes() -> None:
    few, many = split_patients(patients(20)), split_patients(patients(200))
    for before, after in zip(few, many, strict=True):
        assert set(before) <= set(after)


def test_the_split_is_by_the_patient_alone() -> None:
    # CRC-32 of "patient-1" is 2,500,870,048: an 8 at its end, so that he tests, whatever his image is called.
    (pair,) = patients(2, images=1)[1:]
    assert split_patients([pair, replace(pair, image=Path("other"))]).test == [pair, replace(pair, image=Path("other"))]
