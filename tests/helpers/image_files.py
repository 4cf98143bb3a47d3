"""Small image files of every kind that the decoder reads, for the tests of decoding."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import gdcm
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom import uid
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset

from featurizers.decode import decode_radiograph
from featurizers.errors import DecodeError
from featurizers.radiograph import DecodeLimits, Radiograph

PYDICOM_FILES = sorted((Path(pydicom.__file__).parent / "data").rglob("*.dcm"))
PLANTED = "Doe^Jane19700101"

GREY = np.clip(np.add.outer(np.arange(48) * 3, np.arange(64) * 2), 0, 255).astype(np.uint8)
COLOUR = np.dstack([GREY, GREY[::-1], np.full_like(GREY, 90)])
TWELVE = (GREY.astype(np.uint16) * 8 + 500).astype(np.uint16)


def encode(pixels: np.ndarray | Image.Image, file_format: str = "PNG", **options: object) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    buffer = BytesIO()
    image.save(buffer, format=file_format, **options)
    return buffer.getvalue()


def dicom(pixels: np.ndarray, syntax: uid.UID = uid.ExplicitVRLittleEndian, **elements: object) -> bytes:
    """One DICOM file with these stored values; `elements` overrides by keyword, None removes."""
    ds = Dataset()
    ds.SOPClassUID = uid.DigitalXRayImageStorageForPresentation
    ds.SOPInstanceUID = uid.generate_uid()
    ds.PatientName = PLANTED
    ds.PatientID = PLANTED
    ds.Rows, ds.Columns = pixels.shape[:2]
    ds.SamplesPerPixel = 3 if pixels.ndim == 3 else 1
    if pixels.ndim == 3:
        ds.PlanarConfiguration = 0
    ds.PhotometricInterpretation = "RGB" if pixels.ndim == 3 else "MONOCHROME2"
    ds.BitsAllocated = ds.BitsStored = 8 * pixels.dtype.itemsize
    ds.HighBit = ds.BitsStored - 1
    ds.PixelRepresentation = int(pixels.dtype.kind == "i")
    ds.add_new("PixelData", "OB" if pixels.dtype.itemsize == 1 else "OW", pixels.tobytes())
    for keyword, value in elements.items():
        if value is None:
            del ds[keyword]
        else:
            setattr(ds, keyword, value)
    if "BitsStored" in elements and "HighBit" not in elements:
        ds.HighBit = ds.BitsStored - 1
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    meta.TransferSyntaxUID = syntax
    if syntax.is_encapsulated:
        ds["PixelData"].VR = "OB"
        ds["PixelData"].is_undefined_length = True
    buffer = BytesIO()
    file = FileDataset(buffer, ds, file_meta=meta, preamble=b"\0" * 128)
    file.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def rle(words: np.ndarray, **elements: object) -> bytes:
    """RLE by pydicom's encoder, which looks at the words only."""
    ds = Dataset()
    ds.Rows, ds.Columns, ds.SamplesPerPixel = *words.shape, 1
    ds.BitsAllocated = ds.BitsStored = 8 * words.dtype.itemsize
    ds.HighBit = ds.BitsStored - 1
    ds.PixelRepresentation, ds.PhotometricInterpretation = int(words.dtype.kind == "i"), "MONOCHROME2"
    ds.compress(uid.RLELossless, words)
    return dicom(words, uid.RLELossless, PixelData=ds.PixelData, **elements)


def by_gdcm(data: bytes, syntax: int, folder: Path) -> bytes:
    """A file in another transfer syntax, compressed by GDCM."""
    (folder / "plain.dcm").write_bytes(data)
    reader, writer, change = gdcm.ImageReader(), gdcm.ImageWriter(), gdcm.ImageChangeTransferSyntax()
    reader.SetFileName(str(folder / "plain.dcm"))
    assert reader.Read()
    change.SetTransferSyntax(gdcm.TransferSyntax(syntax))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    writer.SetFileName(str(folder / "compressed.dcm"))
    assert writer.Write()
    return (folder / "compressed.dcm").read_bytes()


def decode(data: bytes) -> np.ndarray:
    return decode_radiograph(data).pixels


def pydicom_file(name: str) -> bytes:
    (path,) = (path for path in PYDICOM_FILES if path.name == name)
    return path.read_bytes()


def luma(rgb: np.ndarray) -> np.ndarray:
    return rgb @ [0.299, 0.587, 0.114]


def stretched(values: np.ndarray) -> np.ndarray:
    """16-bit values between their own 0.5 and 99.5 percentiles, which are values that occur."""
    low, high = np.percentile(values, [0.5, 99.5], method="inverted_cdf")
    return np.clip((values.astype(float) - low) / (high - low), 0, 1) * 255


def refused(data: bytes, limits: DecodeLimits | None = None) -> DecodeError:
    with pytest.raises(DecodeError) as caught:
        decode_radiograph(data, limits or DecodeLimits())
    return caught.value


def sound(radiograph: Radiograph, limits: DecodeLimits) -> bool:
    """Whether a radiograph is what decoding promises, and within the limits."""
    pixels = radiograph.pixels
    return (
        pixels.ndim == 2
        and pixels.dtype == np.uint8
        and pixels.flags.c_contiguous
        and pixels.flags.writeable
        and min(pixels.shape) >= limits.min_side
        and pixels.size <= limits.max_pixels
        and 1 <= radiograph.bits <= 16
        and (radiograph.pixel_spacing is None or min(radiograph.pixel_spacing) > 0)
    )
