"""DICOM headers: what they tell of view, body part, age and person, however they say it."""

from __future__ import annotations

import pytest
from dicom_files import chest_dataset, chest_dicom, dicom_bytes
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from pipelines.dicom_header import DicomHeader, is_dicom, read_header


def header(**attributes: object) -> DicomHeader:
    found = read_header(chest_dicom(**attributes))
    assert found is not None
    return found


def coded(value: str) -> Sequence:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "SCT", "a view"
    return Sequence([item])


@pytest.mark.parametrize(
    ("attributes", "view"),
    [
        ({"ViewPosition": "PA"}, "PA"),
        ({"ViewPosition": "ap"}, "AP"),
        ({"ViewPosition": "LL"}, "LATERAL"),
        ({"ViewPosition": "RL"}, "LATERAL"),
        ({"ViewPosition": None}, None),
        ({"ViewPosition": "", "ViewCodeSequence": coded("272479007")}, "PA"),
        ({"ViewPosition": "", "ViewCodeSequence": coded("R-10206")}, "AP"),
        ({"ViewPosition": "", "ViewCodeSequence": coded("399198007")}, "LATERAL"),
        ({"ViewPosition": "", "SeriesDescription": "W033 Chest LAT"}, "LATERAL"),
        ({"ViewPosition": "", "SeriesDescription": "Chest PA"}, "PA"),
        ({"ViewPosition": "", "StudyDescription": "CHEST PA & LATERAL"}, None),
        ({"ViewPosition": "", "SeriesDescription": "capacity"}, None),
    ],
)
def test_the_view(attributes: dict[str, object], view: str | None) -> None:
    assert header(**attributes).view == view


@pytest.mark.parametrize(
    ("attributes", "is_chest"),
    [
        ({}, True),
        ({"BodyPartExamined": None}, True),
        ({"BodyPartExamined": "", "Modality": "DX"}, True),
        ({"BodyPartExamined": "THORAX"}, True),
        ({"BodyPartExamined": "TORAX"}, True),
        ({"BodyPartExamined": "CHEST_TO_ABDOMEN"}, True),
        ({"BodyPartExamined": "KNEE"}, False),
        ({"BodyPartExamined": "", "StudyDescription": "Left knee 2 views"}, False),
        ({"BodyPartExamined": "", "StudyDescription": "XR shoulder and chest"}, True),
        ({"Modality": "CT"}, False),
        ({"Modality": "MR"}, False),
        ({"Modality": "OT"}, True),
        ({"Modality": "OT", "BodyPartExamined": ""}, None),
        ({"Modality": None, "BodyPartExamined": None}, None),
        ({"Modality": "OT", "BodyPartExamined": "", "ProtocolName": "Thorax ap"}, True),
    ],
)
def test_whether_it_is_a_chest(attributes: dict[str, object], is_chest: bool | None) -> None:
    assert header(**attributes).is_chest is is_chest


@pytest.mark.parametrize(
    ("attributes", "years"),
    [
        ({"PatientAge": "045Y"}, 45.0),
        ({"PatientAge": "006M"}, 0.5),
        ({"PatientAge": "000D"}, 0.0),
        ({"PatientBirthDate": "19700615", "StudyDate": "20200614"}, 49.0),
        ({"PatientBirthDate": "19700615", "StudyDate": "20200615"}, 50.0),
        ({"PatientBirthDate": "20200615", "StudyDate": "19700615"}, None),
        ({"PatientBirthDate": "19700615"}, None),
        ({}, None),
    ],
)
def test_the_age(attributes: dict[str, object], years: float | None) -> None:
    assert header(**attributes).age_years == years


def test_a_person_is_the_same_one_where_a_device_leaves_the_issuer_out() -> None:
    assert header(IssuerOfPatientID="A").patient_id == header().patient_id


@pytest.mark.parametrize(("view", "is_oblique"), [("RAO", True), ("LLO", True), ("PA", False), ("LL", False)])
def test_oblique_views(view: str, is_oblique: bool) -> None:
    assert header(ViewPosition=view).is_oblique is is_oblique


def test_names_are_known_by_their_parts() -> None:
    identifiers = header(PatientName="Doe^Jane^Mary", OtherPatientIDs=["X-17", "X-18"]).identifiers
    assert {"Doe", "Jane", "Mary", "P1", "X-17", "X-18", "ACC1", "1.2.3.4.5.1"} <= set(identifiers)


@pytest.mark.parametrize(("value", "has_text"), [("YES", True), ("NO", False), (None, False)])
def test_burned_in_annotation(value: str | None, has_text: bool) -> None:
    assert header(**({"BurnedInAnnotation": value} if value else {})).has_burned_in_annotation is has_text


def test_a_damaged_attribute_counts_as_missing() -> None:
    dataset = chest_dataset()
    dataset.add_new("PatientAge", "AS", "045Y")
    damaged = dicom_bytes(dataset).replace(b"045Y", b"\xff\xfe?!")
    found = read_header(damaged)
    assert found is not None
    assert found.age_years is None
    assert found.patient_id == "P1"


def test_what_is_no_dicom() -> None:
    assert not is_dicom(b"\x89PNG\r\n\x1a\n" + b"\0" * 300)
    assert not is_dicom(b"")
    assert is_dicom(chest_dicom())
