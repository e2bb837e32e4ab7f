"""Makes the pictures of the README and docs with the weights that ship.

    python tools/make_faces.py --count 24 --output data/shown_faces --seed 9
    python tools/make_readme_pictures.py --faces data/shown_faces --output docs/images

From the demo pictures: each before and after, side by side. From 24 synthetic faces that no training has seen: a sheet
of degraded (GFP-GAN's degradation, a seed per face), restored, and original. And a few faces at several fidelities.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np

CHECKOUT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(CHECKOUT))

from ppgan_fr.data import degrade
from ppgan_fr.data.contact_sheet import contact_sheet
from ppgan_fr.face.align import already_aligned
from ppgan_fr.face.image_io import list_images, read_image, write_image
from ppgan_fr.restorer import load_restorer

OPTIONS = {"color_jitter_prob": None, "color_jitter_pt_prob": None, "gray_prob": None}
FIDELITIES = (0.0, 0.25, 0.5, 0.75, 1.0)


def side_by_side(before: np.ndarray, after: np.ndarray, gap: int = 12) -> np.ndarray:
    """Two pictures of one size, white between them."""
    return np.hstack([before, np.full((before.shape[0], gap, 3), 255, np.uint8), after])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faces", required=True, help="folder of 24 aligned synthetic faces")
    parser.add_argument("--config", default="configs/gfpgan_mobile.yaml")
    parser.add_argument("--output", type=Path, default=CHECKOUT / "docs" / "images")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    restorer = load_restorer(arguments.config)
    options = SimpleNamespace(aligned=False, scale=1.0, only_center=False)
    for name in ("album", "astronaut"):
        before = read_image(CHECKOUT / "assets" / "demo" / f"{name}.jpg")
        after = restorer.restore(before, options)
        print(f"{name}: {len(after.faces)} faces")
        write_image(arguments.output / f"demo_{name}.jpg", side_by_side(before, after.image))
        if name == "album":
            first = side_by_side(before[60:620, 60:1120], after.image[60:620, 60:1120])
            write_image(arguments.output / "demo_album_detail.jpg", first)
    rows = []
    for index, path in enumerate(list_images(arguments.faces)[:24]):
        original = read_image(path)
        rng = np.random.default_rng([0, index])
        low = degrade.to_uint8(degrade.gfpgan_degrade(degrade.to_float(original), OPTIONS, rng))
        restored = restorer.restore_faces([already_aligned(low)])[0]
        rows.append([low, np.clip(np.rint(restored), 0, 255).astype(np.uint8), original])
    titles = ("input", "restored", "original")
    write_image(arguments.output / "synthetic_24.jpg", contact_sheet(rows, titles, tile=192, rows_per_column=8))
    knobs = {value: load_restorer(arguments.config, fidelity=value, aligned=True) for value in FIDELITIES}
    shown = []
    for low, *_ in rows[:4]:
        answers = [knob.restore_faces([already_aligned(low)])[0] for knob in knobs.values()]
        shown.append([low, *(np.clip(np.rint(answer), 0, 255).astype(np.uint8) for answer in answers)])
    titles = ("input", *(f"fidelity {value}" for value in FIDELITIES))
    write_image(arguments.output / "fidelity.jpg", contact_sheet(shown, titles, tile=192))


if __name__ == "__main__":
    cv2.setNumThreads(1)
    main()
