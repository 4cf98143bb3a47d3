"""Label files of published sets: found by name, read as columns of text, and refused by row and column."""

from __future__ import annotations

import difflib
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from featurizers.reasons import Reason
from pipelines.archives import ArchiveFile
from pipelines.errors import SourceError
from pipelines.folders import Folder
from pipelines.sources.base import NAMES_TOLD, Contents, Rejection, StudyRecord
from pipelines.sources.label_table import LabelTable, Rule, mistakes
from pipelines.splits import Split

#: Endings of image files: whatever else lies in an image folder is no input.
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")

#: What in an archive's top folder tells whose layout it is; the first that fits.
_MARKS = {
    "chestxray14": r"Data_Entry_2017.*",
    "mimic_cxr_jpg": r"mimic-cxr-2.*",
    "chexpert": r"CheXpert-v1.*|valid\.csv(\.gz)?",
    "medmnist": r".*mnist.*\.npz",
    "kermany": r"chest_xray|CellData|train",
    "dicom": r"DICOMDIR|.*\.dcm",
    "manifest": r".*\.(csv|csv\.gz|parquet)",
}


def is_image(file: ArchiveFile) -> bool:
    """Whether a file of an image folder is an image, by its name."""
    return file.name.lower().endswith(IMAGE_SUFFIXES)


def find_file(folder: Folder, *names: str) -> str | None:
    """The first of `names` that lies in the folder, as it is or as `.gz`."""
    there = set(folder.names())
    return next((name for plain in names for name in (plain, f"{plain}.gz") if name in there), None)


def another_layout(archive: Folder, source: str, expected: str) -> SourceError:
    """The error for an archive that is not in the layout of `source`; it tells which other one would fit."""
    names = archive.names()
    others = (other for other, mark in _MARKS.items() if any(re.fullmatch(mark, name) for name in names))
    fitting = next((other for other in others if other != source), None)
    guess = f", or is source={fitting} meant?" if fitting else ", or give the source=… that it is made for."
    return SourceError(
        f"'{archive.uri}' does not look like an archive for source={source}: expected {expected}. "
        f"Check archive=…{guess}"
    )


