"""Decoding DICOM: the grayscale pipeline of the standard, every transfer syntax, every file of pydicom's own tests."""

from __future__ import annotations

import struct
from base64 import b64decode
from pathlib import Path

import gdcm
import numpy as np
import pytest
from image_files import (
    COLOUR,
    GREY,
    PYDICOM_FILES,
    TWELVE,
    by_gdcm,
    decode,
    dicom,
    encode,
    luma,
    pydicom_file,
    refused,
    rle,
    sound,
    stretched,
)
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate

from featurizers.decode import decode_radiograph
from featurizers.errors import DecodeError
from featurizers.radiograph import DecodeLimits
from featurizers.reasons import Reason

# The grayscale pipeline -----------------------------------------------------------------------------------------------


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


def test_lut_that_declares_more_bits_than_it_fills_is_not_dark() -> None:
    voi = lut([256, 0, 16], [i * 16 for i in range(256)])
    assert np.abs(decode(dicom(GREY, VOILUTSequence=[voi])) - GREY.astype(float) * 4080 / 4095).max() <= 0.5


def test_lut_of_8_bits_maps_12_bit_pixels() -> None:
    curve = (np.arange(4096) // 16).astype(np.uint8)
    for vr, data in (("US", curve.tolist()), ("OW", curve.tobytes()), ("OW", curve.astype("<u2").tobytes())):
        voi = Dataset()
        voi.add_new("LUTDescriptor", "US", [4096, 0, 8])
        voi.add_new("LUTData", vr, data)
        assert np.array_equal(decode(dicom(TWELVE, BitsStored=12, VOILUTSequence=[voi])), TWELVE // 16)


def test_lut_starts_at_its_first_mapped_value() -> None:
    voi = lut([100, 50, 8], list(range(100, 200)))
    assert np.array_equal(decode(dicom(GREY, VOILUTSequence=[voi])), np.clip(GREY.astype(int) + 50, 100, 199))


WINDOW = {"WindowCenter": 1400, "WindowWidth": 1000}


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("shift", [0, 2, 4])
@pytest.mark.parametrize("window", [WINDOW, {}], ids=["window", "percentiles"])
@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.RLELossless])
def test_bits_beside_the_stored_ones_are_ignored(signed: bool, shift: int, window: dict, syntax: uid.UID) -> None:
    """Overlays in unused bits (PS3.5-2004, 8.1.2), and pixels that end below or above Bits Stored - 1."""
    plain = TWELVE.astype(np.int16) - 1500 if signed else TWELVE
    window = {key: value - 1500 * (signed and key == "WindowCenter") for key, value in window.items()}
    overlay = np.random.default_rng(0).integers(0, 2**16, TWELVE.shape, dtype=np.uint16)
    mask = np.uint16(0xFFF << shift)
    words = ((plain.view(np.uint16) << shift) & mask | overlay & ~mask).view(plain.dtype)
    elements: dict[str, object] = {"BitsStored": 12, "HighBit": 11 + shift, **window}
    data = rle(words, **elements) if syntax == uid.RLELossless else dicom(words, **elements)
    assert np.array_equal(decode(data), decode(dicom(plain, BitsStored=12, **window)))


@pytest.mark.parametrize("limits", [(0, 300), (300, 0)])
def test_padding_up_to_its_range_limit_does_not_widen_the_stretch(limits: tuple[int, int]) -> None:
    padded = TWELVE.copy()
    padded[:, :20] = np.arange(20) * 15
    value, limit = limits
    seen = decode(dicom(padded, BitsStored=12, PixelPaddingValue=value, PixelPaddingRangeLimit=limit))
    assert np.abs(seen[:, 20:] - stretched(padded[:, 20:])).max() <= 0.5


def test_signed_padding_is_compared_with_signed_values() -> None:
    padded = TWELVE.astype(np.int16)
    padded[:, :20] = -2000
    seen = decode(dicom(padded, PixelPaddingValue=-2000))
    assert np.abs(seen[:, 20:] - stretched(padded[:, 20:])).max() <= 0.5


