"""Decoding: exact where the file is exact, the right way up and the right polarity, and one error for all else."""

from __future__ import annotations

import copy
import logging
import struct
import time
import tracemalloc
import warnings
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom import uid
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate

from featurizers.decode import decode_radiograph
from featurizers.errors import DecodeError
from featurizers.radiograph import DecodeLimits, Radiograph
from featurizers.reasons import Reason

REAL_DICOM = Path(__file__).parents[2].parent / "shared" / "data" / "dicom"
PYDICOM_FILES = sorted((Path(pydicom.__file__).parent / "data" / "test_files").rglob("*.dcm"))
PLANTED = "Doe^Jane19700101"

GREY = np.clip(np.add.outer(np.arange(48) * 3, np.arange(64) * 2), 0, 255).astype(np.uint8)
COLOUR = np.dstack([GREY, GREY[::-1], np.full_like(GREY, 90)])


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
    if "BitsStored" in elements:
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


def refused(data: bytes, limits: DecodeLimits | None = None) -> DecodeError:
    with pytest.raises(DecodeError) as caught:
        decode_radiograph(data, limits or DecodeLimits())
    return caught.value


# What is no radiograph ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "reason", "words"),
    [
        (b"", Reason.EMPTY_FILE, "0 bytes"),
        (b"image,label\nfoo.png,1\n", Reason.NOT_AN_IMAGE, "JPEG, PNG or DICOM"),
        (encode(GREY, "GIF"), Reason.NOT_AN_IMAGE, "a GIF"),
        (encode(GREY, "TIFF"), Reason.NOT_AN_IMAGE, "a TIFF"),
        (b"%PDF-1.7", Reason.NOT_AN_IMAGE, "a PDF"),
        (b"\x08\x00" * 200, Reason.NOT_AN_IMAGE, "something else"),
        (b"\0" * 128 + b"DIC", Reason.NOT_AN_IMAGE, "something else"),
        (encode(GREY[:1, :1]), Reason.TOO_SMALL, "1 × 1"),
        (encode(GREY[:31]), Reason.TOO_SMALL, "64 × 31"),
        (encode(GREY[:31], "JPEG"), Reason.TOO_SMALL, "64 × 31"),
        (dicom(GREY[:31]), Reason.TOO_SMALL, "64 × 31"),
        (dicom(GREY, PixelData=None), Reason.NO_PIXEL_DATA, "no Pixel Data"),
        (dicom(GREY, NumberOfFrames=2), Reason.UNSUPPORTED_DICOM, "several frames"),
        (dicom(GREY, HighBit=5), Reason.UNSUPPORTED_DICOM, "High Bit"),
        (dicom(GREY, uid.MPEG2MPML, PixelData=encapsulate([b"\0" * 8])), Reason.UNSUPPORTED_DICOM, "MPEG2"),
        (
            dicom(GREY).replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.99999.1.2.1\0"),
            Reason.UNSUPPORTED_DICOM,
            "private or unknown",
        ),
        (dicom(GREY.astype(np.uint32)), Reason.UNSUPPORTED_DICOM, "16 bits"),
        (dicom(GREY, PhotometricInterpretation="HSV"), Reason.UNSUPPORTED_DICOM, "Photometric"),
        (dicom(GREY, SamplesPerPixel=3), Reason.CORRUPT_IMAGE, "Samples per Pixel"),
        (dicom(GREY, PixelData=b"\0" * 100), Reason.CORRUPT_IMAGE, "ValueError"),
        (dicom(GREY, WindowCenter=100, WindowWidth=0), Reason.CORRUPT_IMAGE, "window"),
    ],
)
def test_refusal_names_reason_and_cause(data: bytes, reason: Reason, words: str) -> None:
    error = refused(data)
    assert error.reason is reason
    assert words in error.detail


def test_error_survives_the_way_between_processes() -> None:
    # copy takes the way that a process boundary takes: __reduce__.
    error = copy.copy(refused(b""))
    assert (error.reason, str(error)) == (Reason.EMPTY_FILE, str(refused(b"")))


