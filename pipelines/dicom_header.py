"""What a DICOM file's header tells of whose image it is and what it shows. Holds identifiers: never leaves ingest."""

from __future__ import annotations

import logging
import re
import warnings
from dataclasses import dataclass
from io import BytesIO
from typing import Literal

import pydicom
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from featurizers.dicom import DICOM_MAGIC, DICOM_MAGIC_OFFSET, inflated, is_bare_dicom
from featurizers.radiograph import DecodeLimits
from pipelines.sources.base import AP, LATERAL, PA

LabelKey = Literal["SOPInstanceUID", "StudyInstanceUID", "AccessionNumber"]
#: The attributes by which images and rows of a label table are joined, the most exact first.
LABEL_KEYS: tuple[LabelKey, ...] = ("SOPInstanceUID", "StudyInstanceUID", "AccessionNumber")

#: PS3.3 C.7.3.1.1.1: the modalities of a plain radiograph (RG: radiographic imaging, an older term).
_RADIOGRAPHY = frozenset({"CR", "DX", "RG"})
#: A secondary capture or an unknown device: only the body part can tell whether it is a radiograph of the chest.
_UNDECIDED = frozenset({"", "OT", "SC"})
#: PS3.16 annex L: Body Part Examined of the chest and of regions that hold it, blanks and separators left out.
_CHEST = frozenset(
    {"CHEST", "THORAX", "LUNG", "LUNGS", "CHESTABDOMEN", "CHESTABDPELVIS", "NECKCHEST", "NECKCHESTABDOMEN", "TRUNK"}
)
_CHEST_TEXT = re.compile(r"chest|th?ora[ckx]|lung|pulm[oã]|\bcxr\b", re.IGNORECASE)
_OTHER_TEXT = re.compile(
    r"\b(?:abdom\w*|ankle|arm|clavic\w*|cranium|elbow|extremit\w*|femur|finger|foot|forearm|hand|hip|humerus|jaw|knee|leg"
    r"|mammo\w*|pelvis|shoulder|skull|spine|tibia|toe|wrist)\b",
    re.IGNORECASE,
)
#: View Position (0018,5101), PS3.3 C.8.11.5 and its older use in CR.
_VIEW_POSITIONS = {"PA": PA, "AP": AP} | dict.fromkeys(
    ("LL", "RL", "LLD", "RLD", "LAT", "LATERAL", "LLAT", "RLAT", "LEFT LATERAL", "RIGHT LATERAL"), LATERAL
)
_OBLIQUE = frozenset({"LLO", "RLO", "LAO", "RAO", "LPO", "RPO", "OBLIQUE"})
#: View Code Sequence (0054,0220), PS3.16 CID 4010: SNOMED CT codes, and the SNOMED RT ones of older files.
_VIEW_CODES = {
    "399348003": AP,
    "R-10206": AP,
    "272479007": PA,
    "R-10214": PA,
    "R-40888": PA,
    "399067008": LATERAL,
    "R-102CD": LATERAL,
    "399173006": LATERAL,
    "R-10236": LATERAL,
    "399198007": LATERAL,
    "R-10232": LATERAL,
}
_VIEW_TEXT = re.compile(r"\b(?P<PA>pa)\b|\b(?P<AP>ap)\b|\b(?P<LATERAL>lat|lateral|profile?)\b", re.IGNORECASE)
#: Values in which the view or the body part may stand in words. They are looked at and go nowhere.
_DESCRIPTIONS = (
    "SeriesDescription",
    "ProtocolName",
    "AcquisitionDeviceProcessingDescription",
    "StudyDescription",
    "RequestedProcedureDescription",
)
#: Values that a file's path may repeat.
_IDENTIFYING = (
    "PatientName",
    "PatientID",
    "OtherPatientIDs",
    "OtherPatientNames",
    "PatientBirthName",
    "IssuerOfPatientID",
    "PatientBirthDate",
    "AccessionNumber",
    "StudyID",
    "StudyDate",
    "SeriesDate",
    "AcquisitionDate",
    "ContentDate",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "SOPInstanceUID",
    "ReferringPhysicianName",
    "PerformingPhysicianName",
    "OperatorsName",
    "InstitutionName",
    "StationName",
)
_OTHERS = (
    "SpecificCharacterSet",
    "SOPClassUID",
    "Modality",
    "BodyPartExamined",
    "ViewPosition",
    "ViewCodeSequence",
    "BurnedInAnnotation",
    "PatientSex",
    "PatientAge",
)
_LIMITS = DecodeLimits()
_DIRECTORY = "1.2.840.10008.1.3.10"  # Media Storage Directory Storage: a DICOMDIR
_AGE = re.compile(r"(\d{1,3})([DWMY])")
_DAYS = {"D": 1.0, "W": 7.0, "M": 30.4375, "Y": 365.25}
#: A person's name has five components, and each of them names the person (PS3.5 6.2.1.2).
_NAME_PARTS = re.compile(r"[\^=\\\s,]+")