@pytest.mark.parametrize(
    ("elements", "spacing"),
    [
        ({}, None),
        ({"PixelSpacing": [0.2, 0.25]}, (0.2, 0.25)),
        ({"ImagerPixelSpacing": [0.14, 0.15]}, (0.14, 0.15)),
        ({"PixelSpacing": [0.2, 0.25], "ImagerPixelSpacing": [0.14, 0.15]}, (0.2, 0.25)),
        ({"PixelSpacing": [0, 0], "ImagerPixelSpacing": [0.14, 0.15]}, (0.14, 0.15)),
        ({"PixelSpacing": [-0.2, 0.2]}, None),
        ({"PixelSpacing": "0.2"}, None),
        ({"PixelSpacing": None, "ImagerPixelSpacing": ""}, None),
    ],
)
def test_pixel_spacing_is_kept_where_it_is_one(elements: dict, spacing: tuple[float, float] | None) -> None:
    present = {key: value for key, value in elements.items() if value is not None}
    assert decode_radiograph(dicom(GREY, **present)).pixel_spacing == spacing


def test_ill_written_spacing_does_not_cost_the_image() -> None:
    data = dicom(GREY, PixelSpacing=[0.125, 0.125])
    for value in (b"abc\\def    ", b"nan\\nan    ", b"1e999\\1    "):
        assert decode_radiograph(data.replace(b"0.125\\0.125 ", value.ljust(12))).pixel_spacing is None


def test_colour_of_16_bits_is_stretched() -> None:
    deep = COLOUR.astype(np.uint16) * 5 + 9_000
    assert np.abs(decode(dicom(deep)) - stretched(luma(deep))).max() <= 1


def test_planar_and_subsampled_colour_become_luma() -> None:
    planes = dicom(COLOUR, PlanarConfiguration=1, PixelData=COLOUR.transpose(2, 0, 1).tobytes())
    assert np.abs(decode(planes) - luma(COLOUR)).max() <= 1
    ybr = np.dstack([GREY, np.full_like(GREY, 128), np.full_like(GREY, 128)])
    assert np.array_equal(decode(dicom(ybr, PhotometricInterpretation="YBR_FULL")), GREY)


def test_single_bits_are_black_and_white() -> None:
    bits = GREY > 99
    data = dicom(GREY, BitsAllocated=1, BitsStored=1, PixelData=np.packbits(bits, bitorder="little").tobytes())
    radiograph = decode_radiograph(data)
    assert np.array_equal(radiograph.pixels, bits * 255)
    assert radiograph.bits == 1


# Transfer syntaxes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pixels", [GREY, TWELVE, TWELVE.astype(np.int16) - 1500], ids=["8", "12", "signed"])
@pytest.mark.parametrize(
    ("syntax", "expected"),
    [
        (gdcm.TransferSyntax.ImplicitVRLittleEndian, uid.ImplicitVRLittleEndian),
        (gdcm.TransferSyntax.ExplicitVRBigEndian, uid.ExplicitVRBigEndian),
        (gdcm.TransferSyntax.DeflatedExplicitVRLittleEndian, uid.DeflatedExplicitVRLittleEndian),
        (gdcm.TransferSyntax.RLELossless, uid.RLELossless),
        (gdcm.TransferSyntax.JPEGLosslessProcess14, uid.JPEGLossless),
        (gdcm.TransferSyntax.JPEGLosslessProcess14_1, uid.JPEGLosslessSV1),
        (gdcm.TransferSyntax.JPEGLSLossless, uid.JPEGLSLossless),
        (gdcm.TransferSyntax.JPEG2000Lossless, uid.JPEG2000Lossless),
    ],
    ids=lambda value: value.name if isinstance(value, uid.UID) else "",
)
def test_lossless_compression_by_gdcm_changes_nothing(
    pixels: np.ndarray, syntax: int, expected: uid.UID, tmp_path: Path
) -> None:
    plain = dicom(pixels, BitsStored=8 if pixels is GREY else 12)
    compressed = by_gdcm(plain, syntax, tmp_path)
    assert expected.encode() in compressed[:512]
    assert np.array_equal(decode(compressed), decode(plain))


@pytest.mark.parametrize(
    ("syntax", "pixels"),
    [
        (gdcm.TransferSyntax.JPEGBaselineProcess1, GREY),
        (gdcm.TransferSyntax.JPEGLSNearLossless, GREY),
        (gdcm.TransferSyntax.JPEGLSNearLossless, COLOUR),
        (gdcm.TransferSyntax.JPEG2000, GREY),
        (gdcm.TransferSyntax.JPEG2000, COLOUR),
    ],
)
def test_lossy_compression_by_gdcm_changes_little(syntax: int, pixels: np.ndarray, tmp_path: Path) -> None:
    seen = decode(by_gdcm(dicom(pixels), syntax, tmp_path))
    assert np.abs(seen - (luma(pixels) if pixels.ndim == 3 else pixels.astype(float))).mean() < 3


