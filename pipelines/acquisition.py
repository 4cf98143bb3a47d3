"""Hold-outs by acquisition: patients of train whose films were taken apart from the others, for an honest val split.

Patients drawn by chance were filmed on the machines, in the weeks and at the exposures of those that a model has seen,
so figures on them say nothing of a hospital's next machine. Those at one end of what the films tell of how they were
taken (file numbers, size, exposure, black borders) are as near to another machine as one archive gets.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, Self, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field
from scipy.stats import rankdata

from pipelines.answers import patient_numbers, text_codes
from pipelines.config import Config
from pipelines.errors import LakeError
from pipelines.film_measures import FilmMeasure, Measures, measure_films
from pipelines.lake import Lake
from pipelines.pseudonyms import URI_KEY_LENGTH
from pipelines.splits import Split

#: Key of an extractor's or a backbone's card: with which hold-out the backbone was fine-tuned.
HOLD_OUT_KEY: Final = "hold_out"
#: The same card's: why val may hold images that the weights have learned, if it may.
CAUTION_KEY: Final = "caution"
_EARLIER: Final = "of the weights that it started from: "
#: The attribute of val rows by which reports show what was held out apart from the rest.
ACQUISITION: Final = "acquisition"
AS_TRAIN: Final = "as train"
#: Fewer patients are not ranked among themselves: of a label, they are ranked with other rare ones.
FEWEST: Final = 10
#: Ranks are sums of fractions: what differs by less is equal.
_DIGITS: Final = 9
#: Films alike are held out together or not at all, so the share held out is never exact: it is a failure beyond these.
_LEAST, _MOST = 0.5, 2.0
_TOLD: Final = 3
_PSEUDONYM: Final = re.compile(rf"[0-9a-f]{{{URI_KEY_LENGTH}}}(\.\w+)?")
_LETTERS: Final = re.compile(r"[^\W\d_]+")

Rows: TypeAlias = npt.NDArray[np.bool_]
Numbers: TypeAlias = npt.NDArray[np.int64]


class HoldOutBy(StrEnum):
    """What of a film's acquisition decides, and which end is held out."""

    NONE = "none"
    SERIES = "series"
    SIZE = "size"
    EXPOSURE = "exposure"
    BORDER = "border"


#: What is held out, in words.
_ENDS: Final[Mapping[HoldOutBy, str]] = {
    HoldOutBy.SERIES: "the lowest file numbers of each series",
    HoldOutBy.SIZE: "the largest originals",
    HoldOutBy.EXPOSURE: "the brightest films",
    HoldOutBy.BORDER: "the films with the most black",
}


@dataclass(frozen=True)
class HoldOutSettings:
    """A hold-out.

    Attributes:
        by: the rule.
        share: of the images of train.
    """

    by: HoldOutBy
    share: float

    def __str__(self) -> str:
        return str(self.by) if self.by is HoldOutBy.NONE else f"{self.by}, share {self.share:g}"


NOBODY: Final = HoldOutSettings(HoldOutBy.NONE, 0.0)


class HoldOutConfig(Config):
    """Whom a job holds out."""

    by: HoldOutBy | None = Field(
        None,
        description="patients of train that count as val because their films were taken apart: none, or those at one "
        "end by file number (series), the original's size, exposure, black border; null: as the backbone was "
        "fine-tuned, if it was",
    )
    share: float = Field(
        0.2,
        gt=0,
        le=0.5,
        description="of each label's images of train, in whole patients, where hold_out.by names a rule",
    )

    @classmethod
    def of(cls, settings: HoldOutSettings) -> Self:
        """The config that says so, whatever the backbone was fine-tuned with."""
        return cls(by=settings.by) if settings.by is HoldOutBy.NONE else cls(by=settings.by, share=settings.share)

    def settings(self, backbones: HoldOutSettings | None = None) -> HoldOutSettings:
        """What is wanted; where nothing is said, what the backbone was fine-tuned with, if it was."""
        if self.by is None:
            return backbones or NOBODY
        return NOBODY if self.by is HoldOutBy.NONE else HoldOutSettings(self.by, self.share)


