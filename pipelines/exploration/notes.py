"""What the numbers say, in plain words: imbalance, splits, shortcuts and gaps that a training or a reader must know."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from classifiers.reports.results import FEW_IMAGES
from pipelines.exploration.html import percent, whole_percent
from pipelines.exploration.survey import Contrast, Share, Survey, quantile
from pipelines.splits import Split

#: A constant answer that is right so often makes accuracy worthless.
_CONSTANT_IS_RIGHT: Final = 0.9
#: Splits whose shares of a finding differ by more than this factor do not measure the same question.
_DRIFT: Final = 1.5
#: Shares of AP views or of one sex that differ by more than this are easily learnt in place of the finding.
_GAP: Final = 0.15
_YEARS_APART: Final = 10
#: From this share on, what is unknown or uncertain can change a result.
_MUCH: Final = 0.05
#: Findings named in one sentence; the tables hold all.
_NAMED: Final = 5


@dataclass(frozen=True)
class Note:
    """One message.

    Attributes:
        about: its subject in a few words.
        text: one or two sentences.
        is_caution: whether it can lead to wrong conclusions, so that it stands out.
    """

    about: str
    text: str
    is_caution: bool = True


def notes(survey: Survey) -> list[Note]:
    """All that apply, cautions and facts in a fixed order."""
    rules: tuple[Callable[[Survey], Iterator[Note]], ...] = (
        _imbalance,
        _constant_answers,
        _missing_splits,
        _few,
        _drift,
        _patients,
        _one_dataset,
        _views,
        _sexes,
        _ages,
        _uncertain,
        _unknown,
        _crops,
    )
    return [note for rule in rules for note in rule(survey)]


def _imbalance(survey: Survey) -> Iterator[Note]:
    if not survey.findings:
        yield Note("No findings", "No label file told any finding, so there is nothing to train or to compare on.")
        return
    positives = {name: survey.mentions(name).positive for name in survey.findings}
    if never := [name for name, number in positives.items() if not number]:
        yield Note("Never positive", f"{_some(never)}: no image is positive, so no head can learn it.")
    seen = [name for name, number in positives.items() if number]
    if len(seen) < 2:
        return
    most, rarest = seen[0], seen[-1]
    answered = survey.mentions(rarest).answered
    yield Note(
        "Rarest finding",
        f"{rarest}: positive on {positives[rarest]:,} of {answered:,} images "
        f"({percent(positives[rarest], answered)}). The most frequent one, {most}, is positive on "
        f"{positives[most]:,} images, {positives[most] / positives[rarest]:,.1f} times as many.",
        is_caution=positives[most] > 10 * positives[rarest],
    )


def _constant_answers(survey: Survey) -> Iterator[Note]:
    split = Split.TEST if Split.TEST in survey.splits else None
    every = [(name, survey.mentions(name, split)) for name in survey.findings]
    lopsided = [
        (name, one) for name, one in every if one.positive and one.majority >= _CONSTANT_IS_RIGHT * one.answered
    ]
    lopsided.sort(key=lambda pair: -pair[1].majority / pair[1].answered)
    told = [f"{name} ({percent(one.majority, one.answered)})" for name, one in lopsided]
    if told:
        where = "the test images" if split else "all images"
        yield Note(
            "Accuracy misleads",
            f"On {where} the same answer for everybody is right at least nine times in ten for {_some(told)}. "
            "Judge a head by recall, precision and AUC, beside that baseline.",
        )


def _missing_splits(survey: Survey) -> Iterator[Note]:
    if missing := [str(split) for split in Split if split not in survey.splits]:
        yield Note(
            "Missing split",
            f"There are no {' and no '.join(missing)} images. Heads are chosen on val and judged on test; figures of "
            "images that took part in training or choosing are too good.",
        )


def _few(survey: Survey) -> Iterator[Note]:
    for split in (Split.VAL, Split.TEST):
        if split not in survey.splits:
            continue
        few = []
        for name in survey.findings:
            mentions = survey.mentions(name, split)
            if mentions.positive < FEW_IMAGES:
                few.append(f"{name} ({mentions.positive} positive)")
            elif mentions.absent < FEW_IMAGES:
                few.append(f"{name} ({mentions.absent} without it)")
        if few:
            yield Note(
                f"Too few in {split}",
                f"{_some(few)}: with fewer than {FEW_IMAGES} images, figures measured on {split} can be luck.",
            )


def _drift(survey: Survey) -> Iterator[Note]:
    told = []
    for name in survey.findings:
        parts = {split: survey.mentions(name, split) for split in survey.splits}
        shares = {split: Share(one.positive, one.answered) for split, one in parts.items() if one.answered}
        if not shares:
            continue
        low, high = min(shares.values(), key=_value), max(shares.values(), key=_value)
        if high.value > _DRIFT * low.value and high.differs_from(low):
            told.append(f"{name} ({', '.join(f'{split} {percent(*share)}' for split, share in shares.items())})")
    if told:
        yield Note(
            "Splits differ",
            f"The share of positives is not the same in all splits: {_some(told)}. Precision and thresholds do not "
            "carry over from one to the other.",
        )


def _value(share: Share) -> float:
    return share.value


def _patients(survey: Survey) -> Iterator[Note]:
    sample = survey.counts.patients
    looked_at = len(sample.images_of_patients())
    among = f"of {looked_at:,} patients" if sample.is_exact else f"of {looked_at:,} patients that were looked at"
    several = sum(n for splits, n in sample.patients_by_splits().items() if len(splits) > 1)
    if several:
        yield Note(
            "Patients in two splits",
            f"{several:,} {among} have images in more than one split: figures on test would be too good. "
            "Give these patients one split and ingest anew.",
        )
    else:
        yield Note("Patients", f"0 {among} have images in more than one split.", is_caution=False)
    per_patient = survey.images / max(survey.patients, 1)
    if per_patient >= 1.2:
        yield Note(
            "Images are not patients",
            f"There are {per_patient:.1f} images per patient on average. Images of one patient resemble each other, so "
            "that the counts of images promise more certainty than there is.",
        )


def _one_dataset(survey: Survey) -> Iterator[Note]:
    if len(survey.datasets) < 2:
        return
    told = [
        f"{name} (only in {', '.join(datasets)})"
        for name, datasets in survey.recording.items()
        if len(datasets) < len(survey.datasets)
    ]
    if told:
        yield Note(
            "Not recorded everywhere",
            f"Some findings are mentioned by a part of the data sets only: {_some(told)}. A head trained across data "
            "sets may learn where an image is from instead.",
        )


def _views(survey: Survey) -> Iterator[Note]:
    told = _contrasts(survey.findings, survey.ap_share)
    if told:
        yield Note(
            "View as a shortcut",
            f"Share of AP among AP and PA images, with against without the finding: {_some(told)}. AP images "
            "are mostly taken at the bedside, so that a head can answer from the view. Compare its figures within each "
            "view.",
        )


def _sexes(survey: Survey) -> Iterator[Note]:
    told = _contrasts(survey.findings, survey.female_share)
    if told:
        yield Note(
            "Sex as a shortcut",
            f"Share of female patients' images, with against without the finding: {_some(told)}. Compare figures "
            "within each sex.",
        )


def _contrasts(findings: Iterable[str], contrast: Callable[[str], Contrast | None]) -> list[str]:
    found = [one for one in map(contrast, findings) if one and one.positives.differs_from(one.others)]
    wide = sorted((one for one in found if abs(one.gap) >= _GAP), key=lambda one: -abs(one.gap))
    return [
        f"{one.finding} ({whole_percent(one.positives.value)} against {whole_percent(one.others.value)})"
        for one in wide
    ]


def _ages(survey: Survey) -> Iterator[Note]:
    middle = quantile(survey.ages(), 0.5)
    told = []
    for name in survey.findings:
        ages = survey.ages(name)
        mine = quantile(ages, 0.5)
        known = sum(ages.values()) - ages.get(None, 0)
        if middle is not None and mine is not None and known >= FEW_IMAGES and abs(mine - middle) >= _YEARS_APART:
            told.append(f"{name} ({mine} years)")
    if told:
        yield Note(
            "Age as a shortcut",
            f"The median age of all images is {middle} years; it is far from that for {_some(told)}. "
            "Compare figures within age groups.",
        )


def _uncertain(survey: Survey) -> Iterator[Note]:
    told = []
    for name in survey.findings:
        mentions = survey.mentions(name)
        if mentions.uncertain > _MUCH * mentions.recorded:
            told.append(f"{name} ({percent(mentions.uncertain, mentions.recorded)})")
    if told:
        yield Note(
            "Uncertain labels",
            f"Labelled as uncertain: {_some(told)}. How a task treats them changes its figures; state it with them.",
        )


def _unknown(survey: Survey) -> Iterator[Note]:
    missing = {key: survey.unknown(key) for key in ("age", "sex", "view")}
    if never := [key for key, n in missing.items() if n == survey.images]:
        yield Note(
            "Never known",
            f"No image has a known {_some(never)}: whether figures differ by that, and whether a head makes use of it, "
            "can't be told from this lake.",
        )
    told = [f"{key} ({percent(n, survey.images)})" for key, n in missing.items() if _MUCH < n / survey.images < 1]
    if told:
        yield Note(
            "Often not known",
            f"Images without a known {_some(told)}: what is said of that below holds for the other images only.",
        )


def _crops(survey: Survey) -> Iterator[Note]:
    kept = survey.counts.crops.where(cropper="whole_image").over("quality")
    # Without a quality nobody looked for the lungs.
    uncropped = kept.pop(None, 0)
    whole = sum(kept.values())
    more = "They show more than the lungs, such as markers at the border."
    if whole > _MUCH * survey.images:
        yield Note(
            "Lungs not found",
            f"{whole:,} images ({percent(whole, survey.images)}) were kept whole, because no lungs were found that "
            f"could be trusted. {more}",
        )
    if uncropped:
        yield Note(
            "Not cropped",
            f"{uncropped:,} images ({percent(uncropped, survey.images)}) are whole, as ingest was told. {more}",
        )


def _some(told: Sequence[str]) -> str:
    shown = ", ".join(told[:_NAMED])
    return shown if len(told) <= _NAMED else f"{shown} and {len(told) - _NAMED} more"
