"""Phantom archives: drawn radiographs in the layouts of real data sets, so that every job runs without data."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, assert_never

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    generate_uid,
)

from featurizers.phantoms import Finding, Habitus, Phantom, draw_phantom
from pipelines.config import Config
from pipelines.errors import SourceError
from pipelines.folders import Folder
from pipelines.job import JobRecord, summary_text
from pipelines.progress import Progress, clock

#: ChestX-ray14's boxes count pixels of this square, whatever the size of the file.
_CHESTXRAY14_SIDE = 1024
_DATA_ENTRY_HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)
_BBOX_HEADER = "Image Index,Finding Label,Bbox [x,y,w,h],,,"
#: The eight findings that have boxes in the official file, under the names that it gives them.
_BOXED = {
    Finding.ATELECTASIS: "Atelectasis",
    Finding.CARDIOMEGALY: "Cardiomegaly",
    Finding.EFFUSION: "Effusion",
    Finding.INFILTRATION: "Infiltrate",
    Finding.MASS: "Mass",
    Finding.NODULE: "Nodule",
    Finding.PNEUMONIA: "Pneumonia",
    Finding.PNEUMOTHORAX: "Pneumothorax",
}
#: Images per finding in the official label file (Data_Entry_2017_v2020.csv, 112,120 images).
_CHESTXRAY14_IMAGES = {
    Finding.INFILTRATION: 19894,
    Finding.EFFUSION: 13317,
    Finding.ATELECTASIS: 11559,
    Finding.NODULE: 6331,
    Finding.MASS: 5782,
    Finding.PNEUMOTHORAX: 5302,
    Finding.CONSOLIDATION: 4667,
    Finding.PLEURAL_THICKENING: 3385,
    Finding.CARDIOMEGALY: 2776,
    Finding.EMPHYSEMA: 2516,
    Finding.EDEMA: 2303,
    Finding.FIBROSIS: 1686,
    Finding.PNEUMONIA: 1431,
    Finding.HERNIA: 227,
}
_NO_FINDING_SHARE = 60361 / 112120
#: Every fifth patient is a test patient, whatever the class.
_TEST_EVERY = 5


class PhantomsConfig(Config):
    """Settings of jobs/make_phantoms.py."""

    out: str = Field(..., min_length=1, description="folder to write; must be new or empty")
    studies: int = Field(200, gt=0, description="number of images")
    layout: Literal["kermany", "chestxray14", "dicom"] = Field(
        "kermany", description="whose folders, file names and label files to imitate"
    )
    seed: int = Field(0, ge=0, description="the same seed and settings write the same bytes")
    long_side: int | None = Field(
        None, ge=64, le=4096, description="long side of every image in pixels; null: as in the real set"
    )


@dataclass(frozen=True)
class FindingCount:
    """How many images of an archive show a finding."""

    finding: str
    images: int


@dataclass(frozen=True)
class PhantomArchive:
    """What was written.

    Attributes:
        out: the archive's root folder.
        studies: number of images.
        files: number of files, label files included.
        patients: number of patients.
        counts: images per finding, the most frequent first; several findings of one image count once each.
    """

    out: str
    studies: int
    files: int
    patients: int
    counts: tuple[FindingCount, ...]


@dataclass(frozen=True)
class _Shot:
    """One image to draw: whose, of what, and where it goes."""

    path: str
    patient: int
    follow_up: int
    findings: tuple[Finding, ...]
    habitus: Habitus
    age: int
    test: bool


def make_phantoms(config: PhantomsConfig) -> JobRecord:
    """Run the job.

    Raises:
        SourceError: `config.out` is a file, or a folder that is not empty.
    """
    record = JobRecord("make_phantoms", config)
    written = 0

    def report(done: int, _: int) -> None:
        nonlocal written
        written = done

    with record.time("draw"), Progress("draw", config.studies, lambda: written):
        archive = write_phantoms(config, report)
    record.count("studies", archive.studies)
    record.count("files", archive.files)
    record.count("patients", archive.patients)
    for each in archive.counts:
        record.count(f"finding: {each.finding}", each.images)
    Folder.at(config.out).write_json("run.json", record.as_dict())
    seconds = record.timings["draw"]
    rows = {
        "studies": archive.studies,
        "patients": archive.patients,
        **{each.finding: each.images for each in archive.counts},
        "time": f"{clock(seconds)} ({archive.studies / seconds:.1f} images/s)",
        "archive": archive.out,
    }
    record.summary = summary_text(f"Drew phantoms in the layout {config.layout}", rows)
    return record


def write_phantoms(config: PhantomsConfig, report: Callable[[int, int], None]) -> PhantomArchive:
    """Draw an archive of phantoms and write it in a data set's own layout.

    Args:
        config: what to write.
        report: called with (images written, images in all) after each.

    Raises:
        SourceError: `config.out` is a file, or a folder that is not empty.
    """
    out = Path(config.out)
    _refuse_to_overwrite(out)
    rng = np.random.default_rng([config.seed, 0])
    match config.layout:
        case "kermany":
            shots = _plan_kermany(rng, config.studies)
            files = _write_kermany(out, config, shots, report)
        case "chestxray14":
            shots = _plan_chestxray14(rng, config.studies)
            files = _write_chestxray14(out, config, shots, report)
        case "dicom":
            shots = _plan_dicom(rng, config.studies)
            files = _write_dicom(out, config, shots, report)
        case _:
            assert_never(config.layout)
    counts = Counter(finding.value for shot in shots for finding in (shot.findings or (Finding.NORMAL,)))
    return PhantomArchive(
        out=config.out,
        studies=len(shots),
        files=files,
        patients=len({shot.patient for shot in shots}),
        counts=tuple(FindingCount(name, n) for name, n in sorted(counts.items(), key=lambda item: (-item[1], item[0]))),
    )


def _refuse_to_overwrite(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise SourceError(f"phantoms can't be written to {out}: it is a file; give `out` a new folder's name")
    if out.is_dir() and any(out.iterdir()):
        raise SourceError(
            f"phantoms can't be written to {out}: it is not empty; give `out` a new folder's name or empty it"
        )
    out.mkdir(parents=True, exist_ok=True)


def _draw(
    config: PhantomsConfig, shots: Sequence[_Shot], height_to_width: float | None
) -> Iterator[tuple[_Shot, Phantom]]:
    """Each shot with its phantom. Without a fixed shape, and without a fixed size, the phantom draws its own."""
    for index, shot in enumerate(shots):
        rng = np.random.default_rng([config.seed, 1, index])
        size = None
        if height_to_width is not None:
            side = config.long_side or _CHESTXRAY14_SIDE
            size = (round(side * min(height_to_width, 1)), round(side * min(1 / height_to_width, 1)))
        elif config.long_side is not None:
            short_side = round(config.long_side / rng.uniform(1.05, 1.5))
            size = (short_side, config.long_side) if shot.habitus is Habitus.CHILD else (config.long_side, short_side)
        yield (
            shot,
            draw_phantom(
                _seed(config.seed, 2, index),
                shot.findings,
                size,
                habitus=shot.habitus,
                patient=_seed(config.seed, 3, shot.patient),
            ),
        )


def _seed(*parts: int) -> int:
    """One seed made of several numbers, so that neighbours have nothing in common."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0])


