"""Unpack `latents.npz` of `tools/make_faces.py` into the two plain arrays that `train.py` maps."""

import sys
from pathlib import Path

import numpy as np

folder = Path(sys.argv[1])
with np.load(folder / "latents.npz", allow_pickle=False) as archive:
    np.save(folder / "latents.npy", archive["latents"].astype(np.float32))
    np.save(folder / "mean_latent.npy", archive["mean"].astype(np.float32))
