"""How augmented copies of a crop are drawn; what an executor needs to know of them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from featurizers.finetuning.augmentation import Augmentation, augmented_copy
from featurizers.radiograph import Pixels

#: Image and variant: what a vector is of.
Key = tuple[str, int]


@dataclass(frozen=True)
class CopyRule:
    """How copies are drawn: what, beside crop, image and variant, decides their pixels."""

    augmentation: Augmentation
    seed: int

    def copy(self, pixels: Pixels, image_id: str, variant: int) -> Pixels:
        """One copy of a crop, uint8 (height, width): the same on every machine, and whatever else is drawn."""
        digest = hashlib.sha256(f"{self.seed} {image_id} {variant}".encode()).digest()
        # 63 bits: what torch and NumPy both take for a seed.
        return augmented_copy(pixels, self.augmentation, int.from_bytes(digest[:8]) >> 1)
