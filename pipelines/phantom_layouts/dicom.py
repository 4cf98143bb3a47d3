"""A hospital's DICOM export: `labels.csv`, and a folder per study that holds files of the modalities CR and DX.

From 40 images on, a fortieth is named lateral and a fortieth knee by its header, which ingest must turn away; they are
drawn as ordinary chests, and labels.csv does not list them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    generate_uid,
)

from featurizers.phantoms import Finding, Habitus, Phantom
from pipelines.phantom_layouts.base import (
    MOST_IMAGES_PER_PATIENT,
    Order,
    Shot,
    any_size,
    csv_bytes,
    drawn,
    images_per_patient,
)

_HEADER = "path,patient_id,study_id,SOPInstanceUID,view,sex,age,normal,pneumonia,viral,bacterial"
#: Of so many images one is a lateral and one a knee.
_STRAY_EVERY = 40


class _Exam(StrEnum):
    """What a header says that the image shows."""

    FRONTAL = "frontal"
    LATERAL = "lateral"
    KNEE = "knee"


@dataclass(frozen=True)
class _Export(Shot):
    exam: _Exam = _Exam.FRONTAL


def write_dicom(order: Order) -> Sequence[Shot]:
    """Write the files and the labels of the frontal chests among them."""
    exports = _plan(order.rng(0), order.images)
    rows = []
    for number, (export, phantom) in enumerate(drawn(order, exports, any_size), start=1):
        dataset = _dicom(order.seed, export, phantom, order.rng(4, number))
        target = order.out / export.path
        target.parent.mkdir(exist_ok=True)
        dataset.save_as(target, enforce_file_format=True)
        if export.exam is _Exam.FRONTAL:
            rows.append(_label(export, dataset))
    (order.out / "labels.csv").write_bytes(csv_bytes(_HEADER, rows))
    return exports


def _plan(rng: np.random.Generator, images: int) -> list[_Export]:
    strays = images // _STRAY_EVERY
    exports: list[_Export] = []
    kinds = (Finding.NORMAL, Finding.VIRAL, Finding.BACTERIAL)
    for patient, count in enumerate(images_per_patient(rng, images - 2 * strays, more=0.3), start=1):
        child = rng.random() < 0.5
        habitus = Habitus.CHILD if child else Habitus.ADULT
        age = int(rng.integers(1, 12) if child else rng.integers(18, 91))
        # The first patients cover every class, so that the smallest archive trains a head.
        kind = kinds[patient % 3] if patient <= 6 else kinds[rng.choice(3, p=[0.4, 0.25, 0.35])]
        for follow_up in range(count):
            path = _path(patient, follow_up, len(exports) + 1)
            exports.append(_Export(path, patient, follow_up, (kind,), habitus, age, split=None))
    # A lateral belongs to its frontal's study; a knee is a study of its own.
    usual = exports[:: len(exports) // strays][:strays] if strays else []
    for beside in usual:
        path = _path(beside.patient, beside.follow_up, len(exports) + 1)
        exports.append(replace(beside, path=path, exam=_Exam.LATERAL))
        path = _path(beside.patient, MOST_IMAGES_PER_PATIENT, len(exports) + 1)
        exports.append(replace(beside, path=path, follow_up=MOST_IMAGES_PER_PATIENT, exam=_Exam.KNEE))
    return exports


def _path(patient: int, follow_up: int, number: int) -> str:
    return f"study{patient:05d}-{follow_up + 1}/IM{number:06d}.dcm"


def _label(export: _Export, dataset: Dataset) -> tuple[object, ...]:
    viral, bacterial = Finding.VIRAL in export.findings, Finding.BACTERIAL in export.findings
    facts = (Finding.NORMAL in export.findings, viral or bacterial, viral, bacterial)
    return (
        export.path,
        dataset.PatientID,
        dataset.StudyInstanceUID,
        dataset.SOPInstanceUID,
        dataset.ViewPosition,
        dataset.PatientSex,
        export.age,
        *(int(fact) for fact in facts),
    )


def _dicom(seed: int, export: _Export, phantom: Phantom, rng: np.random.Generator) -> Dataset:
    """A single-frame radiograph with the modules that its SOP class asks for, about a patient who does not exist."""
    dataset = Dataset()
    _identify(dataset, seed, export)
    digital, inverted = rng.random() < 0.6, rng.random() < 0.3
    if digital:
        _describe_digital(dataset, inverted=inverted)
    else:
        dataset.SOPClassUID, dataset.Modality = ComputedRadiographyImageStorage, "CR"
    dataset.PatientSex = phantom.sex
    dataset.ViewPosition = "PA" if export.habitus is Habitus.ADULT and rng.random() < 0.6 else "AP"
    if export.exam is _Exam.LATERAL:
        dataset.ViewPosition = "LL"
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


def _identify(dataset: Dataset, seed: int, export: _Export) -> None:
    """Who, when and where: made up, and it says so. All that ingest must keep out of the lake is here."""
    study = [str(seed), str(export.patient), str(export.follow_up)]
    image = study if export.exam is _Exam.FRONTAL else [*study, export.exam]
    for attribute, entropy in (("SOPInstanceUID", image), ("StudyInstanceUID", study), ("SeriesInstanceUID", image)):
        setattr(dataset, attribute, generate_uid(entropy_srcs=["pleura phantoms", attribute, *entropy]))
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.ImageType = ["ORIGINAL", "PRIMARY"]
    # A knee's follow-up is one more than a chest can have, and the year has twelve months.
    dataset.StudyDate = f"2000{5 + export.follow_up % MOST_IMAGES_PER_PATIENT:02d}15"
    dataset.StudyTime = "120000"
    dataset.AccessionNumber = f"ACC{export.patient:05d}{export.follow_up:02d}"
    dataset.ReferringPhysicianName = "FICTITIOUS^PHYSICIAN"
    dataset.InstitutionName = "Phantom General Hospital"
    dataset.Manufacturer = "Pleura phantoms"
    dataset.StudyDescription = "KNEE" if export.exam is _Exam.KNEE else "CHEST"
    dataset.PatientName = f"PHANTOM^NUMBER {export.patient}"
    dataset.PatientID = f"PHANTOM{export.patient:06d}"
    dataset.PatientBirthDate = f"{2000 - export.age}0101"
    dataset.PatientAge = f"{export.age:03d}Y"
    dataset.StudyID = str(export.follow_up + 1)
    dataset.SeriesNumber = 2 if export.exam is _Exam.LATERAL else 1
    dataset.InstanceNumber = 1
    dataset.BodyPartExamined = dataset.StudyDescription
    dataset.PatientOrientation = ["P", "F"] if export.exam is _Exam.LATERAL else ["L", "F"]


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