@dataclass(frozen=True)
class DicomHeader:
    """The facts that ingest needs.

    Attributes:
        patient_id: Patient ID; blank where the file is anonymised to the bone.
        study_uid, image_uid, accession_number: blank where they are missing.
        view: PA, AP, LATERAL, or None where nothing tells it.
        is_oblique: whether View Position is neither frontal nor lateral.
        sex: M, F, O or None.
        age_years: from Patient's Age, else from the dates of birth and study.
        is_chest: False where the header tells another modality or body part, None where it tells nothing.
        has_burned_in_annotation: whether Burned In Annotation is YES.
        identifiers: values that must not stand in a uri.
    """

    patient_id: str
    study_uid: str
    image_uid: str
    accession_number: str
    view: str | None
    is_oblique: bool
    sex: str | None
    age_years: float | None
    is_chest: bool | None
    has_burned_in_annotation: bool
    identifiers: tuple[str, ...]

    def label_key(self, attribute: LabelKey) -> str:
        """The value that joins the image to its label row; blank if it is missing."""
        values = {
            "SOPInstanceUID": self.image_uid,
            "StudyInstanceUID": self.study_uid,
            "AccessionNumber": self.accession_number,
        }
        return values[attribute]


def is_dicom(data: bytes) -> bool:
    """Whether the bytes are a DICOM file or a bare DICOM data set."""
    return data.startswith(DICOM_MAGIC, DICOM_MAGIC_OFFSET) or is_bare_dicom(data)


def read_header(data: bytes, limits: DecodeLimits = _LIMITS) -> DicomHeader | None:
    """The header of a DICOM file or bare data set; None if it can't be read at all.

    A single attribute that can't be read counts as missing. A data set that inflates to more than `limits` allow can't
    be read, and decoding will say so.
    """
    logger = logging.getLogger("pydicom")
    was_disabled, logger.disabled = logger.disabled, True  # its warnings quote values
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tags = [*_IDENTIFYING, *_OTHERS, *_DESCRIPTIONS]
            dataset = pydicom.dcmread(
                BytesIO(inflated(data, limits)), force=True, stop_before_pixels=True, specific_tags=list(tags)
            )
            return _facts(dataset)
    except MemoryError:
        raise
    except Exception:
        return None
    finally:
        logger.disabled = was_disabled


def _facts(dataset: Dataset) -> DicomHeader:
    return DicomHeader(
        # Without its issuer, which one device writes and the next leaves out: two people of one id stay in one split,
        # but one person of two would be in both.
        patient_id=_text(dataset, "PatientID"),
        study_uid=_text(dataset, "StudyInstanceUID"),
        image_uid=_text(dataset, "SOPInstanceUID"),
        accession_number=_text(dataset, "AccessionNumber"),
        view=_view(dataset),
        is_oblique=_text(dataset, "ViewPosition").upper() in _OBLIQUE,
        sex={"M": "M", "F": "F", "O": "O"}.get(_text(dataset, "PatientSex").upper()),
        age_years=_age_years(dataset),
        is_chest=_is_chest(dataset),
        has_burned_in_annotation=_text(dataset, "BurnedInAnnotation").upper() == "YES",
        identifiers=tuple(dict.fromkeys(_identifiers(dataset))),
    )


def _text(dataset: Dataset, keyword: str) -> str:
    """An attribute's value as text, several joined by backslashes as in the file; blank if missing or damaged."""
    try:
        value = dataset.get(keyword)
        if isinstance(value, MultiValue):
            return "\\".join(str(part) for part in value).strip()
        return "" if value is None else str(value).strip(" \0")
    except Exception:  # pydicom decodes a value when it is first looked at
        return ""


def _identifiers(dataset: Dataset) -> list[str]:
    found: list[str] = []
    for keyword in _IDENTIFYING:
        value = _text(dataset, keyword)
        found += [part for part in value.split("\\") if part]
        if keyword.endswith(("Name", "Names")):
            # Initials would be found in any path.
            found += [part for part in _NAME_PARTS.split(value) if len(part) > 1]
    return found


def _view(dataset: Dataset) -> str | None:
    if view := _VIEW_POSITIONS.get(_text(dataset, "ViewPosition").upper()):
        return view
    try:
        codes = [str(item.get("CodeValue", "")) for item in dataset.get("ViewCodeSequence") or ()]
    except Exception:  # a damaged sequence tells nothing
        codes = []
    if view := next((_VIEW_CODES[code] for code in codes if code in _VIEW_CODES), None):
        return view
    told = {match.lastgroup for keyword in _DESCRIPTIONS for match in _VIEW_TEXT.finditer(_text(dataset, keyword))}
    # "PA and lateral" describes a study of two images.
    return told.pop() if len(told) == 1 else None


def _is_chest(dataset: Dataset) -> bool | None:
    modality = _text(dataset, "Modality").upper()
    if modality not in _RADIOGRAPHY | _UNDECIDED or _text(dataset, "SOPClassUID") == _DIRECTORY:
        return False
    body_part = re.sub(r"[^A-Z]", "", _text(dataset, "BodyPartExamined").upper())
    if body_part:
        return body_part in _CHEST or bool(_CHEST_TEXT.search(body_part))
    descriptions = " ".join(_text(dataset, keyword) for keyword in _DESCRIPTIONS)
    if _CHEST_TEXT.search(descriptions):
        return True
    if _OTHER_TEXT.search(descriptions):
        return False
    return True if modality in _RADIOGRAPHY else None


def _age_years(dataset: Dataset) -> float | None:
    if match := _AGE.fullmatch(_text(dataset, "PatientAge").upper()):
        return round(int(match[1]) * _DAYS[match[2]] / _DAYS["Y"], 2)
    born, taken = (_text(dataset, keyword) for keyword in ("PatientBirthDate", "StudyDate"))
    if not (re.fullmatch(r"\d{8}", born) and re.fullmatch(r"\d{8}", taken)) or taken < born:
        return None
    # The last birthday, by month and day.
    return float(int(taken[:4]) - int(born[:4]) - (taken[4:] < born[4:]))
