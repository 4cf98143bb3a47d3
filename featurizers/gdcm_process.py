"""GDCM in a process of its own: it ends the process that it runs in on some damaged frames."""

from __future__ import annotations

import faulthandler
import os
import signal
from collections.abc import Callable
from io import BytesIO

import gdcm  # type: ignore[import-untyped]
import numpy as np
import numpy.typing as npt

from featurizers.radiograph import corrupt

# Far more than GDCM needs for the largest image that the limits let through.
_CHILD_SECONDS = 60


def in_child(decode: Callable[[], npt.NDArray[np.integer]]) -> npt.NDArray[np.integer]:
    """Run a decoder in a forked process, and hand on the array that it gives.

    The child's standard error is closed, because GDCM writes there what no Python setting silences.

    Raises:
        DecodeError: CORRUPT_IMAGE, where the child failed, died, or took more than a minute.
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


def decode_extended_jpeg(stream: bytes, rows: int, columns: int) -> npt.NDArray[np.uint16]:
    """Decode grey JPEG extended of 12 bits (process 4) to (rows, columns); to be run by `in_child`.

    Neither Pillow nor pydicom's plug-in of GDCM reads it; GDCM itself does.
    """
    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(stream)
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
