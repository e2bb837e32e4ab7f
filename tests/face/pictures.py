"""A sharp face to test with, drawn by MobileStyleGAN, aligned to the FFHQ template."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np


@lru_cache(maxsize=1)
def face() -> np.ndarray:
    """(512, 512, 3) uint8 BGR."""
    return cv2.imread(str(Path(__file__).with_name("face.jpg")))
