"""Settings of augmentation, as the configs of jobs hold them."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from featurizers.finetuning.augmentation import Augmentation
from pipelines.config import Config

Shift = Annotated[float, Field(ge=0, lt=1, description="up to this share of the side, each way")]
Rotate = Annotated[float, Field(ge=0, le=180, description="up to so many degrees, each way")]
Zoom = Annotated[tuple[float, float], Field(description="from and to; above 1 enlarges")]
Flip = Annotated[float, Field(ge=0, le=1, description="share of images that are mirrored left to right")]
Brightness = Annotated[float, Field(ge=0, lt=1, description="up to so much of the range of grey, each way")]
Contrast = Annotated[float, Field(ge=0, lt=1, description="up to this share, each way")]
Gamma = Annotated[float, Field(ge=0, lt=1, description="of the grey values: up to this share, each way")]
Erase = Annotated[float, Field(ge=0, le=1, description="share of images of which a rectangle is blanked")]


class AugmentConfig(Config):
    """What happens to training images."""

    shift: Shift = 0.05
    rotate: Rotate = 10.0
    zoom: Zoom = (0.9, 1.15)
    flip: Flip = 0.5
    brightness: Brightness = 0.1
    contrast: Contrast = 0.1
    gamma: Gamma = 0.0
    erase: Erase = 0.0

    def settings(self) -> Augmentation:
        """As featurizers take them.

        Raises:
            TrainingError: if they make no sense together.
        """
        return Augmentation(**{name: getattr(self, name) for name in AugmentConfig.model_fields})