@dataclass(frozen=True, repr=False)
class HeldOut:
    """The patients that a hold-out takes out of train.

    Attributes:
        settings: of the hold-out.
        image_ids: their images, sorted; empty without a hold-out.
        patients: how many they are.
        of_patients: how many patients train had.
        nobody_of: data sets and labels whose films are too alike for any to be held out, in words.
        damaged: images of train whose crops the rule looks at and can't read. They have no place among the others, so
            that they are held out with their patients' other images or not at all.
    """

    settings: HoldOutSettings = NOBODY
    image_ids: pa.StringArray = field(default_factory=lambda: pa.array([], pa.string()))
    patients: int = 0
    of_patients: int = 0
    nobody_of: tuple[str, ...] = ()
    damaged: int = 0

    @property
    def sha256(self) -> str:
        """Of the images' ids: whether two hold-outs are the same, as they are not once the lake has grown."""
        return hashlib.sha256("".join(self.image_ids.to_pylist()).encode()).hexdigest()

    def holds(self, image_ids: pa.ChunkedArray | npt.NDArray[np.str_]) -> Rows:
        """Which images are held out: bool (n,)."""
        return np.asarray(pc.is_in(_as_arrow(image_ids), value_set=self.image_ids))

    def moved(
        self, image_ids: pa.ChunkedArray | npt.NDArray[np.str_], splits: npt.NDArray[np.int8]
    ) -> npt.NDArray[np.int8]:
        """The splits with the hold-out: who is held out goes from train to val; all others stay.

        Args:
            image_ids: (n,).
            splits: int8 (n,), places in `Split`.
        """
        train, val = (list(Split).index(split) for split in (Split.TRAIN, Split.VAL))
        return np.where(self.holds(image_ids) & (splits == train), splits.dtype.type(val), splits)

    def acquisition(self, image_ids: npt.NDArray[np.str_]) -> npt.NDArray[np.str_]:
        """Of rows of val, to which part each belongs: str (n,), the attribute `ACQUISITION`."""
        return np.where(self.holds(image_ids), f"held out by {self.settings.by}", AS_TRAIN)

    def as_dict(self) -> dict[str, Any]:
        """What a card says of it, for `BackbonesHoldOut.of_card`."""
        return {
            "by": self.settings.by.value,
            "share": self.settings.share,
            "patients": self.patients,
            "images": len(self.image_ids),
            "sha256": self.sha256,
        }

    def describe(self) -> str:
        """One line for summaries and reports; empty where nobody is held out."""
        if self.settings.by is HoldOutBy.NONE:
            return ""
        told = (
            f"by {self.settings.by} ({_ENDS[self.settings.by]}): {len(self.image_ids):,} images of {self.patients:,} "
            f"of the {self.of_patients:,} patients of train count as val"
        )
        more = f" and {len(self.nobody_of) - _TOLD:,} more" if len(self.nobody_of) > _TOLD else ""
        if self.nobody_of:
            told += f"; nobody of {', '.join(self.nobody_of[:_TOLD])}{more}, too much alike"
        return told + (f"; {_damaged(self.damaged)}" if self.damaged else "")