def test_min_side_and_max_bytes_are_limits_that_can_be_moved() -> None:
    assert decode_radiograph(encode(GREY[:5]), DecodeLimits(min_side=5)).pixels.shape == (5, 64)
    assert refused(encode(GREY), DecodeLimits(max_bytes=50)).reason is Reason.TOO_LARGE
    assert refused(encode(GREY), DecodeLimits(max_pixels=GREY.size - 1)).reason is Reason.TOO_LARGE
    assert decode_radiograph(encode(GREY), DecodeLimits(max_pixels=GREY.size)).pixels.shape == GREY.shape


def png_bomb() -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def jpeg_bomb() -> bytes:
    data = bytearray(encode(GREY, "JPEG"))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", 30_000, 30_000)
    return bytes(data)


def deflated_bomb() -> bytes:
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    body = deflater.compress(b"\0" * 2**26) + deflater.flush()
    whole = dicom(GREY, uid.DeflatedExplicitVRLittleEndian)
    (length,) = struct.unpack_from("<I", whole, 140)
    return whole[: 144 + length] + body


@pytest.mark.parametrize(
    "data",
    [
        png_bomb(),
        jpeg_bomb(),
        dicom(GREY, Rows=30_000, Columns=30_000),
        dicom(GREY, uid.JPEGBaseline8Bit, Rows=30_000, Columns=30_000, PixelData=encapsulate([jpeg_bomb()])),
        deflated_bomb(),
    ],
    ids=["png", "jpeg", "dicom", "dicom-jpeg", "dicom-deflated"],
)
def test_bomb_costs_neither_time_nor_memory(data: bytes) -> None:
    limits = DecodeLimits(max_bytes=2**24)
    refused(data, limits)  # imports and tables are paid for
    tracemalloc.start()
    start = time.perf_counter()
    error = refused(data, limits)
    seconds = time.perf_counter() - start
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert error.reason is Reason.TOO_LARGE
    assert seconds < 0.25
    assert peak < 5 * 2**20


@pytest.mark.parametrize("frame", [jpeg_bomb(), encode(GREY[:40], "JPEG")], ids=["larger", "smaller"])
def test_frame_of_another_size_than_the_data_set_is_refused(frame: bytes) -> None:
    error = refused(dicom(GREY, uid.JPEGBaseline8Bit, PixelData=encapsulate([frame])))
    assert error.reason is Reason.CORRUPT_IMAGE


def damaged_frame(name: str, at: int, value: bytes) -> bytes:
    """One of pydicom's files with `value` written `at` bytes after the start of its compressed frame."""
    (path,) = (path for path in PYDICOM_FILES if path.name == name)
    data = bytearray(path.read_bytes())
    pixel_data = data.rindex(b"\xe0\x7f\x10\x00")
    start = min(at for at in (data.find(m, pixel_data) for m in (b"\xff\xd8\xff", b"\xff\x4f\xff\x51")) if at > 0)
    data[start + at : start + at + len(value)] = value
    return bytes(data)


@pytest.mark.parametrize("transform", [0, 1, 2, 3, 128, 255])
def test_frame_that_ends_gdcm_costs_one_image(transform: int) -> None:
    """GDCM calls std::terminate on some colour transforms of the Adobe marker; each is decoded or refused here."""
    name, adobe = "SC_rgb_jpeg_gdcm.dcm", b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00" + bytes([transform])
    try:
        assert decode_radiograph(damaged_frame(name, 2, adobe)).pixels.shape == (100, 100)
    except DecodeError as error:
        assert error.reason is Reason.CORRUPT_IMAGE


def test_damaged_jp2_box_does_not_loop() -> None:
    """pydicom walks the JP2 boxes before the codestream for ever if the last one's name is damaged."""
    damaged = damaged_frame("GDCMJ2K_TextGBR.dcm", -4, b"jp2\0")
    assert np.array_equal(decode(damaged), by_name("GDCMJ2K_TextGBR.dcm").pixels)


# JPEG and PNG ---------------------------------------------------------------------------------------------------------


