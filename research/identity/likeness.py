"""Where likeness is lost: SFace similarity to the original, by fidelity and by what is done to the result afterwards.

  python research/identity/likeness.py --faces data/london_512 --list configs/eval/london_heldout.txt --limit 24

Degrades faces as facebench does (protocol gfpgan, seed 0), restores them in many ways, and prints mean similarities to
the originals: of all faces, and of three parts by how alike the input is itself.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from ppgan_fr.data import degrade
from ppgan_fr.data.datasets import decode, fit, store
from ppgan_fr.face.align import FFHQ_512, already_aligned
from ppgan_fr.face.colour import keep_colour
from ppgan_fr.face.identity import embedder, mix
from ppgan_fr.facebench import PROTOCOLS, chosen
from ppgan_fr.restorer import load_restorer, shipped


def blurred(picture: np.ndarray, sigma: float) -> np.ndarray:
    return cv2.GaussianBlur(picture.astype(np.float32), (0, 0), sigma)


def pixels(picture: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


def variants(low: np.ndarray, restore) -> dict[str, np.ndarray]:
    """The input, and everything that was tried on it; `restore` takes a list of aligned faces."""

    def run(picture: np.ndarray, fidelity: float = 1.0) -> np.ndarray:
        return pixels(restore([replace(already_aligned(picture), fidelity=fidelity)])[0])

    found = {"input": low}
    found |= {f"fidelity {value:g}": run(low, value) for value in (0, 0.25, 0.5, 0.75, 1)}
    one = found["fidelity 1"].astype(np.float32)
    mirrored = run(np.ascontiguousarray(low[:, ::-1]))[:, ::-1]
    found["colours kept"] = keep_colour(pixels(one), already_aligned(low))
    found |= {f"{share:.0%} of the input": mix(pixels(one), low, share) for share in (0.15, 0.3, 0.5)}
    found["mean with the mirrored face's"] = pixels((one + mirrored) / 2)
    found["restored twice"] = run(pixels(one))
    found |= {f"input below {s} pixels": pixels(one - blurred(one, s) + blurred(low, s)) for s in (4, 8)}
    found["softened by 1 pixel"] = pixels(blurred(one, 1))
    found["sharpened"] = pixels(one + 0.7 * (one - blurred(one, 2)))
    found["further from the input"] = pixels(1.3 * one - 0.3 * low)
    found["fidelity extrapolated to 1.25"] = pixels(1.25 * one - 0.25 * found["fidelity 0.5"])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-c", "--config", default="configs/gfpgan_mobile.yaml")
    parser.add_argument("--weights")
    parser.add_argument("--faces", required=True)
    parser.add_argument("--list")
    parser.add_argument("--limit", type=int, default=24)
    args = parser.parse_args()
    restorer = load_restorer(args.config, weights=args.weights, aligned=True)
    embed, source = embedder(shipped("sface")), store(args.faces)
    alike: dict[str, list[float]] = {}
    for index, name in enumerate(chosen(args.faces, args.list, args.limit)):
        original = fit(decode(source.read(name), name), 512, name)
        rng = np.random.default_rng([0, index])
        low = degrade.to_uint8(degrade.gfpgan_degrade(degrade.to_float(original), PROTOCOLS["gfpgan"], rng))
        found = variants(low, restorer.restore_faces)
        vectors = embed([original, *found.values()], FFHQ_512.array())
        for what, vector in zip(found, vectors[1:]):
            alike.setdefault(what, []).append(float(vector @ vectors[0]))
    parts = np.array_split(np.argsort(alike["input"]), 3)
    print("| | all | least alike inputs | middle | most alike inputs |\n|---|---|---|---|---|")
    for what, values in alike.items():
        row = [np.mean(values), *(np.mean(np.array(values)[part]) for part in parts)]
        print(f"| {what} | " + " | ".join(f"{value:.3f}" for value in row) + " |")


if __name__ == "__main__":
    main()