def _images_per_patient(rng: np.random.Generator, images: int, more: float) -> Iterator[int]:
    """Numbers of images, patient by patient, that sum to `images`; `more` is the chance of each further image."""
    while images > 0:
        count = min(int(rng.geometric(1 - more)), 8, images)
        images -= count
        yield count


def _write_rows(path: Path, header: str, rows: Iterable[Sequence[object]]) -> None:
    """A CSV file whose header is written as it stands: some official ones are no proper CSV."""
    with path.open("w", newline="", encoding="utf-8") as file:
        file.write(header + "\n")
        csv.writer(file, lineterminator="\n").writerows(rows)


# --- the paediatric pneumonia set (Kermany et al. 2018) ---------------------------------------------------------------


def _plan_kermany(rng: np.random.Generator, images: int) -> list[_Shot]:
    """26 % normal, 26 % viral and the rest bacterial, as in the real set; patients keep to one split."""
    viral = normal = round(0.26 * images)
    shots: list[_Shot] = []
    patient, running = 0, {Finding.VIRAL: 0, Finding.BACTERIAL: 0}
    for kind, quota in (
        (Finding.NORMAL, normal),
        (Finding.VIRAL, viral),
        (Finding.BACTERIAL, images - normal - viral),
    ):
        for position, count in enumerate(_images_per_patient(rng, quota, more=0.25)):
            patient += 1
            test = position % _TEST_EVERY == 2
            prefix = "NORMAL2-IM" if rng.random() < 0.5 else "IM"
            age = int(rng.integers(1, 6))
            folder = f"chest_xray/{'test' if test else 'train'}/{'NORMAL' if kind is Finding.NORMAL else 'PNEUMONIA'}"
            for follow_up in range(count):
                if kind is Finding.NORMAL:
                    name = f"{prefix}-{patient:04d}-{follow_up + 1:04d}"
                else:
                    running[kind] += 1
                    name = f"person{patient}_{'virus' if kind is Finding.VIRAL else 'bacteria'}_{running[kind]}"
                path = f"{folder}/{name}.jpeg"
                shots.append(_Shot(path, patient, follow_up, (kind,), Habitus.CHILD, age, test))
    return shots