@dataclass(frozen=True)
class BackbonesHoldOut:
    """The hold-out that a backbone was fine-tuned with, as its card says.

    Attributes:
        settings: of the hold-out; None where the backbone was not fine-tuned, or nothing is known of it.
        sha256: of the images that it held out; None where the card does not tell.
        caution: why the images that it held out may be known to the weights that it started from; None if they can't.
    """

    settings: HoldOutSettings | None = None
    sha256: str | None = None
    caution: str | None = None

    @classmethod
    def of_extractor(cls, lake: Lake, extractor: str) -> Self:
        """Of the backbone behind an extractor's features."""
        return cls.of_card(lake.extractor_card(extractor))

    @classmethod
    def of_card(cls, card: Mapping[str, Any]) -> Self:
        """What a card says: under `HOLD_OUT_KEY` what `HeldOut.as_dict` gave, or null of a backbone as it came; under
        `CAUTION_KEY` what `warning` gave when it was fine-tuned.

        Raises:
            LakeError: if it says a rule that this version does not know.
        """
        told, caution = card.get(HOLD_OUT_KEY), card.get(CAUTION_KEY)
        if told is None:
            return cls(caution=caution)
        try:
            return cls(HoldOutSettings(HoldOutBy(told["by"]), float(told["share"])), told.get("sha256"), caution)
        except (KeyError, TypeError, ValueError) as error:
            raise LakeError(
                f"the card of these features says that the backbone was fine-tuned with the hold-out {told!r}, which "
                "this version does not know: use the version that wrote it, or give hold_out.by=…"
            ) from error

    def warning(self, held_out: HeldOut) -> str | None:
        """What to say where val, as a job takes it, may hold images that the backbone, or whatever it started from, was
        fine-tuned on; None where it can't."""
        return "; ".join(said for said in (self._own_warning(held_out), self.earlier) if said) or None

    @property
    def earlier(self) -> str | None:
        """The caution as those tell it who use the backbone: it is of weights before it, however many."""
        return None if self.caution is None else f"{_EARLIER}{self.caution.removeprefix(_EARLIER)}"

    def _own_warning(self, held_out: HeldOut) -> str | None:
        if self.settings is None or held_out.settings.by is HoldOutBy.NONE:
            # Whoever holds nobody out has the lake's own val, from which nothing is ever learned.
            return None
        if held_out.settings != self.settings:
            told = (
                f"the backbone was fine-tuned with hold_out.by={self.settings}, and these rows are with "
                f"hold_out.by={held_out.settings}"
            )
        elif self.sha256 not in (None, held_out.sha256):
            told = (
                f"hold_out.by={self.settings} holds out other images here than where the backbone was fine-tuned: the "
                "lake has changed, or is another"
            )
        else:
            return None
        return f"{told}. Val may hold images that the backbone learned from, and figures on it be too good"


def hold_out(lake: Lake, settings: HoldOutSettings) -> HeldOut:
    """Choose the patients of train that are held out; the same for every task and every extractor of the lake.

    Images are ranked by what the rule looks at, each among those of its data set and label (of its findings, those that
    are present), and with `series` of its series, so that val keeps every label in about its proportion: the mean
    grey or the size of normal films is often another, and all held out would be normal. The share is of images for the
    same reason, and a patient's place is the mean of its images'. Labels of few patients are one label together.

    Raises:
        LakeError: if the films are too alike by this rule, their names tell no series, or a file is damaged.
    """
    if settings.by is HoldOutBy.NONE:
        return HeldOut()
    columns = ["image_id", "dataset", "patient_key", "findings", "split", "uri", "width", "height"]
    studies = lake.studies.to_arrow(columns)
    studies = studies.filter(pc.equal(studies["split"], str(Split.TRAIN))).combine_chunks()
    # By id, so that the order in which files were written decides nothing.
    studies = studies.sort_by("image_id")
    patients = patient_numbers(studies)
    of_patients = int(patients.max(initial=-1)) + 1
    groups = text_codes(studies["dataset"].fill_null(""))
    if settings.by is HoldOutBy.SERIES:
        series, measures = _series(studies["uri"])
        groups = _together(groups, series)
    elif settings.by is HoldOutBy.SIZE:
        width, height = (studies[name].cast(pa.float64()).to_numpy() for name in ("width", "height"))
        measures = np.stack([width * height, width / height], axis=1)
    else:
        measures = measure_films(lake, studies["image_id"].combine_chunks(), FilmMeasure(settings.by.value))
    is_damaged = np.isnan(measures).any(axis=1)
    groups = np.where(is_damaged, -1, groups)
    labels = _labels(studies["findings"])
    strata = _strata(groups, labels, patients)
    chosen, left_out = choose_patients(_one_order(measures, strata), strata, patients, settings.share)
    is_held = chosen[patients]
    if is_held.sum() < max(1.0, _LEAST * settings.share * len(is_held)):
        raise _too_alike(settings, studies["uri"], int(is_held.sum()), of_patients, int(is_damaged.sum()))
    return HeldOut(
        settings,
        studies["image_id"].combine_chunks().filter(pa.array(is_held)),
        int(chosen.sum()),
        of_patients,
        tuple(_told(studies, labels, strata == stratum) for stratum in left_out),
        int(is_damaged.sum()),
    )


