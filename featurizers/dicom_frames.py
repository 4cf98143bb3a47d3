"""Pixel Data of a DICOM data set to stored values, each compression by the one decoder that is pinned for it.

Lossy decoders differ in their last bits, hence the pins:

======================================  ==========================================
JPEG baseline                           Pillow (libjpeg-turbo)
JPEG extended, lossless, JPEG-LS        GDCM
JPEG 2000, HTJ2K                        OpenJPEG, through pylibjpeg-openjpeg
RLE, native, deflated                   pydicom
======================================  ==========================================

What a compressed frame's own header declares is compared with the data set before a decoder sees it, and GDCM, which
may end its process, runs in a child.
"""

from __future__ import annotations

import struct

import numpy as np
import numpy.typing as npt
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.pixels.utils import pixel_array

from featurizers.errors import DecodeError
from featurizers.gdcm_process import decode_extended_jpeg, in_child
from featurizers.radiograph import corrupt
from featurizers.raster import check_end_marker, check_jpeg_scan, jpeg_header
from featurizers.reasons import Reason

#: pydicom's decoding plug-in of each transfer syntax that is read; none for what is not compressed.
PLUGINS = {
    uid.JPEGBaseline8Bit: "pillow",
    uid.JPEGExtended12Bit: "gdcm",
    uid.JPEGLossless: "gdcm",
    uid.JPEGLosslessSV1: "gdcm",
    uid.JPEGLSLossless: "gdcm",
    uid.JPEGLSNearLossless: "gdcm",
    uid.JPEG2000Lossless: "pylibjpeg",
    uid.JPEG2000: "pylibjpeg",
    uid.HTJ2KLossless: "pylibjpeg",
    uid.HTJ2KLosslessRPCL: "pylibjpeg",
    uid.HTJ2K: "pylibjpeg",
    uid.RLELossless: "pydicom",
    uid.ImplicitVRLittleEndian: "",
    uid.ExplicitVRLittleEndian: "",
    uid.ExplicitVRBigEndian: "",
    uid.DeflatedExplicitVRLittleEndian: "",
}
#: Transfer syntaxes whose decoded values may be others than those that were encoded.
LOSSY = (
    uid.JPEGBaseline8Bit,
    uid.JPEGExtended12Bit,
    uid.JPEGLSNearLossless,
    uid.JPEG2000,
    uid.HTJ2K,
)
_J2K_PLUGIN = "pylibjpeg"
_J2K_MAGIC = b"\xff\x4f\xff\x51"  # ITU-T T.800: SOC, then SIZ
_RLE_HEADER_BYTES = 64  # PS3.5, G.5
_JPEG_PLUGINS = ("pillow", "gdcm")


def unsupported(what: str, remedy: str) -> DecodeError:
    """The error for a sound DICOM file of a kind that is not read."""
    return DecodeError(Reason.UNSUPPORTED_DICOM, f"{what}; {remedy}")


def stored_pixels(ds: Dataset) -> npt.NDArray[np.integer]:
    """Pixel words, (rows, columns) or (rows, columns, 3), in native byte order and an 8- or 16-bit integer type.

    Bits outside of Bits Stored are as the file has them in grey images, and cleared in colour. Y'CbCr is made RGB.
    """
    syntax = ds.file_meta.TransferSyntaxUID
    plugin = PLUGINS[syntax]
    if syntax.is_compressed and syntax.is_encapsulated:
        frame = get_frame(ds.PixelData, 0, number_of_frames=1)
        if plugin in _JPEG_PLUGINS:
            header = jpeg_header(frame)
            check_jpeg_scan(frame, header)
            _check_frame(ds, header.rows, header.columns, header.components, header.precision)
            if plugin == "gdcm":
                if syntax == uid.JPEGExtended12Bit and header.precision > 8:
                    return _decode_extended(frame, ds)
                return in_child(lambda: _decode_by(plugin, ds))
        elif plugin == _J2K_PLUGIN:
            # Some writers wrap the codestream in JP2 boxes, against PS3.5 8.2.4; pydicom loops on a damaged one.
            frame = frame[max(frame.find(_J2K_MAGIC), 0) :]
            _check_frame(ds, *_j2k_header(frame))
            check_end_marker(frame, 0)
            ds.PixelData = encapsulate([frame])
        elif len(frame) > _most_rle_bytes(ds):
            raise corrupt("the RLE frame has more bytes than its image can need")
    return _decode_by(plugin, ds)


def _most_rle_bytes(ds: Dataset) -> int:
    """Bytes of a frame of two-byte samples in runs of one, which double them; pydicom expands whatever is there."""
    return _RLE_HEADER_BYTES + 2 * 2 * int(ds.Rows) * int(ds.Columns) * int(ds.SamplesPerPixel)


def _decode_by(plugin: str, ds: Dataset) -> npt.NDArray[np.integer]:
    pixels: npt.NDArray[np.integer] = pixel_array(
        ds, index=0, decoding_plugin=plugin, correct_unused_bits=int(ds.SamplesPerPixel) > 1, view_only=True
    )
    return pixels.astype(pixels.dtype.newbyteorder("="), copy=False)


def _decode_extended(frame: bytes, ds: Dataset) -> npt.NDArray[np.integer]:
    if ds.PixelRepresentation != 0 or ds.SamplesPerPixel != 1:
        raise unsupported("signed or colour JPEG extended of 12 bits is not read", "transcode it to JPEG lossless")
    return in_child(lambda: decode_extended_jpeg(frame, int(ds.Rows), int(ds.Columns)))


def _check_frame(ds: Dataset, rows: int, columns: int, components: int, precision: int) -> None:
    """Compare the codestream's header with the data set's: the decoders trust the codestream, with their memory."""
    if (rows, columns, components) != (int(ds.Rows), int(ds.Columns), int(ds.SamplesPerPixel)):
        raise corrupt("the compressed frame has another size than Rows × Columns × Samples per Pixel")
    if not 2 <= precision <= int(ds.BitsAllocated):
        raise corrupt("the compressed frame has a precision that does not fit Bits Allocated")


def _j2k_header(frame: bytes) -> tuple[int, int, int, int]:
    """Rows, columns, components and precision of a JPEG 2000 codestream (ITU-T T.800, A.5.1: SIZ follows SOC)."""
    if not frame.startswith(_J2K_MAGIC):
        raise corrupt("the JPEG 2000 codestream has no SIZ marker")
    right, bottom, left, top = struct.unpack_from(">4I", frame, 8)
    components, depth = struct.unpack_from(">HB", frame, 40)
    return bottom - top, right - left, components, (depth & 0x7F) + 1
