"""Small DICOM radiographs for tests, with any attribute set."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian

from featurizers.phantoms import draw_phantom

PIXELS = draw_phantom(5, size=(96, 96)).pixels


def chest_dataset(pixels: npt.NDArray[np.uint8] = PIXELS, **attributes: object) -> Dataset:
    """A chest radiograph's data set of 12 bits, PA, of patient P1; keywords set or replace attributes, None removes."""
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = ComputedRadiographyImageStorage, "1.2.3.4.5.1"
    dataset.StudyInstanceUID, dataset.AccessionNumber = "1.2.3.4.5.2", "ACC1"
    dataset.PatientID, dataset.PatientName = "P1", "Nobody^Anna"
    dataset.Modality, dataset.BodyPartExamined, dataset.ViewPosition = "CR", "CHEST", "PA"
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PixelRepresentation = 1, "MONOCHROME2", 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelData = (pixels.astype(np.uint16) * 16).tobytes()
    for keyword, value in attributes.items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    return dataset


def dicom_bytes(dataset: Dataset) -> bytes:
    """The data set as a DICOM file, explicit VR little endian."""
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def chest_dicom(pixels: npt.NDArray[np.uint8] = PIXELS, **attributes: object) -> bytes:
    """The file of chest_dataset."""
    return dicom_bytes(chest_dataset(pixels, **attributes))
