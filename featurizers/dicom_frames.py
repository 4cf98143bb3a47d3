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

import faulthandler
import os
import signal
import struct
from collections.abc import Callable
from io import BytesIO

import gdcm  # type: ignore[import-untyped]
import numpy as np
import numpy.typing as npt
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.pixels.utils import pixel_array

from featurizers.errors import DecodeError
from featurizers.radiograph import corrupt
from featurizers.raster import check_jpeg_end, jpeg_header
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
_J2K_PLUGIN = "pylibjpeg"
_J2K_MAGIC = b"\xff\x4f\xff\x51"  # ITU-T T.800: SOC, then SIZ
_JPEG_PLUGINS = ("pillow", "gdcm")

# Far more than GDCM needs for the largest image that the limits let through.
_CHILD_SECONDS = 60


def unsupported(what: str, remedy: str) -> DecodeError:
    """The error for a sound DICOM file of a kind that is not read."""
    return DecodeError(Reason.UNSUPPORTED_DICOM, f"{what}; {remedy}")


def stored_pixels(ds: Dataset) -> npt.NDArray[np.integer]:
    """Stored values, (rows, columns) or (rows, columns, 3), in native byte order and an 8- or 16-bit integer type."""
    syntax = ds.file_meta.TransferSyntaxUID
    plugin = PLUGINS[syntax]
    if syntax.is_compressed and syntax.is_encapsulated:
        frame = get_frame(ds.PixelData, 0, number_of_frames=1)
        if plugin in _JPEG_PLUGINS:
            header = jpeg_header(frame)
            check_jpeg_end(frame, header.scan_offset)
            _check_frame(ds, header.rows, header.columns, header.components, header.precision)
            if plugin == "gdcm":
                twelve = syntax == uid.JPEGExtended12Bit and header.precision > 8
                return _in_child(lambda: _decode_extended(frame, ds) if twelve else _decode_by(plugin, ds))
        elif plugin == _J2K_PLUGIN:
            # Some writers wrap the codestream in JP2 boxes, against PS3.5 8.2.4; pydicom loops on a damaged one.
            frame = frame[max(frame.find(_J2K_MAGIC), 0) :]
            _check_frame(ds, *_j2k_header(frame))
            ds.PixelData = encapsulate([frame])
    return _decode_by(plugin, ds)


def _decode_by(plugin: str, ds: Dataset) -> npt.NDArray[np.integer]:
    pixels: npt.NDArray[np.integer] = pixel_array(ds, index=0, decoding_plugin=plugin)
    return pixels.astype(pixels.dtype.newbyteorder("="), copy=False)


def _in_child(decode: Callable[[], npt.NDArray[np.integer]]) -> npt.NDArray[np.integer]:
    """Run a decoder in a forked process: GDCM ends the process it runs in on some damaged frames.

    The child's standard error is closed, because GDCM writes there what no Python setting silences.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            # Its default action ends the child: a decoder that hangs costs one image.
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(_CHILD_SECONDS)
            faulthandler.disable()
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            os.close(reader)
            answer = BytesIO()
            np.save(answer, decode(), allow_pickle=False)
            with os.fdopen(writer, "wb") as pipe:
                pipe.write(answer.getbuffer())
            os._exit(0)
        finally:
            os._exit(1)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        sent = pipe.read()
    if os.waitpid(child, 0)[1] != 0:
        raise corrupt("GDCM could not decode the compressed frame")
    pixels: npt.NDArray[np.integer] = np.load(BytesIO(sent), allow_pickle=False)
    return pixels


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


def _decode_extended(frame: bytes, ds: Dataset) -> npt.NDArray[np.uint16]:
    """Decode JPEG extended of 12 bits (process 4) by GDCM itself: GDCM does, but pydicom's plugin refuses."""
    if ds.PixelRepresentation != 0 or ds.SamplesPerPixel != 1:
        raise unsupported("signed or colour JPEG extended of 12 bits is not read", "transcode it to JPEG lossless")
    rows, columns = int(ds.Rows), int(ds.Columns)
    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(frame)
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((columns, rows, 1))
    image.SetDataElement(element)
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(gdcm.PhotometricInterpretation.MONOCHROME2))
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGExtendedProcess2_4))
    image.SetPixelFormat(gdcm.PixelFormat(1, 16, 12, 11, 0))
    # GDCM's Python binding hands bytes out as text.
    buffer = image.GetBuffer().encode("utf-8", "surrogateescape")
    return np.frombuffer(buffer, dtype="<u2").astype(np.uint16).reshape(rows, columns)