def test_8_bit_grey_is_kept_exactly() -> None:
    low_contrast = GREY // 8 + 60
    radiograph = decode_radiograph(encode(low_contrast))
    assert np.array_equal(radiograph.pixels, low_contrast)
    assert radiograph.pixels.dtype == np.uint8
    assert radiograph.pixels.flags.writeable
    assert (radiograph.bits, radiograph.photometric) == (8, "MONOCHROME2")


def luma(rgb: np.ndarray) -> np.ndarray:
    return rgb @ [0.299, 0.587, 0.114]


def with_alpha(pixels: np.ndarray) -> np.ndarray:
    alpha = np.full(pixels.shape[:2], 255, dtype=np.uint8)
    alpha[:10] = 0
    return np.dstack([pixels, alpha])


@pytest.mark.parametrize(
    ("data", "expected", "bits", "photometric"),
    [
        (encode(np.dstack([GREY] * 3)), GREY, 8, "RGB"),
        (encode(COLOUR), luma(COLOUR), 8, "RGB"),
        (encode(with_alpha(GREY)), np.where(np.arange(48)[:, None] < 10, 0, GREY), 8, "MONOCHROME2"),
        (encode(with_alpha(COLOUR)), np.where(np.arange(48)[:, None] < 10, 0, luma(COLOUR)), 8, "RGB"),
        (encode(Image.fromarray(GREY > 99)), (GREY > 99) * 255, 1, "MONOCHROME2"),
        (encode(Image.fromarray(GREY).convert("P")), GREY, 8, "PALETTE COLOR"),
        (encode(Image.fromarray(GREY), transparency=int(GREY[9, 9])), np.where(GREY[9, 9] == GREY, 0, GREY), 8, None),
    ],
    ids=["grey-as-rgb", "rgb", "la", "rgba", "1-bit", "palette", "colour-key"],
)
def test_png_of_every_mode_becomes_grey(data: bytes, expected: np.ndarray, bits: int, photometric: str | None) -> None:
    radiograph = decode_radiograph(data)
    assert np.abs(radiograph.pixels - expected.astype(float)).max() <= 1
    assert radiograph.bits == bits
    assert radiograph.photometric == (photometric or "MONOCHROME2")


