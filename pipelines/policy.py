"""Which sound images are turned away all the same, by what their labels or headers tell."""

from __future__ import annotations

from dataclasses import dataclass

from featurizers.reasons import Reason
from pipelines.dicom_header import DicomHeader
from pipelines.sources.base import LATERAL, Rejection, StudyRecord


@dataclass(frozen=True)
class Policy:
    """What is let in though it is no frontal radiograph of the chest, or may carry text that names somebody.

    Attributes:
        admitted: the reasons, of those below, for which nothing is turned away.
        images_are_chosen: whether somebody named each image in a manifest: then a view that stands there is meant, and
            a header that tells nothing is no reason for doubt. In other archives such a file may be anything.
    """

    admitted: frozenset[Reason]
    images_are_chosen: bool

    def of_view(self, record: StudyRecord) -> Rejection | None:
        """Why a record is turned away before it is read."""
        return self._not_frontal() if record.view == LATERAL and not self.images_are_chosen else None

    def of_header(self, header: DicomHeader, view: str | None) -> Rejection | None:
        """Why a DICOM file is turned away before it is decoded.

        Args:
            header: the file's.
            view: what the source told, which the header does not override.
        """
        if header.has_burned_in_annotation and Reason.BURNED_IN_ANNOTATION not in self.admitted:
            return Rejection(
                Reason.BURNED_IN_ANNOTATION,
                "Burned In Annotation is YES: the pixels hold text, which may name somebody; export it without, or "
                "give policy.burned_in_annotation=ingest",
            )
        if header.is_chest is False and Reason.NOT_CHEST not in self.admitted:
            return Rejection(
                Reason.NOT_CHEST,
                "Modality or body part is not that of a chest radiograph; leave it out, or give "
                "policy.not_chest=ingest",
            )
        return self._not_frontal() if view is None and (header.view == LATERAL or header.is_oblique) else None

    def of_silence(self, header: DicomHeader) -> Rejection | None:
        """Why a sound DICOM file is turned away whose header does not tell what it shows."""
        if header.is_chest is None and not self.images_are_chosen and Reason.NOT_CHEST not in self.admitted:
            return Rejection(
                Reason.NOT_CHEST,
                "neither Modality nor Body Part Examined nor a description tells that this is a chest radiograph; give "
                "policy.not_chest=ingest if it is",
            )
        return None

    def _not_frontal(self) -> Rejection | None:
        if Reason.NOT_FRONTAL in self.admitted:
            return None
        return Rejection(
            Reason.NOT_FRONTAL, "the view is lateral or oblique; leave it out, or give policy.not_frontal=ingest"
        )