def _write_kermany(
    out: Path, config: PhantomsConfig, shots: Sequence[_Shot], report: Callable[[int, int], None]
) -> int:
    for split in ("train", "test"):
        for kind in ("NORMAL", "PNEUMONIA"):
            (out / "chest_xray" / split / kind).mkdir(parents=True)
    rng = np.random.default_rng([config.seed, 4])
    for done, (shot, phantom) in enumerate(_draw(config, shots, None), start=1):
        image = Image.fromarray(phantom.pixels)
        # A few of the real files are grey pictures saved in colour.
        mode = "RGB" if rng.random() < 0.04 else "L"
        image.convert(mode).save(out / shot.path, quality=90)
        report(done, len(shots))
    return len(shots)


# --- ChestX-ray14 (Wang et al. 2017) ----------------------------------------------------------------------------------


def _plan_chestxray14(rng: np.random.Generator, images: int) -> list[_Shot]:
    shots = []
    for patient, count in enumerate(_images_per_patient(rng, images, more=0.6), start=1):
        child = rng.random() < 0.04
        age = int(rng.integers(3, 12) if child else np.clip(rng.normal(48, 17), 18, 92))
        findings: tuple[Finding, ...] = ()
        for follow_up in range(count):
            # Disease lasts: a follow-up often shows what the image before it did.
            if follow_up == 0 or rng.random() < 0.6:
                findings = _draw_findings(rng)
            habitus = Habitus.CHILD if child else Habitus.ADULT
            test = patient % _TEST_EVERY == 2
            path = f"images/{patient:08d}_{follow_up:03d}.png"
            shots.append(_Shot(path, patient, follow_up, findings, habitus, age + follow_up // 3, test))
    return shots


def _draw_findings(rng: np.random.Generator) -> tuple[Finding, ...]:
    """None for 54 % of the images; otherwise one to three, each as frequent as in the official file."""
    if rng.random() < _NO_FINDING_SHARE:
        return ()
    names = tuple(_CHESTXRAY14_IMAGES)
    weights = np.array(list(_CHESTXRAY14_IMAGES.values()), dtype=np.float64)
    count = int(rng.choice([1, 2, 3], p=[0.62, 0.28, 0.1]))
    chosen = rng.choice(len(names), size=count, replace=False, p=weights / weights.sum())
    return tuple(sorted(names[index] for index in chosen))


def _write_chestxray14(
    out: Path, config: PhantomsConfig, shots: Sequence[_Shot], report: Callable[[int, int], None]
) -> int:
    (out / "images").mkdir()
    rng = np.random.default_rng([config.seed, 4])
    entries: list[tuple[object, ...]] = []
    boxes: list[tuple[object, ...]] = []
    for done, (shot, phantom) in enumerate(_draw(config, shots, 1.0), start=1):
        name = Path(shot.path).name
        # A few of the real files are grey pictures with colour and an alpha channel.
        mode = "RGBA" if rng.random() < 0.02 else "L"
        Image.fromarray(phantom.pixels).convert(mode).save(out / shot.path, compress_level=2)
        labels = "|".join(shot.findings) or "No Finding"
        view = "AP" if rng.random() < (0.55 if shot.findings else 0.3) else "PA"
        original, spacing = ((2500, 2048), 0.168) if view == "AP" else ((2992, 2991), 0.143)
        entries.append(
            (name, labels, shot.follow_up, shot.patient, shot.age, phantom.sex, view, *original, spacing, spacing)
        )
        boxes.extend(
            (
                name,
                _BOXED[box.finding],
                box.left * _CHESTXRAY14_SIDE,
                box.top * _CHESTXRAY14_SIDE,
                (box.right - box.left) * _CHESTXRAY14_SIDE,
                (box.bottom - box.top) * _CHESTXRAY14_SIDE,
            )
            for box in phantom.boxes
            if box.finding in _BOXED
        )
        report(done, len(shots))
    _write_rows(out / "Data_Entry_2017_v2020.csv", _DATA_ENTRY_HEADER, entries)
    _write_rows(out / "BBox_List_2017.csv", _BBOX_HEADER, boxes)
    for file, test in (("train_val_list.txt", False), ("test_list.txt", True)):
        names = [Path(shot.path).name for shot in shots if shot.test is test]
        (out / file).write_text("\n".join(names), encoding="utf-8", newline="\n")
    return len(shots) + 4


# --- a hospital's DICOM export ----------------------------------------------------------------------------------------


def _plan_dicom(rng: np.random.Generator, images: int) -> list[_Shot]:
    shots: list[_Shot] = []
    kinds = (Finding.NORMAL, Finding.VIRAL, Finding.BACTERIAL)
    for patient, count in enumerate(_images_per_patient(rng, images, more=0.3), start=1):
        child = rng.random() < 0.5
        habitus = Habitus.CHILD if child else Habitus.ADULT
        age = int(rng.integers(1, 12) if child else rng.integers(18, 91))
        # The first patients cover every class, so that the smallest archive trains a head.
        kind = kinds[patient % 3] if patient <= 6 else kinds[rng.choice(3, p=[0.4, 0.25, 0.35])]
        for follow_up in range(count):
            path = f"study{patient:05d}-{follow_up + 1}/IM{len(shots) + 1:06d}.dcm"
            shots.append(_Shot(path, patient, follow_up, (kind,), habitus, age, test=False))
    return shots


def _write_dicom(out: Path, config: PhantomsConfig, shots: Sequence[_Shot], report: Callable[[int, int], None]) -> int:
    rows = []
    for done, (shot, phantom) in enumerate(_draw(config, shots, None), start=1):
        rng = np.random.default_rng([config.seed, 4, done])
        dataset = _dicom(config.seed, shot, phantom, rng)
        target = out / shot.path
        target.parent.mkdir(exist_ok=True)
        dataset.save_as(target, enforce_file_format=True)
        viral, bacterial = Finding.VIRAL in shot.findings, Finding.BACTERIAL in shot.findings
        facts = (Finding.NORMAL in shot.findings, viral or bacterial, viral, bacterial)
        rows.append(
            (
                shot.path,
                dataset.PatientID,
                dataset.StudyInstanceUID,
                dataset.ViewPosition,
                phantom.sex,
                shot.age,
                *(int(fact) for fact in facts),
            )
        )
        report(done, len(shots))
    header = "path,patient_id,study_id,view,sex,age,normal,pneumonia,viral,bacterial"
    _write_rows(out / "labels.csv", header, rows)
    return len(shots) + 1


def _dicom(seed: int, shot: _Shot, phantom: Phantom, rng: np.random.Generator) -> Dataset:
    """A single-frame radiograph with the modules that its SOP class asks for, about a patient who does not exist."""
    dataset = Dataset()
    _identify(dataset, seed, shot)
    digital, inverted = rng.random() < 0.6, rng.random() < 0.3
    if digital:
        _describe_digital(dataset, inverted=inverted)
    else:
        dataset.SOPClassUID, dataset.Modality = ComputedRadiographyImageStorage, "CR"
    dataset.PatientSex = phantom.sex
    dataset.ViewPosition = "PA" if shot.habitus is Habitus.ADULT and rng.random() < 0.6 else "AP"
    stored = _stored(phantom.pixels, rng)
    if inverted:
        stored = np.uint16(4095) - stored
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME1" if inverted else "MONOCHROME2"
    dataset.Rows, dataset.Columns = stored.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelRepresentation = 0
    if rng.random() < 0.5:
        low, high = (float(value) for value in np.percentile(stored, [0.5, 99.5]))
        dataset.WindowCenter = round((low + high) / 2)
        dataset.WindowWidth = max(round(high - low), 2)
    dataset.PixelData = stored.astype("<u2").tobytes()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.ImplementationClassUID = generate_uid(entropy_srcs=["pleura phantoms"])
    dataset.file_meta.ImplementationVersionName = "PLEURA_PHANTOMS"
    return dataset


def _identify(dataset: Dataset, seed: int, shot: _Shot) -> None:
    """Who, when and where: made up, and it says so. All that ingest must keep out of the lake is here."""
    for attribute in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
        entropy = ["pleura phantoms", attribute, str(seed), str(shot.patient), str(shot.follow_up)]
        setattr(dataset, attribute, generate_uid(entropy_srcs=entropy))
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.ImageType = ["ORIGINAL", "PRIMARY"]
    dataset.StudyDate = f"2000{5 + shot.follow_up:02d}15"
    dataset.StudyTime = "120000"
    dataset.AccessionNumber = f"ACC{shot.patient:05d}{shot.follow_up:02d}"
    dataset.ReferringPhysicianName = "FICTITIOUS^PHYSICIAN"
    dataset.InstitutionName = "Phantom General Hospital"
    dataset.Manufacturer = "Pleura phantoms"
    dataset.StudyDescription = "CHEST"
    dataset.PatientName = f"PHANTOM^NUMBER {shot.patient}"
    dataset.PatientID = f"PHANTOM{shot.patient:06d}"
    dataset.PatientBirthDate = f"{2000 - shot.age}0101"
    dataset.PatientAge = f"{shot.age:03d}Y"
    dataset.StudyID = str(shot.follow_up + 1)
    dataset.SeriesNumber = 1
    dataset.InstanceNumber = 1
    dataset.BodyPartExamined = "CHEST"
    dataset.PatientOrientation = ["L", "F"]


def _describe_digital(dataset: Dataset, *, inverted: bool) -> None:
    """What a DX image states beyond a CR one (PS3.3, DX Image Module)."""
    dataset.SOPClassUID, dataset.Modality = DigitalXRayImageStorageForPresentation, "DX"
    dataset.PresentationIntentType = "FOR PRESENTATION"
    dataset.ImagerPixelSpacing = [0.4, 0.4]
    dataset.PixelIntensityRelationship = "LOG"
    # -1: less exposure, larger value; so bone is bright in what MONOCHROME2 stores.
    dataset.PixelIntensityRelationshipSign = 1 if inverted else -1
    dataset.RescaleIntercept, dataset.RescaleSlope, dataset.RescaleType = 0, 1, "US"
    dataset.PresentationLUTShape = "INVERSE" if inverted else "IDENTITY"
    dataset.BurnedInAnnotation = "NO"
    dataset.LossyImageCompression = "00"


def _stored(pixels: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint16]:
    """12-bit values of an 8-bit picture: the four bits below are noise, as they mostly are on a detector."""
    fine = rng.integers(0, 16, pixels.shape, dtype=np.uint16)
    return pixels.astype(np.uint16) * np.uint16(16) + fine