# By OpenJPH 0.2x, of GREY and TWELVE: nothing else that is installed writes HTJ2K.
HTJ2K = {
    "8": (
        "/0//UQApQAAAAABAAAAAMAAAAAAAAAAAAAAAQAAAADAAAAAAAAAAAAABBwEB/1AACAACAAAAAv9SAAwAAgABAAUEBEAB/1wAEyBI"
        "UFBQUFBQUFBQUFBQSEhI/2QAFwABT3BlbkpQSCBWZXIgMC4yNi4zLv+QAAoAAAAAANIAAf+TwCoAATNvXADDNADAE0ASAAjyAIJ0"
        "AO0KMwDAFRAFSEKIoAIwAnYAtm3bwAABvrYAwBVQBWQBIAAA4OeAh6fCdwBaVVVV+nJ798nsuAD9AEQAwBXwBasATAAAAADw+f6H"
        "p6enp0J6AEySJEmSJP9xgJLfZJ79knv2Sey/AKD/dQvVAMAtWAW/AJwAACD8/r/sE6j09PT09PT09PTycQEIAAAAAAAAgP9/aAYO"
        "2vfuvfuvfuvfuvfuvfuvZccB/P9/acNGAP/Z"
    ),
    "lossy": (
        "/0//UQApQAAAAABAAAAAMAAAAAAAAAAAAAAAQAAAADAAAAAAAAAAAAABBwEB/1AACAACAAAAIv9SAAwAAgABAAUEBEAA/1wAIyJ3"
        "GHbqdup2vG8AbwBu4mdMZ0xnZFADUANQRlfSV9JXYf9kABcAAU9wZW5KUEggVmVyIDAuMjYuMy7/kAAKAAAAAAEOAAH/k8ABVCM6"
        "e3VrbwHDNADAAVMABMAppCCCCAFCtADb2wBCNADAAtCABaKiEKLV0uuFaOkZf/AEWZcAtKc77bTr1dPT+w5PcyQxtwDABakAFuwA"
        "SoiUOAemxDkwJY5ZJX8lfgCtC3oATJIkH+1D+2iP9tEe7aM92B0IQKdMIQKbvrXqPQD9/QRUAMAWzAF1EATAJCQJSUKSkCQkIf15"
        "/Hl2S7JdkuyXUVkeAAIAhg46NHRo6NDQoaFDQ4dGDgX5f+5KdPkp0+SnT5KbvrXrXrXqNAH4/3UH1QDAFdAFrgAAwP6/8UpSlKUp"
        "S+sAAgAAwP9/bx/v3+/f79/v3+/f79/sswH/2Q=="
    ),
    "12": (
        "/0//UQApQAAAAABAAAAAMAAAAAAAAAAAAAAAQAAAADAAAAAAAAAAAAABDwEB/1AACAACAAAACv9SAAwAAgABAAUEBEAB/1wAEyCI"
        "kJCQkJCQkJCQkJCQiIiI/2QAFwABT3BlbkpQSCBWZXIgMC4yNi4zLv+QAAoAAAAAATIAAf+TwAArADH84frP+5j4AoG0AMAAE8AA"
        "EwBIkPwCAnQAdf0AAjQAwAAVMAAFWCIiIqBiMYJ2ALZt27b9wDGBvrYAwAAVsAAFowAAShAIBAJh/OeKenECdwDaWq1Wq9Va+ghA"
        "e/YhAey6APH9GFQAwAAWrAABdDAABUiGYRiGYRiGAShB+f4EOnp6enCCewBqVVVVVVVVVVVVVQ6g/v9xgEIEv2EIHv2EIHv2EIHs"
        "swHAgub/dQAB1gDAAC6CAAF3EAAKsO7u7u7u7u7u7u5eCCL+/r/sJRdHp6enp6enp6enwnIBcp1zzjnnnHPOOeecc84555xzElL8"
        "/39oAIf7QAA9+wAA9+wAA9+wAA9+wAA9+wAA9+wAA9loUwJjz/3/f2piZtC4AP/Z"
    ),
}


@pytest.mark.parametrize(
    ("syntax", "pixels", "tolerance"),
    [
        (uid.HTJ2KLossless, GREY, 0),
        (uid.HTJ2KLosslessRPCL, GREY, 0),
        (uid.HTJ2K, GREY, 2),
        (uid.HTJ2KLossless, TWELVE, 0),
    ],
)
def test_high_throughput_jpeg_2000_is_read(syntax: uid.UID, pixels: np.ndarray, tolerance: int) -> None:
    bits = 8 if pixels is GREY else 12
    frame = b64decode(HTJ2K["lossy" if syntax == uid.HTJ2K else str(bits)])
    seen = decode(dicom(pixels, syntax, BitsStored=bits, PixelData=encapsulate([frame])))
    assert np.abs(seen.astype(int) - decode(dicom(pixels, BitsStored=bits))).max() <= tolerance