@pytest.mark.parametrize(("mode", "photometric"), [("L", "MONOCHROME2"), ("RGB", "RGB"), ("CMYK", "CMYK")])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_of_every_mode_becomes_grey(mode: str, photometric: str, progressive: bool) -> None:
    image = Image.fromarray(GREY).convert("RGB").convert(mode)
    radiograph = decode_radiograph(encode(image, "JPEG", quality=98, progressive=progressive))
    assert np.abs(radiograph.pixels - GREY.astype(float)).mean() < 1.5
    assert (radiograph.bits, radiograph.photometric) == (8, photometric)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    turn = {
        1: lambda a: a,
        2: np.fliplr,
        3: lambda a: np.rot90(a, 2),
        4: np.flipud,
        5: np.transpose,
        6: lambda a: np.rot90(a, -1),
        7: lambda a: np.rot90(a, 2).T,
        8: np.rot90,
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    plain = decode_radiograph(encode(GREY, "JPEG")).pixels
    assert np.array_equal(decode_radiograph(encode(GREY, "JPEG", exif=exif)).pixels, turn(plain))


def test_16_bit_png_uses_all_bits_and_ignores_outliers() -> None:
    values = (GREY.astype(np.uint16) * 12 + 20_000).astype(np.uint16)  # a span that 8 of 16 bits would make 12 greys
    values[0, :3] = 65_535  # a burnt-in marker
    values[1, :3] = 0
    radiograph = decode_radiograph(encode(values))
    pixels = radiograph.pixels.astype(int)
    assert radiograph.bits == 16
    assert (pixels[0, :3] == 255).all()
    assert (pixels[1, :3] == 0).all()
    assert np.corrcoef(pixels[2:].ravel(), GREY[2:].ravel())[0, 1] > 0.999
    assert np.unique(pixels).size > 200


def test_constant_16_bit_png_is_black() -> None:
    assert (decode_radiograph(encode(np.full((40, 40), 777, dtype=np.uint16))).pixels == 0).all()


SMALL_FILES = {
    "jpeg": encode(GREY, "JPEG"),
    "jpeg-exif": encode(GREY, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x03\0\0\0\0\0\0\0"),
    "jpeg-progressive-rgb": encode(COLOUR, "JPEG", progressive=True),
    "png": encode(GREY),
    "png-16": encode(GREY.astype(np.uint16) * 200),
    "png-palette": encode(Image.fromarray(COLOUR).quantize(16)),
    "dicom": dicom(GREY.astype(np.uint16) * 16, BitsStored=12, WindowCenter=2000, WindowWidth=3000),
    "dicom-jpeg": dicom(GREY, uid.JPEGBaseline8Bit, PixelData=encapsulate([encode(GREY, "JPEG")])),
    "dicom-j2k": dicom(
        GREY, uid.JPEG2000Lossless, PixelData=encapsulate([encode(GREY, "JPEG2000", no_jp2=True, irreversible=False)])
    ),
}
SCANS = {name: data for name, data in SMALL_FILES.items() if name.startswith(("jpeg", "png"))}


@pytest.mark.parametrize("data", SMALL_FILES.values(), ids=SMALL_FILES)
def test_small_files_are_sound_before_they_are_damaged(data: bytes) -> None:
    assert decode_radiograph(data).pixels.shape == GREY.shape


@pytest.mark.parametrize("data", SCANS.values(), ids=SCANS)
def test_every_truncation_is_corrupt(data: bytes) -> None:
    for cut in range(33, len(data)):
        assert refused(data[:cut]).reason is Reason.CORRUPT_IMAGE
        if cut < len(data) - 2:  # the same length, but the rest never arrived
            assert refused(data[:cut] + b"\0" * (len(data) - cut)).reason is Reason.CORRUPT_IMAGE


@settings(max_examples=600, deadline=None)
@given(st.sampled_from(sorted(SMALL_FILES)), st.data())
def test_any_damage_gives_a_radiograph_or_a_decode_error(name: str, draw: st.DataObject) -> None:
    damaged = bytearray(SMALL_FILES[name])
    for _ in range(draw.draw(st.integers(1, 4))):
        at = draw.draw(st.integers(0, len(damaged) - 1))
        match draw.draw(st.sampled_from(["set", "cut", "double"])):
            case "set":
                damaged[at] = draw.draw(st.integers(0, 255))
            case "cut":
                del damaged[at : at + draw.draw(st.integers(1, 8))]
            case "double":
                damaged[at:at] = damaged[at : at + 8]
        if not damaged:
            break
    try:
        radiograph = decode_radiograph(bytes(damaged), DecodeLimits(max_pixels=1_000_000))
    except DecodeError as error:
        assert error.detail
        assert PLANTED not in str(error)
    else:
        assert radiograph.pixels.ndim == 2
        assert radiograph.pixels.dtype == np.uint8


# DICOM ----------------------------------------------------------------------------------------------------------------

TWELVE = (GREY.astype(np.uint16) * 8 + 500).astype(np.uint16)


def decode(data: bytes) -> np.ndarray:
    return decode_radiograph(data).pixels


def test_8_bit_dicom_is_kept_exactly_and_monochrome1_is_inverted() -> None:
    low_contrast = GREY // 8 + 60
    assert np.array_equal(decode(dicom(low_contrast)), low_contrast)
    radiograph = decode_radiograph(dicom(low_contrast, PhotometricInterpretation="MONOCHROME1"))
    assert np.array_equal(radiograph.pixels, 255 - low_contrast)
    assert (radiograph.bits, radiograph.photometric) == (8, "MONOCHROME1")


def test_linear_window_follows_the_standard() -> None:
    # PS3.3 C.11.2.1.2.1, with an output of 0 to 255
    center, width = 1400.0, 1000.0
    expected = np.clip(((TWELVE - (center - 0.5)) / (width - 1) + 0.5) * 255, 0, 255)
    seen = decode(dicom(TWELVE, BitsStored=12, WindowCenter=center, WindowWidth=width))
    assert np.abs(seen - expected).max() <= 0.5
    first_of_two = dicom(TWELVE, BitsStored=12, WindowCenter=[center, 9.0], WindowWidth=[width, 9.0])
    assert np.array_equal(decode(first_of_two), seen)
    inverted = dicom(
        TWELVE, BitsStored=12, WindowCenter=center, WindowWidth=width, PhotometricInterpretation="MONOCHROME1"
    )
    assert np.abs(255 - decode(inverted).astype(int) - seen).max() <= 1


@pytest.mark.parametrize(
    ("function", "formula"),
    [
        ("LINEAR_EXACT", lambda x: np.clip((x - 1400) / 1000 + 0.5, 0, 1)),
        ("SIGMOID", lambda x: 1 / (1 + np.exp(-4 * (x - 1400) / 1000))),
    ],
)
def test_other_voi_functions_follow_the_standard(function: str, formula) -> None:
    data = dicom(TWELVE, BitsStored=12, WindowCenter=1400, WindowWidth=1000, VOILUTFunction=function)
    assert np.abs(decode(data) - 255 * formula(TWELVE.astype(float))).max() <= 0.5


def test_window_is_in_units_after_the_rescale() -> None:
    plain = decode(dicom(TWELVE, BitsStored=12, WindowCenter=1400, WindowWidth=1001))
    window = {"WindowCenter": 1400 * 2 - 100 - 0.5, "WindowWidth": 2001}
    rescaled = decode(dicom(TWELVE, BitsStored=12, RescaleSlope=2, RescaleIntercept=-100, **window))
    assert np.abs(plain.astype(int) - rescaled).max() <= 1


def test_negative_slope_turns_the_polarity() -> None:
    plain = decode(dicom(TWELVE, BitsStored=12)).astype(int)
    negative = decode(dicom(TWELVE, BitsStored=12, RescaleSlope=-1, RescaleIntercept=4095))
    assert np.abs(255 - plain - negative).max() <= 2


def test_without_a_window_the_pixels_are_stretched() -> None:
    seen = decode(dicom(TWELVE, BitsStored=12))
    assert (seen.min(), seen.max()) == (0, 255)
    assert np.corrcoef(seen.ravel(), TWELVE.ravel())[0, 1] > 0.999
    inverted = decode(dicom(TWELVE, BitsStored=12, PhotometricInterpretation="MONOCHROME1"))
    assert np.abs(255 - inverted.astype(int) - seen).max() <= 1


def test_padding_does_not_widen_the_stretch() -> None:
    padded = TWELVE.copy()
    padded[:, :20] = 0
    seen = decode(dicom(padded, BitsStored=12, PixelPaddingValue=0))[:, 20:]
    assert seen.min() <= 5
    assert decode(dicom(padded, BitsStored=12))[:, 20:].min() > 30


def test_signed_pixels_keep_their_order() -> None:
    signed = TWELVE.astype(np.int16) - 1500
    assert np.array_equal(decode(dicom(signed, BitsStored=12)), decode(dicom(TWELVE, BitsStored=12)))


def lut(descriptor: list[int], values: list[int]) -> Dataset:
    item = Dataset()
    item.add_new("LUTDescriptor", "US", descriptor)
    item.add_new("LUTData", "US", values)
    return item


def test_modality_and_voi_luts_are_applied() -> None:
    squared = [i * i // 16 for i in range(256)]
    voi = lut([256, 0, 12], squared)
    expected = np.array(squared)[GREY] / 4095 * 255
    assert np.abs(decode(dicom(GREY, VOILUTSequence=[voi])) - expected).max() <= 0.5
    assert np.abs(decode(dicom(GREY, VOILUTSequence=[voi], WindowCenter=5, WindowWidth=5)) - expected).max() <= 0.5
    modality = lut([256, 0, 16], [255 - i for i in range(256)])
    modality.ModalityLUTType = "US"
    seen = decode(dicom(GREY, ModalityLUTSequence=[modality], WindowCenter=128, WindowWidth=256))
    assert np.abs(seen - (255.0 - GREY)).max() <= 1


def test_colour_dicom_becomes_luma() -> None:
    radiograph = decode_radiograph(dicom(COLOUR))
    assert np.abs(radiograph.pixels - luma(COLOUR)).max() <= 1
    assert radiograph.photometric == "RGB"


def test_palette_dicom_becomes_luma() -> None:
    ramp = np.arange(256, dtype=np.uint16) * 257
    elements: dict[str, object] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for channel in ("Red", "Green", "Blue"):
        elements[f"{channel}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
        elements[f"{channel}PaletteColorLookupTableData"] = ramp[::-1].tobytes()
    assert np.abs(decode(dicom(GREY, **elements)) - (255.0 - GREY)).max() <= 1


@pytest.mark.parametrize("strip", [128 + 4, "meta"], ids=["no-preamble", "no-meta"])
def test_dicom_without_preamble_is_read_if_its_sop_class_says_so(strip: int | str) -> None:
    whole = dicom(TWELVE, BitsStored=12)
    (length,) = struct.unpack_from("<I", whole, 140)
    bare = whole[132:] if strip == 132 else whole[144 + length :]
    assert np.array_equal(decode(bare), decode(whole))


@pytest.mark.filterwarnings("ignore:Invalid value for VR")
def test_identifiers_are_in_no_message_and_no_log(caplog: pytest.LogCaptureFixture) -> None:
    broken = [
        dicom(GREY, Rows=30),
        dicom(GREY, PhotometricInterpretation=PLANTED[:16]),
        dicom(GREY, PixelData=PLANTED.encode()),
        dicom(GREY).replace(b"MONOCHROME2 ", b"Doe^Jane1970"),
    ]
    caplog.clear()  # what pydicom said when it wrote them
    with caplog.at_level(logging.DEBUG), warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for data in broken:
            assert "Doe" not in str(refused(data))
    assert not caplog.records
    assert not seen


@pytest.mark.parametrize("path", PYDICOM_FILES, ids=lambda path: path.name)
def test_every_file_of_pydicom_decodes_or_says_why_not(path: Path) -> None:
    try:
        radiograph = decode_radiograph(path.read_bytes(), DecodeLimits(min_side=1))
    except DecodeError as error:
        assert error.detail
    else:
        assert radiograph.pixels.ndim == 2
        assert radiograph.pixels.size > 0


def by_name(name: str) -> Radiograph:
    (path,) = (path for path in PYDICOM_FILES if path.name == name)
    return decode_radiograph(path.read_bytes())


@pytest.mark.parametrize(
    "name",
    [
        "MR_small_RLE.dcm",
        "MR_small_bigendian.dcm",
        "MR_small_implicit.dcm",
        "MR_small_jp2klossless.dcm",
        "MR_small_jpeg_ls_lossless.dcm",
    ],
)
def test_lossless_transfer_syntaxes_agree(name: str) -> None:
    assert np.array_equal(by_name(name).pixels, by_name("MR_small.dcm").pixels)


@pytest.mark.real
@pytest.mark.skipif(not REAL_DICOM.is_dir(), reason="needs the real DICOM files")
def test_one_radiograph_in_five_transfer_syntaxes() -> None:
    reference = decode_radiograph((REAL_DICOM / "RG3_RLE.dcm").read_bytes())
    assert (reference.bits, reference.photometric) == (10, "MONOCHROME1")
    for name in ("RG3_J2KR.dcm", "RG3_JLSL.dcm", "RG3_JPLL.dcm"):
        assert np.array_equal(decode((REAL_DICOM / name).read_bytes()), reference.pixels)
    lossy = decode((REAL_DICOM / "RG3_JPLY.dcm").read_bytes())  # 12-bit JPEG extended
    assert np.abs(lossy.astype(int) - reference.pixels).mean() < 1


@pytest.mark.real
@pytest.mark.skipif(not REAL_DICOM.is_dir(), reason="needs the real DICOM files")
@pytest.mark.parametrize("name", ["chest_cr_mono1_jpeg2000.dcm", "chest_mono2_jpeg_baseline.dcm"])
def test_real_chest_has_bright_bones(name: str) -> None:
    pixels = decode((REAL_DICOM / name).read_bytes()).astype(float)
    rows, columns = pixels.shape
    band = pixels[rows * 3 // 10 : rows // 2]
    spine = band[:, int(columns * 0.47) : int(columns * 0.53)].mean()
    lung = band[:, int(columns * 0.2) : int(columns * 0.35)].mean()
    assert spine > lung + 30