def read_table(
    folder: Folder,
    name: str,
    columns: Sequence[str],
    optional: Sequence[str] = (),
    synonyms: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """Columns of a CSV file as text.

    Args:
        folder: where the file lies.
        name: its name; `.gz` is unpacked.
        columns: those that it must have.
        optional: those that come out blank where the file does not have them.
        synonyms: other name of a column → the one wanted.

    Returns:
        `columns` and `optional`, "" where nothing stands.

    Raises:
        SourceError: if the file can't be read, or lacks a column.
    """
    renamed = synonyms or {}
    with _readable(name):
        with _open(folder, name) as file:
            header = list(pd.read_csv(file, nrows=0, index_col=False, encoding="utf-8-sig").columns)
        wanted = {column: renamed.get(column, column) for column in header}
        _check_columns(name, columns, list(wanted.values()))
        wanted = {column: ours for column, ours in wanted.items() if ours in {*columns, *optional}}
        with _open(folder, name) as file:
            frame = pd.read_csv(
                file, dtype=str, keep_default_na=False, index_col=False, usecols=list(wanted), encoding="utf-8-sig"
            )
    return frame.rename(columns=wanted).reindex(columns=[*columns, *optional], fill_value="")


def read_lines(folder: Folder, name: str) -> list[str]:
    """The lines of a text file, without blanks at their ends.

    Raises:
        SourceError: if the file can't be read.
    """
    with _readable(name), _open(folder, name) as file:
        return [line.strip() for line in file.read().decode("utf-8-sig").splitlines()]


def refuse_wrong_cells(name: str, rules: dict[str, Rule]) -> None:
    """Tell wrong cells by row and column.

    Args:
        name: the label file.
        rules: by column.

    Raises:
        SourceError: naming the first wrong row of each column, and no cell.
    """
    if found := list(mistakes(rules, 0)):
        raise SourceError(
            f"'{name}' has cells that can't be read (the header is row 1):\n"
            + "\n".join(f"  {mistake}" for mistake in found)
            + "\nIt must be the file that was published with the set; download it again, or mend the cells."
        )


def refuse_repeated(name: str, column: str, keys: pd.Series[str]) -> None:
    """What a row tells of, it alone tells of.

    Args:
        name: the label file.
        column: that which holds the keys.
        keys: by row.

    Raises:
        SourceError: naming the rows of the first key that stands in several.
    """
    hashes = pd.util.hash_array(keys.to_numpy(dtype=object))
    LabelTable(Folder(name), name).check_unique(column, hashes)


def refuse_torn_patients(
    patients: npt.NDArray[Any], splits: Sequence[Split | None], place: Callable[[int], str]
) -> None:
    """Splits belong to patients.

    Args:
        patients: each row's patient, shape (rows,).
        splits: each row's official split; None is a part of its own, which the patients' hashes may divide.
        place: tells where a row stands.

    Raises:
        SourceError: naming rows of the first patient who is in several.
    """
    frame = pd.DataFrame({"patient": patients, "split": [str(split) for split in splits]}).drop_duplicates()
    torn = frame[frame["patient"].duplicated(keep=False)]
    if len(torn):
        rows = torn.index[torn["patient"] == torn["patient"].iloc[0]]
        raise SourceError(
            f"{torn['patient'].nunique():,} patient(s) stand in more than one official split; splits belong to "
            f"patients. The first one: {', '.join(place(int(row)) for row in rows)}. Download the label files again; "
            "they must be of one version."
        )


def survey(images: Iterable[tuple[ArchiveFile, int | None]], label_rows: int) -> tuple[int, npt.NDArray[np.bool_]]:
    """How many images there are, and which label rows have theirs.

    Args:
        images: each with the position of its label row.
        label_rows: how many of those there are.
    """
    count = 0
    is_there = np.zeros(label_rows, np.bool_)
    for _, position in images:
        count += 1
        if position is not None:
            is_there[position] = True
    return count, is_there


def contents(images: int, is_there: npt.NDArray[np.bool_], tell: Callable[[int], str]) -> Contents:
    """What an archive of `images` images holds.

    Args:
        images: labelled or not.
        is_there: whether a label row's image is in the archive, shape (rows,).
        tell: names a row's image, by the row's position, without an identifier.
    """
    missing = np.flatnonzero(~is_there)
    names = tuple(tell(int(position)) for position in missing[:NAMES_TOLD])
    return Contents(records=images, label_rows=len(is_there), missing=len(missing), missing_names=names)


def unlabelled(file: ArchiveFile, names: str) -> StudyRecord:
    """The record of an image that no row of the label files `names` tells of."""
    rejection = Rejection(Reason.NO_LABEL, f"no row of {names} names this image")
    return StudyRecord(path=file.path, patient_id=None, findings={}, version=file.version, rejection=rejection)


def _check_columns(name: str, wanted: Sequence[str], there: Sequence[str]) -> None:
    problems = []
    for column in wanted:
        if column not in there:
            near = difflib.get_close_matches(column, [other for other in there if other not in wanted], n=1)
            problems.append(f"  no column '{column}'" + (f"; is '{near[0]}' meant?" if near else ""))
    if problems:
        raise SourceError(
            f"'{name}' has the wrong columns:\n" + "\n".join(problems) + "\nIt must be the file that was published "
            "with the set; download it again."
        )


def _open(folder: Folder, name: str) -> IO[bytes]:
    compression = "gzip" if name.endswith(".gz") else None
    file: IO[bytes] = folder.filesystem.open(f"{folder.path}/{name}", compression=compression)
    return file


@contextmanager
def _readable(name: str) -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError, zlib.error, ValueError) as error:  # pandas' and Unicode's own errors are ValueErrors
        form = "whole gzip of UTF-8 text" if name.endswith(".gz") else "UTF-8 text"
        raise SourceError(
            f"'{name}' can't be read ({type(error).__name__}). It must be {form} with one header; download it again."
        ) from error
