"""What the counts come to: shares, medians, correlations, under one rule of counting that the page tells."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from pipelines.exploration.counts import Counts
from pipelines.sources.base import AP, NEGATIVE, PA, POSITIVE, UNCERTAIN
from pipelines.splits import Split

#: Findings in the matrices and on the sample sheets: of more, nobody can read a matrix.
SHOWN_FINDINGS = 30
FEMALE, MALE = "F", "M"
_STANDARD_ERRORS = 3


@dataclass(frozen=True)
class Mentions:
    """How images speak of one finding.

    Attributes:
        positive, negative, uncertain: as the label file says.
        silent: not mentioned, in a data set that mentions the finding elsewhere.
        unrecorded: images of data sets that never mention it, and images that mention nothing.
    """

    positive: int
    negative: int
    uncertain: int
    silent: int
    unrecorded: int

    @property
    def absent(self) -> int:
        """Counted as without the finding: negative or silent."""
        return self.negative + self.silent

    @property
    def answered(self) -> int:
        """Counted as with or without the finding: all but uncertain and unrecorded."""
        return self.positive + self.absent

    @property
    def recorded(self) -> int:
        """Labelled images of the data sets that mention it."""
        return self.answered + self.uncertain

    @property
    def majority(self) -> int:
        """How many a constant answer gets right."""
        return max(self.positive, self.absent)


class Share(NamedTuple):
    """A part of a whole that is not empty."""

    part: int
    whole: int

    @property
    def value(self) -> float:
        """0 to 1."""
        return self.part / self.whole

    def differs_from(self, other: Share) -> bool:
        """Whether chance alone hardly explains the difference: more than three standard errors of it.

        By the two-proportion z-test with pooled variance; images of one patient are taken for independent.
        """
        pooled = (self.part + other.part) / (self.whole + other.whole)
        error = math.sqrt(pooled * (1 - pooled) * (1 / self.whole + 1 / other.whole))
        return abs(self.value - other.value) > _STANDARD_ERRORS * error


@dataclass(frozen=True)
class Contrast:
    """A share among the images with a finding and among those without it; both of images where it is known."""

    finding: str
    positives: Share
    others: Share

    @property
    def gap(self) -> float:
        """The difference of the two shares, signed."""
        return self.positives.value - self.others.value


@dataclass(frozen=True)
class Survey:
    """The numbers of the page."""

    counts: Counts

    @cached_property
    def images(self) -> int:
        """All images."""
        return self.counts.images.total

    @cached_property
    def splits(self) -> dict[str, int]:
        """Images by split, in the order train, val, test."""
        there = self.counts.images.over("split")
        return {str(split): there[str(split)] for split in Split if str(split) in there}

    @cached_property
    def datasets(self) -> dict[str, int]:
        """Images by data set, largest first."""
        return _largest_first(self.counts.images.over("dataset"))

    @cached_property
    def findings(self) -> list[str]:
        """All findings, the one with the most positives first."""
        every = dict.fromkeys(self.counts.findings.over("finding"), 0)
        return list(_largest_first(every | self.counts.findings.where(value=POSITIVE).over("finding")))

    @property
    def shown(self) -> list[str]:
        """The most frequent findings, for what has no room for all."""
        return self.findings[:SHOWN_FINDINGS]

    @cached_property
    def _mentioned(self) -> Mapping[tuple[str, str, str, int], int]:
        return self.counts.findings.by("finding", "dataset", "split", "value")

    @cached_property
    def recording(self) -> dict[str, list[str]]:
        """For each finding the data sets that mention it."""
        pairs = self.counts.findings.by("finding", "dataset")
        return {name: sorted(dataset for found, dataset in pairs if found == name) for name in self.findings}

    def mentions(self, finding: str, split: str | None = None) -> Mentions:
        """How the images of a split (of all) speak of a finding."""
        images = self.counts.images if split is None else self.counts.images.where(split=split)
        labelled = self.counts.labelled if split is None else self.counts.labelled.where(split=split)
        recorded = labelled.where(dataset=self.recording[finding]).total
        told = dict.fromkeys((POSITIVE, NEGATIVE, UNCERTAIN), 0)
        for (name, _, part, value), n in self._mentioned.items():
            if name == finding and split in (None, part):
                told[value] += n
        return Mentions(
            positive=told[POSITIVE],
            negative=told[NEGATIVE],
            uncertain=told[UNCERTAIN],
            silent=recorded - sum(told.values()),
            unrecorded=images.total - recorded,
        )

    def together(self, first: str, second: str) -> int:
        """Images on which both are positive."""
        return self._pair(first, POSITIVE, second, POSITIVE, self.recording[first])

    def phi(self, first: str, second: str) -> float | None:
        """Pearson's phi coefficient of two findings; None where one of them never varies.

        On labelled images of the data sets that mention both, without those on which either is uncertain; what is not
        mentioned counts as absent.
        """
        datasets = [name for name in self.recording[first] if name in self.recording[second]]

        def pair(a: int, b: int) -> int:
            return self._pair(first, a, second, b, datasets)

        def alone(name: str, value: int) -> int:
            return self._pair(name, value, name, value, datasets)

        images = self.counts.labelled.where(dataset=datasets).total
        either_uncertain = alone(first, UNCERTAIN) + alone(second, UNCERTAIN) - pair(UNCERTAIN, UNCERTAIN)
        both = pair(POSITIVE, POSITIVE)
        only_first = alone(first, POSITIVE) - both - pair(POSITIVE, UNCERTAIN)
        only_second = alone(second, POSITIVE) - both - pair(UNCERTAIN, POSITIVE)
        neither = images - either_uncertain - both - only_first - only_second
        rows = (both + only_first) * (only_second + neither)
        columns = (both + only_second) * (only_first + neither)
        if not rows or not columns:
            return None
        return (both * neither - only_first * only_second) / math.sqrt(rows * columns)

    @cached_property
    def _pairs(self) -> Mapping[tuple[str, int, str, int, str], int]:
        return self.counts.pairs.by("first", "first_value", "second", "second_value", "dataset")

    def _pair(self, first: str, a: int, second: str, b: int, datasets: Sequence[str]) -> int:
        return sum(self._pairs.get((first, a, second, b, dataset), 0) for dataset in datasets)

    def ap_share(self, finding: str) -> Contrast | None:
        """AP among AP and PA images, with and without the finding."""
        return self._contrast(finding, "view", AP, PA)

    def female_share(self, finding: str) -> Contrast | None:
        """Female among female and male, with and without the finding."""
        return self._contrast(finding, "sex", FEMALE, MALE)

    def _contrast(self, finding: str, key: str, this: str, other: str) -> Contrast | None:
        images = self.counts.labelled.where(dataset=self.recording[finding]).over(key)
        told = self.counts.findings.where(finding=finding).by("value", key)
        with_it = {value: told.get((POSITIVE, value), 0) for value in (this, other)}
        without = {
            value: images.get(value, 0) - with_it[value] - told.get((UNCERTAIN, value), 0) for value in (this, other)
        }
        positives, others = sum(with_it.values()), sum(without.values())
        if not positives or not others:
            return None
        return Contrast(finding, Share(with_it[this], positives), Share(without[this], others))

    def ages(self, finding: str | None = None) -> dict[int | None, int]:
        """Images (positive for a finding) by age in years; None: unknown."""
        if finding is None:
            return self.counts.ages.over("age")
        return self.counts.finding_ages.where(finding=finding).over("age")

    def unknown(self, key: str) -> int:
        """Images without a sex, view or age."""
        cube = self.counts.ages if key == "age" else self.counts.images
        return cube.over(key).get(None, 0)

    @cached_property
    def patients(self) -> int:
        """Patients, estimated where there are many."""
        return self.scaled(len(self.counts.patients.images_of_patients()))

    def scaled(self, patients: int) -> int:
        """How many patients some of the sample stand for."""
        return round(patients * self.counts.patients.scale)


def quantile(counts: Mapping[int | None, int], fraction: float) -> int | None:
    """The smallest value that at least this fraction of the known values does not exceed; None without any."""
    known = sorted((value, n) for value, n in counts.items() if value is not None)
    left = fraction * sum(n for _, n in known)
    for value, n in known:
        left -= n
        if left <= 0:
            return value
    return None


def _largest_first(counts: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
