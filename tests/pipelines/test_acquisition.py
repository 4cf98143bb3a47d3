"""Hold-outs by acquisition: whole patients at one end of train, every label in its proportion, or a clear error."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_np
from synthetic_studies import study, write_lake, write_run

from featurizers.crops import decode_png, encode_png
from pipelines import film_measures
from pipelines.acquisition import (
    FEWEST,
    BackbonesHoldOut,
    HeldOut,
    HoldOutBy,
    HoldOutConfig,
    HoldOutSettings,
    choose_patients,
    hold_out,
)
from pipelines.config import model_from
from pipelines.errors import ConfigError, LakeError
from pipelines.folders import Folder
from pipelines.lake import Lake
from pipelines.splits import Split

SICK = {"pneumonia": 1, "normal": 0}
SOUND = {"pneumonia": 0, "normal": 1}
Rows = Sequence[dict[str, Any]]


def settings(by: str, share: float = 0.2) -> HoldOutSettings:
    return HoldOutSettings(HoldOutBy(by), share)


def held_numbers(lake: Lake, rows: Rows, wanted: HoldOutSettings) -> list[int]:
    """The places in `rows` of the images that are held out."""
    held = hold_out(lake, wanted)
    return np.flatnonzero(held.holds(np.array([row["image_id"] for row in rows]))).tolist()


def crop(grey: int = 120, contrast: int = 10, black_rows: int = 0) -> bytes:
    pixels = np.full((32, 32), grey - contrast, np.uint8)
    pixels[:, ::2] = grey + contrast
    pixels[:black_rows] = 0
    return encode_png(pixels)


def plain(images: int, column: Callable[[int], dict[str, Any]]) -> Rows:
    """Images of a patient each, sick and sound by turns; `column` tells of the number what else."""
    return [study(number, findings=SICK if number % 2 else SOUND, **column(number)) for number in range(images)]


def of_size(number: int) -> dict[str, Any]:
    return {"width": 1000 + 10 * number, "height": 1000 + 10 * number}


# Whatever the rule, of 40 images those from 32 on are at the end that is held out.
RULES: dict[str, Callable[[int], dict[str, Any]]] = {
    "series": lambda number: {"uri": f"{('sound', 'sick')[number % 2]}/film-{39 - number:04}-0001.jpeg"},
    "size": of_size,
    "exposure": lambda number: {"crop": crop(grey=60 + 3 * number)},
    "border": lambda number: {"crop": crop(black_rows=number // 2)},
}


@pytest.mark.parametrize("by", RULES)
def test_one_end_is_held_out_and_every_label_in_its_proportion(tmp_path: Path, by: str) -> None:
    rows = plain(40, RULES[by])
    lake = write_lake(tmp_path / "lake", [rows])
    held = hold_out(lake, settings(by))
    assert held_numbers(lake, rows, settings(by)) == list(range(32, 40))
    assert (held.patients, held.of_patients) == (8, 40)
    assert f"by {by} (" in held.describe()
    assert "8 images of 8 of the 40 patients of train count as val" in held.describe()


def test_a_label_that_looks_otherwise_is_not_all_that_is_held_out(tmp_path: Path) -> None:
    """Sound films are all larger than sick ones, as in Kermany's set."""
    rows = plain(60, lambda number: of_size(number + 1000 * (number % 2 == 0)))
    lake = write_lake(tmp_path / "lake", [rows])
    assert Counter(number % 2 for number in held_numbers(lake, rows, settings("size"))) == {0: 6, 1: 6}


def test_numbers_count_within_their_series_and_data_set_alone(tmp_path: Path) -> None:
    names = ("IM-{0:04}-0001.jpeg", "NORMAL2-IM-{0:04}-0001-0002.jpeg", "person{0}_bacteria_7.jpeg")
    rows = [
        study(
            100 * series + number,
            uri=name.format(100 * series + number),
            dataset="second" if series == 2 else "first",
            findings=SOUND,
        )
        for series, name in enumerate(names)
        for number in range(20)
    ]
    lake = write_lake(tmp_path / "lake", [rows])
    expected = [20 * series + number for series in range(3) for number in range(4)]
    assert held_numbers(lake, rows, settings("series")) == expected