def ranks_within(values: Measures, groups: Numbers) -> Measures:
    """Each value's place among those of its group: float64 (n,), from 0 to 1, the same for equal values.

    The middle of its share of the ranks, (rank - 1/2) / n, so that 1/2 is the middle of a group of any size.

    Args:
        values: float64 (n,).
        groups: int64 (n,); what is in a group below 0 has no rank, NaN.
    """
    ranks = np.full(len(values), np.nan)
    order = np.argsort(groups, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(groups[order])) + 1):
        if rows.size and groups[rows[0]] >= 0:
            ranks[rows] = (rankdata(values[rows]) - 0.5) / rows.size
    return ranks


def choose_patients(places: Measures, strata: Numbers, patients: Numbers, share: float) -> tuple[Rows, list[int]]:
    """Of every stratum, the patients with the highest places, who have about the share of its images.

    A patient is of the stratum of most of its images, and its place is the mean of theirs. The cut lies between
    patients whose places differ, as near to the share as that allows, at half of it to twice.

    Args:
        places: float64 (n,) of images; NaN where an image has none.
        strata: int64 (n,); below 0 for images without a place.
        patients: int64 (n,), 0 to P-1.
        share: of each stratum's images.

    Returns:
        bool (P,), and the strata of at least `FEWEST` patients of whom nobody is chosen.
    """
    number = int(patients.max(initial=-1)) + 1
    has_place = strata >= 0
    images = np.bincount(patients[has_place], minlength=number)
    sums = np.bincount(patients[has_place], places[has_place], minlength=number)
    place = np.round(sums / np.maximum(images, 1), _DIGITS)
    chosen, left_out = np.zeros(number, np.bool_), []
    of_patient = _most_frequent(strata[has_place], patients[has_place], number)
    for stratum in np.unique(of_patient[of_patient >= 0]).tolist():
        members = np.flatnonzero(of_patient == stratum)
        members = members[np.argsort(-place[members], kind="stable")]
        count = _cut(place[members], images[members], share)
        chosen[members[:count]] = True
        if not count and members.size >= FEWEST:
            left_out.append(stratum)
    return chosen, left_out


def _cut(places: Measures, images: Numbers, share: float) -> int:
    """How many patients, highest places first, lie before the gap that is nearest to the share; 0 if none is near."""
    gaps = np.flatnonzero(places[:-1] > places[1:]) + 1
    shares = images.cumsum()[gaps - 1] / images.sum()
    near = (shares >= _LEAST * share) & (shares <= _MOST * share)
    return int(gaps[near][np.abs(shares[near] - share).argmin()]) if near.any() else 0


def _one_order(measures: Measures, strata: Numbers) -> Measures:
    """One place for every image, by the sum of its measures' ranks.

    Of two measures, the second counts the way it goes along with the first: together they are an axis on which
    machines lie apart, not a distance from the middle.

    Args:
        measures: float64 (n, m), m 1 or 2.
        strata: int64 (n,), as of `ranks_within`.
    """
    place, *others = (ranks_within(measure, strata) for measure in measures.T)
    for other in others:
        # The mean of ranks is 1/2.
        along = np.nansum((place - 0.5) * (other - 0.5))
        place = place + (-other if along < 0 else other)
    return place


def _strata(groups: Numbers, labels: Numbers, patients: Numbers) -> Numbers:
    """Among whom each image is ranked, by its group and label: int64 (n,).

    Labels of few patients are one label together; in a group of few patients nobody is ranked, -1.
    """
    rare = int(labels.max(initial=-1)) + 1
    strata = groups * (rare + 1) + labels
    strata = np.where(_patients_of(strata, patients) < FEWEST, groups * (rare + 1) + rare, strata)
    return np.where((groups < 0) | (_patients_of(groups, patients) < FEWEST), -1, strata)