def test_lossy_values_beyond_bits_stored_are_clipped_not_wrapped() -> None:
    """Extended JPEG has 12 bits: what it overshoots the 10 of the data set by must be white, not black."""
    frame = frame_of("JPGExtended.dcm")
    wide = decode(dicom(np.zeros((1024, 256), np.uint16), uid.JPEGExtended12Bit, **extended(frame, 12)))
    narrow = decode(dicom(np.zeros((1024, 256), np.uint16), uid.JPEGExtended12Bit, **extended(frame, 5)))
    assert (narrow[wide > wide.max() // 2] == 255).all()


def frame_of(name: str) -> bytes:
    data = pydicom_file(name)
    return data[data.rindex(b"\xff\xd8\xff") : data.rindex(b"\xff\xd9") + 2]


def extended(frame: bytes, bits: int) -> dict[str, object]:
    window = {"WindowCenter": 2 ** (bits - 1), "WindowWidth": 2**bits}
    return {"PixelData": encapsulate([frame]), "BitsStored": bits, **window}


@pytest.mark.parametrize("syntax", [uid.JPEGBaseline8Bit, uid.JPEG2000Lossless])
def test_frame_filled_up_with_zeros_is_corrupt(syntax: uid.UID) -> None:
    file_format, options = {
        uid.JPEGBaseline8Bit: ("JPEG", {}),
        uid.JPEG2000Lossless: ("JPEG2000", {"no_jp2": True, "irreversible": False}),
    }[syntax]
    frame = encode(GREY, file_format, **options)
    for cut in (len(frame) * 3 // 4, len(frame) - 3):
        filled = frame[:cut] + b"\0" * (len(frame) - cut)
        assert "no end marker" in refused(dicom(GREY, syntax, PixelData=encapsulate([filled]))).detail


def test_rle_that_expands_far_beyond_the_image_is_corrupt() -> None:
    runs = struct.pack("<16I", 1, 64, *[0] * 14) + b"\x81\x00" * 2**16
    error = refused(dicom(GREY, uid.RLELossless, PixelData=encapsulate([runs])))
    assert "RLE" in error.detail


@pytest.mark.parametrize("name", ["SC_rgb_rle.dcm", "MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm"])
def test_frame_that_never_arrived_in_full_is_corrupt(name: str) -> None:
    data = pydicom_file(name)
    middle = len(data) - (len(data) - data.rindex(b"\xe0\x7f\x10\x00")) // 2
    for damaged in (data[:middle], data[:middle] + b"\0" * (len(data) - middle)):
        assert refused(damaged).reason is Reason.CORRUPT_IMAGE


@pytest.mark.parametrize(
    "frame", [encode(np.vstack([GREY, GREY]), "JPEG"), encode(GREY[:40], "JPEG")], ids=["larger", "smaller"]
)
def test_frame_of_another_size_than_the_data_set_is_refused(frame: bytes) -> None:
    error = refused(dicom(GREY, uid.JPEGBaseline8Bit, PixelData=encapsulate([frame])))
    assert error.reason is Reason.CORRUPT_IMAGE


def damaged_frame(name: str, at: int, value: bytes) -> bytes:
    """One of pydicom's files with `value` written `at` bytes after the start of its compressed frame."""
    data = bytearray(pydicom_file(name))
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
    assert np.array_equal(decode(damaged), decode(pydicom_file("GDCMJ2K_TextGBR.dcm")))


# Files of others ------------------------------------------------------------------------------------------------------


# Why pydicom's files that are refused are; those that are not named have no Pixel Data.
PYDICOM_REFUSALS = {
    "JPEG2000-embedded-sequence-delimiter.dcm": Reason.CORRUPT_IMAGE,  # its header was written over to hold one
    "MR_truncated.dcm": Reason.CORRUPT_IMAGE,
    "SC_rgb_rle_16bit_2frame.dcm": Reason.UNSUPPORTED_DICOM,
    "SC_rgb_rle_2frame.dcm": Reason.UNSUPPORTED_DICOM,
    "SC_rgb_rle_32bit.dcm": Reason.UNSUPPORTED_DICOM,
    "SC_rgb_rle_32bit_2frame.dcm": Reason.UNSUPPORTED_DICOM,
    "badVR.dcm": Reason.CORRUPT_IMAGE,
    "examples_ybr_color.dcm": Reason.UNSUPPORTED_DICOM,
    "meta_missing_tsyntax.dcm": Reason.CORRUPT_IMAGE,  # no Rows
    "nested_priv_SQ.dcm": Reason.CORRUPT_IMAGE,  # no Rows
    "no_meta.dcm": Reason.NOT_AN_IMAGE,  # a data set that starts in the middle of an element
    "rtdose.dcm": Reason.UNSUPPORTED_DICOM,
    "rtdose_1frame.dcm": Reason.UNSUPPORTED_DICOM,
    "rtdose_expb.dcm": Reason.UNSUPPORTED_DICOM,
    "rtdose_expb_1frame.dcm": Reason.UNSUPPORTED_DICOM,
    "rtdose_rle.dcm": Reason.UNSUPPORTED_DICOM,
    "rtdose_rle_1frame.dcm": Reason.UNSUPPORTED_DICOM,
}


@pytest.mark.parametrize("path", PYDICOM_FILES, ids=lambda path: path.name)
def test_every_file_of_pydicom_decodes_or_says_why_not(path: Path) -> None:
    limits = DecodeLimits(min_side=1)
    try:
        radiograph = decode_radiograph(path.read_bytes(), limits)
    except DecodeError as error:
        assert error.reason is PYDICOM_REFUSALS.get(path.name, Reason.NO_PIXEL_DATA)
    else:
        assert path.name not in PYDICOM_REFUSALS
        assert sound(radiograph, limits)


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
    assert np.array_equal(decode(pydicom_file(name)), decode(pydicom_file("MR_small.dcm")))


@pytest.mark.parametrize(
    "name",
    [
        *("SC_rgb_dcmtk_+eb+cr.dcm", "SC_rgb_dcmtk_+eb+cy+n1.dcm", "SC_rgb_dcmtk_+eb+cy+n2.dcm"),
        *("SC_rgb_dcmtk_+eb+cy+np.dcm", "SC_rgb_dcmtk_+eb+cy+s2.dcm", "SC_rgb_dcmtk_+eb+cy+s4.dcm"),
        *("SC_rgb_jpeg_dcmtk.dcm", "SC_rgb_jpeg_gdcm.dcm", "SC_rgb_jpeg_lossy_gdcm.dcm", "SC_rgb_gdcm_KY.dcm"),
        *("SC_rgb_jls_lossy_line.dcm", "SC_rgb_jls_lossy_sample.dcm"),
        *("SC_rgb_rle_16bit.dcm", "SC_ybr_full_422_uncompressed.dcm"),
    ],
)
def test_colour_bars_are_the_same_whoever_wrote_them(name: str) -> None:
    """JPEG with and without a colour transform, subsampled or not; JPEG-LS by line and sample; native Y'CbCr."""
    assert np.abs(decode(pydicom_file(name)).astype(int) - decode(pydicom_file("SC_rgb_rle.dcm"))).mean() < 1


@pytest.mark.real
def test_one_radiograph_in_five_transfer_syntaxes(real_data: Path) -> None:
    reference = decode_radiograph((real_data / "dicom" / "RG3_RLE.dcm").read_bytes())
    assert (reference.bits, reference.photometric) == (10, "MONOCHROME1")
    for name in ("RG3_J2KR.dcm", "RG3_JLSL.dcm", "RG3_JPLL.dcm"):
        assert np.array_equal(decode((real_data / "dicom" / name).read_bytes()), reference.pixels)
    lossy = decode((real_data / "dicom" / "RG3_JPLY.dcm").read_bytes())  # 12-bit JPEG extended
    assert np.abs(lossy.astype(int) - reference.pixels).mean() < 1


@pytest.mark.real
@pytest.mark.parametrize("name", ["chest_cr_mono1_jpeg2000.dcm", "chest_mono2_jpeg_baseline.dcm"])
def test_real_chest_has_bright_bones(name: str, real_data: Path) -> None:
    pixels = decode((real_data / "dicom" / name).read_bytes()).astype(float)
    rows, columns = pixels.shape
    band = pixels[rows * 3 // 10 : rows // 2]
    spine = band[:, int(columns * 0.47) : int(columns * 0.53)].mean()
    lung = band[:, int(columns * 0.2) : int(columns * 0.35)].mean()
    assert spine > lung + 30