def test_numbers_are_numbers_and_not_text(tmp_path: Path) -> None:
    rows = plain(40, lambda number: {"uri": f"person{number + 5}_virus_1.jpeg"})
    lake = write_lake(tmp_path / "lake", [rows])
    assert held_numbers(lake, rows, settings("series")) == list(range(8))


def test_patients_are_whole_and_only_train_is_divided(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = [
        study(
            number,
            patient_key=f"{number // 3:064x}",
            split=("train", "train", "train", "val", "test")[number // 3 % 5],
            findings=SICK if number // 3 % 2 else SOUND,
            width=int(rng.integers(500, 3000)),
        )
        for number in range(600)
    ]
    lake = write_lake(tmp_path / "lake", [rows])
    held = hold_out(lake, settings("size", 0.3))
    ids = np.array([row["image_id"] for row in rows])
    before = np.array([list(Split).index(row["split"]) for row in rows], np.int8)
    after = held.moved(ids, before)
    assert after.dtype == before.dtype
    sides: dict[str, set[int]] = {}
    for row, split in zip(rows, after.tolist(), strict=True):
        sides.setdefault(row["patient_key"], set()).add(split)
    assert all(len(each) == 1 for each in sides.values())
    was_train, is_val = before == 0, after == 1
    np.testing.assert_array_equal(after[~was_train], before[~was_train])
    np.testing.assert_array_equal(held.holds(ids), was_train & is_val)
    assert (was_train & is_val).sum() == 3 * held.patients
    assert abs((was_train & is_val).sum() / was_train.sum() - 0.3) < 0.03
    parts = held.acquisition(ids[is_val])
    assert Counter(parts.tolist()) == {"as train": 120, "held out by size": 3 * held.patients}


def test_the_same_whatever_the_order_of_rows_and_files(tmp_path: Path) -> None:
    rows = plain(80, lambda number: {"crop": crop(grey=40 + number // 4 * 5), "width": 1000 + number // 8})
    shuffled = [rows[place] for place in np.random.default_rng(1).permutation(len(rows))]
    one = write_lake(tmp_path / "one", [rows])
    other = write_lake(tmp_path / "other", [shuffled[:30], [], shuffled[30:]], row_group=7)
    for by in ("exposure", "size"):
        first, second = hold_out(one, settings(by)), hold_out(other, settings(by))
        assert first.image_ids.to_pylist() == second.image_ids.to_pylist()
        assert first.sha256 == second.sha256
        assert first.as_dict() == second.as_dict()


def test_films_alike_stay_together(tmp_path: Path) -> None:
    """Six sizes of ten: what is nearest to a quarter of them is one size, or two."""
    rows = [study(number, findings=SOUND, width=500 * (1 + number // 10), height=500) for number in range(60)]
    lake = write_lake(tmp_path / "lake", [rows])
    assert held_numbers(lake, rows, settings("size", 0.22)) == list(range(50, 60))
    assert held_numbers(lake, rows, settings("size", 0.3)) == list(range(40, 60))


def test_exposure_does_not_look_at_the_border(tmp_path: Path) -> None:
    rows = plain(40, lambda number: {"crop": crop(grey=60 + 3 * number, black_rows=number * 7 % 16)})
    lake = write_lake(tmp_path / "lake", [rows])
    assert held_numbers(lake, rows, settings("exposure")) == list(range(32, 40))


@pytest.mark.parametrize("by", ["exposure", "border"])
def test_a_damaged_crop_has_no_place_and_ends_nothing(tmp_path: Path, by: str) -> None:
    damaged = {3, 37}
    rows = plain(40, lambda number: RULES[by](number) | ({"crop": b"none"} if number in damaged else {}))
    lake = write_lake(tmp_path / "lake", [rows])
    for _ in range(2):
        held = hold_out(lake, settings(by))
        # Of each label four, and 37 is none of them.
        assert held_numbers(lake, rows, settings(by)) == [*range(31, 37), 38, 39]
        assert held.damaged == 2
        assert held.describe().endswith("; damaged crops have no place: 2 (jobs/audit_lake.py tells which)")


def test_a_damaged_crop_goes_with_its_patients_other_images(tmp_path: Path) -> None:
    rows = [
        study(number, patient_key=f"{number // 2:064x}", findings=SOUND, **RULES["exposure"](number // 2))
        for number in range(80)
    ]
    rows[79]["crop"] = rows[0]["crop"] = b"none"
    lake = write_lake(tmp_path / "lake", [rows])
    assert held_numbers(lake, rows, settings("exposure")) == list(range(64, 80))


def test_a_damaged_file_is_told_with_its_remedy(tmp_path: Path) -> None:
    rows = plain(40, RULES["border"])
    lake = write_lake(tmp_path / "lake", [rows])
    (file,) = Path(lake.studies.folder.runs()[0].path).glob("*.parquet")
    metadata = pq.read_metadata(file).row_group(0)
    (crops,) = (
        metadata.column(at) for at in range(metadata.num_columns) if metadata.column(at).path_in_schema == "crop"
    )
    with file.open("r+b") as opened:
        opened.seek(crops.dictionary_page_offset or crops.data_page_offset)
        opened.write(b"\xff" * crops.total_compressed_size)
    with pytest.raises(LakeError, match=r"can't be read.*ingest its archive again"):
        hold_out(lake, settings("border"))


# --- measures are kept ------------------------------------------------------------------------------------------------


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The crops that are decoded."""
    seen: list[bytes] = []

    def tell(content: bytes) -> Any:
        seen.append(content)
        return decode_png(content)

    monkeypatch.setattr(film_measures, "decode_png", tell)
    return seen


@pytest.mark.parametrize("by", ["exposure", "border"])
def test_crops_are_decoded_once_and_damaged_ones_tried_again(tmp_path: Path, by: str, decoded: list[bytes]) -> None:
    rows = plain(40, lambda number: RULES[by](number) | ({"crop": b"none"} if number == 5 else {}))
    lake = write_lake(tmp_path / "lake", [rows], row_group=7)
    first = hold_out(lake, settings(by))
    assert len(decoded) == 40
    again = hold_out(lake, settings(by))
    assert decoded[40:] == [b"none"]
    assert again.as_dict() == first.as_dict()
    assert hold_out(lake, settings(by, 0.4)).patients > first.patients
    assert len(decoded) == 42


def test_another_run_of_studies_is_measured_anew_and_the_old_measures_go(tmp_path: Path, decoded: list[bytes]) -> None:
    lake = write_lake(tmp_path / "lake", [plain(40, RULES["border"])])
    hold_out(lake, settings("border"))
    folder = tmp_path / "lake" / film_measures.MEASURES
    (before,) = folder.iterdir()
    write_run(lake.studies, [plain(60, RULES["border"])[40:]])
    held = hold_out(lake, settings("border"))
    assert len(decoded) == 40 + 60
    (after,) = folder.iterdir()
    assert before.name != after.name
    alone = write_lake(tmp_path / "alone", [plain(60, RULES["border"])])
    assert held.sha256 == hold_out(alone, settings("border")).sha256


@pytest.mark.parametrize("content", [b"", b"PAR1 and no more", None])
def test_measures_that_can_not_be_read_are_measured_anew(
    tmp_path: Path, decoded: list[bytes], content: bytes | None
) -> None:
    lake = write_lake(tmp_path / "lake", [plain(40, RULES["border"])])
    held = hold_out(lake, settings("border"))
    (file,) = (tmp_path / "lake" / film_measures.MEASURES).iterdir()
    if content is None:
        pq.write_table(pa.table({"another": [1]}), file)
    else:
        file.write_bytes(content)
    assert hold_out(lake, settings("border")).sha256 == held.sha256
    assert len(decoded) == 80
    hold_out(lake, settings("border"))
    assert len(decoded) == 80


def test_a_lake_that_can_not_be_written_to_is_only_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decoded: list[bytes]
) -> None:
    lake = write_lake(tmp_path / "lake", [plain(40, RULES["border"])])

    def refuse(folder: Folder, name: str, content: bytes) -> None:
        raise PermissionError(f"{folder.uri}/{name} is read-only")

    monkeypatch.setattr(Folder, "write", refuse)
    first, second = (hold_out(lake, settings("border")) for _ in range(2))
    assert first.sha256 == second.sha256
    assert len(decoded) == 80
    assert not (tmp_path / "lake" / film_measures.MEASURES).exists()


def test_many_may_measure_at_once(tmp_path: Path) -> None:
    lake = write_lake(tmp_path / "lake", [plain(40, RULES["border"])])
    with ThreadPoolExecutor(8) as pool:
        found = {held.sha256 for held in pool.map(lambda _: hold_out(lake, settings("border")), range(16))}
    assert len(found) == 1
    assert len(list((tmp_path / "lake" / film_measures.MEASURES).iterdir())) == 1


def test_what_only_a_part_can_give_is_told(tmp_path: Path) -> None:
    rows = plain(60, lambda number: of_size(number if number % 2 else 0))
    lake = write_lake(tmp_path / "lake", [rows])
    held = hold_out(lake, settings("size", 0.4))
    assert held.patients == 12
    assert held.describe().endswith("; nobody of first (normal), too much alike")


def test_labels_of_few_patients_are_ranked_together(tmp_path: Path) -> None:
    """Twenty labels of two patients each would give nobody."""
    rows = [study(number, findings={f"finding {number % 20}": 1}, **of_size(number)) for number in range(40)]
    lake = write_lake(tmp_path / "lake", [rows])
    assert held_numbers(lake, rows, settings("size")) == list(range(32, 40))


def alike(number: int) -> dict[str, Any]:
    return {"crop": crop(), "uri": f"{number:032x}.png"}


@pytest.mark.parametrize(
    ("by", "images", "column", "message"),
    [
        ("series", 40, alike, "are pseudonyms, which tell no series: hold out by size, exposure or border"),
        ("series", 40, lambda number: {"uri": f"{chr(97 + number % 26) * (1 + number)}/1.png"}, "share no series"),
        ("size", 40, alike, r"size with share 0.2 can hold out 0 of the 40 images of train: originals are too much of"),
        ("exposure", 40, alike, "films are too alike in exposure.*another rule"),
        ("border", 40, alike, "films are too alike in how much black.*another rule"),
        ("size", FEWEST - 1, of_size, f"needs at least {FEWEST} patients in train, and there are {FEWEST - 1}"),
        ("exposure", 0, alike, "there are 0: ingest more"),
        ("exposure", 40, lambda number: {"crop": b"none"}, "damaged crops have no place: 40 .*jobs/audit_lake.py"),
    ],
)
def test_what_can_not_be_held_out_is_told_with_the_way_out(
    tmp_path: Path, by: str, images: int, column: Callable[[int], dict[str, Any]], message: str
) -> None:
    lake = write_lake(tmp_path / "lake", [[*plain(images, column), study(1000, split="val")]])
    with pytest.raises(LakeError, match=message):
        hold_out(lake, settings(by))


def test_without_a_hold_out_nobody_is_moved(tmp_path: Path) -> None:
    lake = write_lake(tmp_path / "lake", [plain(4, alike)])
    held = hold_out(lake, HoldOutConfig().settings())
    ids, splits = np.array([study(0)["image_id"]]), np.zeros(1, np.int8)
    assert held.moved(ids, splits).tolist() == [0]
    assert held.describe() == ""
    assert held.as_dict()["by"] == "none"


@given(st.data())
def test_of_every_stratum_the_highest_places_are_chosen_and_nobody_else(data: st.DataObject) -> None:
    number = data.draw(st.integers(1, 120))
    strata = data.draw(st_np.arrays(np.int64, number, elements=st.integers(-1, 2)))
    patients = np.unique(data.draw(st_np.arrays(np.int64, number, elements=st.integers(0, 40))), return_inverse=True)[
        1
    ].astype(np.int64)
    # A patient's images are of one stratum here, so that the rule can be said in a line.
    strata = strata[np.unique(patients, return_index=True)[1]][patients]
    places = np.where(strata < 0, np.nan, data.draw(st_np.arrays(np.int64, number, elements=st.integers(0, 9))) / 9)
    share = data.draw(st.floats(0.05, 0.5))
    chosen, left_out = choose_patients(places, strata, patients, share)
    mean = np.bincount(patients, np.nan_to_num(places)) / np.bincount(patients)
    of = strata[np.unique(patients, return_index=True)[1]]
    assert not chosen[of < 0].any()
    for stratum in range(3):
        members = of == stratum
        held, kept = members & chosen, members & ~chosen
        if not held.any():
            assert (stratum in left_out) == (members.sum() >= FEWEST)
            continue
        assert mean[held].min() > mean[kept].max()
        images = np.isin(patients, np.flatnonzero(held)).sum() / (strata == stratum).sum()
        assert 0.5 * share <= images <= 2 * share


def test_a_backbones_own_hold_out_is_the_default_and_another_is_told(tmp_path: Path) -> None:
    rows = plain(40, lambda number: of_size(number) | {"crop": crop(grey=200 - 3 * number)})
    lake = write_lake(tmp_path / "lake", [rows])
    by_size = hold_out(lake, settings("size"))
    backbones = BackbonesHoldOut.of_card({"hold_out": by_size.as_dict()})
    assert HoldOutConfig().settings(backbones.settings) == by_size.settings
    assert HoldOutConfig(by=HoldOutBy.NONE).settings(backbones.settings).by == "none"
    assert backbones.warning(by_size) is None
    # From the lake's own val nothing is ever learned.
    assert backbones.warning(HeldOut()) is None
    for other in (hold_out(lake, settings("exposure")), hold_out(lake, settings("size", 0.3))):
        assert "the backbone was fine-tuned with hold_out.by=size, share 0.2" in str(backbones.warning(other))
    grown = write_lake(tmp_path / "grown", [rows, plain(60, of_size)[40:]])
    assert "other images here" in str(backbones.warning(hold_out(grown, settings("size"))))


def test_a_backbone_tuned_without_a_hold_out_has_seen_whom_a_head_holds_out(tmp_path: Path) -> None:
    lake = write_lake(tmp_path / "lake", [plain(40, of_size)])
    tuned = BackbonesHoldOut.of_card({"hold_out": HeldOut().as_dict()})
    assert tuned.warning(HeldOut()) is None
    assert "fine-tuned with hold_out.by=none" in str(tuned.warning(hold_out(lake, settings("size"))))


def test_what_the_start_of_a_backbone_has_seen_stays_with_all_that_comes_of_it(tmp_path: Path) -> None:
    """First fine-tuned on all, then with a hold-out, then with the same: the second and third have seen it too."""
    lake = write_lake(tmp_path / "lake", [plain(40, of_size)])
    held = hold_out(lake, settings("size"))
    first = BackbonesHoldOut.of_card({"hold_out": HeldOut().as_dict(), "caution": None})
    caution = first.warning(held)
    second = BackbonesHoldOut.of_card({"hold_out": held.as_dict(), "caution": caution})
    later = second.warning(held)
    assert later == f"of the weights that it started from: {caution}"
    third = BackbonesHoldOut.of_card({"hold_out": held.as_dict(), "caution": later})
    assert third.warning(held) == later
    both = str(third.warning(hold_out(lake, settings("size", 0.3))))
    assert both.startswith("the backbone was fine-tuned with hold_out.by=size")
    assert both.endswith(later)
    assert BackbonesHoldOut.of_card({"caution": caution}).warning(HeldOut()) == later


@pytest.mark.parametrize("card", [{}, {"hold_out": None}])
def test_a_backbone_as_it_came_has_seen_nobody(tmp_path: Path, card: dict[str, Any]) -> None:
    lake = write_lake(tmp_path / "lake", [plain(40, of_size)])
    backbones = BackbonesHoldOut.of_card(card)
    assert HoldOutConfig().settings(backbones.settings).by == "none"
    assert backbones.warning(hold_out(lake, settings("size"))) is None


@pytest.mark.parametrize("told", [{"by": "moon", "share": 0.2}, {"by": "size"}, "size", {"by": "size", "share": "x"}])
def test_a_card_that_says_something_else_is_told(told: object) -> None:
    with pytest.raises(LakeError, match="which this version does not know"):
        BackbonesHoldOut.of_card({"hold_out": told})


@pytest.mark.parametrize("wrong", [{"by": "moon"}, {"share": 0}, {"share": 0.6}, {"part": 1}])
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        model_from(HoldOutConfig, wrong)


def test_ids_may_be_a_column(tmp_path: Path) -> None:
    rows = plain(40, of_size)
    held = hold_out(write_lake(tmp_path / "lake", [rows]), settings("size"))
    ids = [row["image_id"] for row in rows]
    np.testing.assert_array_equal(held.holds(pa.chunked_array([ids[:3], ids[3:]])), held.holds(np.array(ids)))