def _patients_of(groups: Numbers, patients: Numbers) -> Numbers:
    """How many patients the group of every image has: int64 (n,)."""
    groups = np.unique(groups, return_inverse=True)[1]
    pairs = np.unique(groups * (patients.max(initial=0) + 1) + patients)
    return np.bincount(pairs // (patients.max(initial=0) + 1), minlength=1)[groups]


def _most_frequent(strata: Numbers, patients: Numbers, number: int) -> Numbers:
    """The stratum of most of each patient's images, the lowest of several: int64 (number,), -1 where there is none."""
    width = int(strata.max(initial=0)) + 1
    pairs, images = np.unique(patients * width + strata, return_counts=True)
    order = np.lexsort((pairs, -images, pairs // width))
    owners, first = np.unique(pairs[order] // width, return_index=True)
    found = np.full(number, -1, np.int64)
    found[owners] = pairs[order][first] % width
    return found


def _series(uris: pa.ChunkedArray) -> tuple[Numbers, Measures]:
    """Every file's series, int64 (n,), and its place in it, float64 (n, 1), higher for lower numbers.

    A series are the files whose paths hold the same letters; in it, files are in the order of their numbers, the first
    that differs first. A pseudonym is of no series: -1.
    """
    names = ["" if _is_pseudonym(uri) else uri for uri in uris.to_pylist()]
    letters = [" ".join(_LETTERS.findall(name)) for name in names]
    series = text_codes(pa.chunked_array([letters], pa.string()))
    numbers = [tuple(map(int, re.findall(r"\d+", name))) for name in names]
    place = {number: place for place, number in enumerate(sorted(set(numbers), reverse=True))}
    is_named = np.array([bool(name) for name in names], np.bool_)
    places = np.array([place[number] for number in numbers], np.float64)
    return np.where(is_named, series, -1), places[:, None]


def _is_pseudonym(uri: str | None) -> bool:
    return uri is None or _PSEUDONYM.fullmatch(uri) is not None


def _labels(findings: pa.ChunkedArray) -> Numbers:
    """Equal numbers for images with the same findings present: int64 (n,)."""
    present = ["\0".join(sorted(name for name, value in each or () if value == 1)) for each in findings.to_pylist()]
    return text_codes(pa.chunked_array([present], pa.string()))


def _together(one: Numbers, other: Numbers) -> Numbers:
    """One number for every pair of numbers, from 0; -1 where either is below 0: int64 (n,)."""
    is_none = (one < 0) | (other < 0)
    pairs = np.unique(one * (1 + other.max(initial=0)) + other, return_inverse=True)[1]
    return np.where(is_none, -1, pairs)


def _as_arrow(image_ids: pa.ChunkedArray | npt.NDArray[np.str_]) -> pa.ChunkedArray | pa.Array:
    return pa.array(image_ids.tolist(), pa.string()) if isinstance(image_ids, np.ndarray) else image_ids


def _told(studies: pa.Table, labels: Numbers, rows: Rows) -> str:
    """What a stratum is, in words, by its first image."""
    first = studies.slice(int(rows.argmax()), 1).to_pylist()[0]
    present = ", ".join(sorted(name for name, value in first["findings"] or () if value == 1))
    is_rest = np.unique(labels[rows]).size > 1
    return f"{first['dataset']} ({'rare findings' if is_rest else present or 'no finding'})"


def _damaged(crops: int) -> str:
    return f"damaged crops have no place: {crops:,} (jobs/audit_lake.py tells which)"


def _too_alike(
    settings: HoldOutSettings, uris: pa.ChunkedArray, held: int, of_patients: int, damaged: int
) -> LakeError:
    asked = f"hold_out.by={settings.by} with share {settings.share:g}"
    if of_patients < FEWEST:
        return LakeError(
            f"{asked} needs at least {FEWEST} patients in train, and there are {of_patients}: ingest more, or give "
            "hold_out.by=none"
        )
    if settings.by is HoldOutBy.SERIES and all(map(_is_pseudonym, uris.to_pylist())):
        return LakeError(
            f"{asked} reads file names, and those of this lake are pseudonyms, which tell no series: hold out by "
            "size, exposure or border"
        )
    cause = {
        HoldOutBy.SERIES: "file names share no series of running numbers",
        HoldOutBy.SIZE: "originals are too much of one size",
        HoldOutBy.EXPOSURE: "films are too alike in exposure",
        HoldOutBy.BORDER: "films are too alike in how much black they have",
    }[settings.by]
    if damaged:
        cause += f", and {_damaged(damaged)}"
    return LakeError(
        f"{asked} can hold out {held:,} of the {len(uris):,} images of train: {cause}. Hold out by another rule, "
        "or another share (films that are alike are held out together or not at all), or give hold_out.by=none."
    )
