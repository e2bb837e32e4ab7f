"""The promises of the policies, checked on faces: `python tools/facebench.py --checks --faces DIR --output DIR`.

Each check answers with figures and whether they are as promised: fidelity is monotonic, two runs are equal, gray stays
gray, colours stay, sharp faces stay, the identity gate lets honest results pass and refuses swapped ones.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from ppgan_fr.data import degrade
from ppgan_fr.face import colour, strength
from ppgan_fr.face.align import FFHQ_512, already_aligned
from ppgan_fr.face.colour import settle_colours
from ppgan_fr.face.identity import embedder, threshold
from ppgan_fr.face.image_io import write_file
from ppgan_fr.face.pipeline import Policies, restore_image
from ppgan_fr.face.types import AlignedFace
from ppgan_fr.metrics import psnr
from ppgan_fr.restorer import Restorer, shipped

FIDELITIES = (0.0, 0.25, 0.5, 0.75, 1.0)
PAIRS = 200
Check = dict[str, Any]


def run_checks(
    restorer: Restorer, faces: Sequence[tuple[str, np.ndarray]], protocols: dict[str, dict], output: Path, seed: int = 0
) -> list[Check]:
    """Runs every check and writes `checks.json` and `checks.md`.

    Args:
        restorer: of `load_restorer`.
        faces: names and sharp faces, (512, 512, 3) uint8 BGR; two pictures of one person share what stands before `_`.
        protocols: facebench's, for the mild degradation and the full one.
        output: folder.
        seed: of the degradations and the pairs.
    """
    bench = Bench(restorer, faces, protocols, seed)
    checks = []
    for make in (determinism, monotonic_fidelity, gray_stays, colours_stay, sharp_stays, gate):
        checks += make(bench)
        for check in checks[-2:]:
            print(line(check))  # noqa: T201
    write_file(output / "checks.json", (json.dumps(checks, indent=1) + "\n").encode())
    write_file(output / "checks.md", ("\n".join(["# Checks", "", *map(line, checks)]) + "\n").encode())
    return checks


def line(check: Check) -> str:
    """One line of Markdown."""
    figures = ", ".join(f"{name} {value}" for name, value in check.items() if name not in ("check", "passed", "faces"))
    word = {True: "passed", False: "**not met**", None: "measured"}[check["passed"]]
    return f"- {check['check']} ({check['faces']} faces): {figures} - {word}"


class Bench:
    """Degraded faces and their restorations, made when first asked for."""

    def __init__(self, restorer: Restorer, faces: Sequence[tuple[str, np.ndarray]], protocols: dict, seed: int) -> None:
        self.restorer, self.faces, self.seed = restorer, faces, seed
        self.people = [name.rpartition(".")[0].split("_")[0] for name, _ in faces]
        self.protocols = protocols
        self.embed = embedder(shipped("sface"))
        self._known: dict[Any, np.ndarray] = {}

    def low(self, index: int, protocol: str = "gfpgan") -> np.ndarray:
        """A degraded face, the one that facebench sees."""
        rng = np.random.default_rng([self.seed, index])
        picture = degrade.to_float(self.faces[index][1])
        return degrade.to_uint8(degrade.gfpgan_degrade(picture, self.protocols[protocol], rng))

    def restore(self, picture: np.ndarray, fidelity: float | None = None) -> np.ndarray:
        """One aligned face through the network."""
        face = already_aligned(picture)
        if fidelity is not None:
            face = AlignedFace(face.image, face.landmarks, face.to_template, fidelity)
        return np.rint(self.restorer.restore_faces([face])[0]).astype(np.uint8)

    def restored(self, index: int, protocol: str = "gfpgan", fidelity: float | None = None) -> np.ndarray:
        """The restoration of `low`, kept."""
        key = index, protocol, 1.0 if fidelity is None and self.restorer.fidelity == 1 else fidelity
        if key not in self._known:
            self._known[key] = self.restore(self.low(index, protocol), fidelity)
        return self._known[key]

    def each(self, what: str) -> Any:
        """Indices of all faces, with a bar."""
        return tqdm(range(len(self.faces)), desc=what, unit="face", disable=None)


def determinism(bench: Bench) -> list[Check]:
    """The same photo twice."""
    count = min(4, len(bench.faces))
    same = [np.array_equal(bench.restore(bench.low(i)), bench.restore(bench.low(i))) for i in range(count)]
    return [{"check": "two runs give the same bytes", "faces": count, "equal": sum(same), "passed": all(same)}]


def monotonic_fidelity(bench: Bench) -> list[Check]:
    """PSNR to the input rises with fidelity; what it does to the likeness of the original is measured on the way."""
    if bench.restorer.fidelity is None:
        return []
    rises, alike, to_input = [], [], []
    for i in bench.each("fidelity"):
        low, (_, original) = bench.low(i), bench.faces[i]
        results = [bench.restored(i, fidelity=value) for value in FIDELITIES]
        nearness = [psnr(result, low) for result in results]
        rises.append(all(a < b for a, b in zip(nearness, nearness[1:])))
        to_input.append(nearness)
        vectors = bench.embed([original, low, *results], FFHQ_512.array())
        alike.append(vectors[1:] @ vectors[0])
    share = float(np.mean(rises))
    means, likeness = np.mean(to_input, 0), np.mean(alike, 0)
    return [
        {
            "check": "PSNR to the input rises with fidelity",
            "faces": len(rises),
            "share": round(share, 3),
            "mean dB at 0, 0.25, 0.5, 0.75, 1": [round(float(value), 2) for value in means],
            "passed": share >= 0.95,
        },
        {
            "check": "SFace similarity to the original, of the input and at fidelity 0, 0.25, 0.5, 0.75, 1",
            "faces": len(rises),
            "means": [round(float(value), 3) for value in likeness],
            "passed": None,
        },
    ]


def gray_stays(bench: Bench) -> list[Check]:
    """Saturation of a restored gray face, and tint of a restored sepia one."""
    count = min(12, len(bench.faces))
    saturations, shifts = [], []
    for i in range(count):
        gray = cv2.cvtColor(cv2.cvtColor(bench.low(i), cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
        saturations.append(_saturation(_settled(bench, gray)) - _saturation(gray))
        sepia = degrade.to_uint8(degrade.sepia(degrade.to_float(gray)))
        shifts.append(abs(_saturation(_settled(bench, sepia)) - _saturation(sepia)))
    worst, tint = max(map(abs, saturations)), float(np.mean(shifts))
    return [
        {
            "check": "gray input, largest change of saturation",
            "faces": count,
            "%": round(100 * worst, 3),
            "passed": worst < 0.01,
        },
        {
            "check": "sepia input, mean change of saturation",
            "faces": count,
            "%": round(100 * tint, 3),
            "passed": tint < 0.02,
        },
    ]


def colours_stay(bench: Bench) -> list[Check]:
    """How far the mean colour of the face moves under either policy, and how far that of the eyes."""
    found = {"auto": [], "keep": []}
    eyes = {"auto": [], "keep": []}
    for i in bench.each("colour"):
        crop = already_aligned(bench.low(i))
        for policy in found:
            pixels = settle_colours(bench.restored(i), crop, policy)
            found[policy].append(colour.lab_shift(pixels, crop))
            eyes[policy].append(_eye_shift(pixels, crop))
    return [
        {
            "check": f"mean Lab colour, --colour {policy}",
            "faces": len(found[policy]),
            "shift of the face, mean": round(float(np.mean(found[policy])), 2),
            "worst": round(max(found[policy]), 2),
            "shift of the eyes, mean": round(float(np.mean(eyes[policy])), 2),
            "passed": None,
        }
        for policy in found
    ]


def sharp_stays(bench: Bench) -> list[Check]:
    """Faces without any damage, restored with --fidelity auto; and what the same does to damaged ones."""
    nearness, alone, left = [], 0, []
    for i in bench.each("sharp"):
        original = bench.faces[i][1]
        one = restore_image(original, None, bench.restorer.restore_faces, policies=Policies(automatic=True))
        nearness.append(min(psnr(one.image, original), 80.0))
        alone += one.faces[0].left_alone == "sharp"
        left.append(strength.automatic_strength(strength.estimate(bench.low(i)))[1])
    return [
        {
            "check": "sharp faces with --fidelity auto, PSNR to the input",
            "faces": len(nearness),
            "least dB": round(min(nearness), 2),
            "median dB": round(float(np.median(nearness)), 2),
            "left alone": alone,
            "share of 38 dB and more": round(float(np.mean(np.array(nearness) >= 38)), 3),
            "passed": min(nearness) >= 38,
        },
        {
            "check": "degraded faces with --fidelity auto",
            "faces": len(left),
            "restored in full": sum(value == 1 for value in left),
            "in part": sum(0 < value < 1 for value in left),
            "left alone": sum(value == 0 for value in left),
            "passed": None,
        },
    ]


def gate(bench: Bench) -> list[Check]:
    """Honest results and results of other people, before the gate."""
    checks = []
    for protocol in ("mild", "gfpgan"):
        before, after, needed = [], [], []
        for i in bench.each(f"gate, {protocol}"):
            low = bench.low(i, protocol)
            vectors = bench.embed([low, bench.restored(i, protocol)], FFHQ_512.array())
            before.append(vectors[0])
            after.append(vectors[1])
            needed.append(threshold(strength.estimate(low).recognisable))
        honest = [float(a @ b) >= limit for a, b, limit in zip(before, after, needed)]
        rng = np.random.default_rng(bench.seed)
        choices = [(i, j) for i, a in enumerate(bench.people) for j, b in enumerate(bench.people) if a != b]
        pairs = [choices[k] for k in rng.permutation(len(choices))[:PAIRS]]
        refused = [float(before[i] @ after[j]) < needed[i] for i, j in pairs]
        passes, refuses = float(np.mean(honest)), float(np.mean(refused))
        promised = protocol == "mild"
        checks += [
            {
                "check": f"honest restorations of {'mildly ' * promised}degraded faces pass the gate",
                "faces": len(honest),
                "share": round(passes, 3),
                "passed": passes >= 0.95 if promised else None,
            },
            {
                "check": f"swapped people, {protocol} degradation, are refused",
                "faces": len(pairs),
                "share": round(refuses, 3),
                "passed": refuses >= 0.95,
            },
        ]
    return checks


def _settled(bench: Bench, picture: np.ndarray) -> np.ndarray:
    return restore_image(picture, None, bench.restorer.restore_faces).image


def _saturation(picture: np.ndarray) -> float:
    """Mean saturation of HSV, 0 to 1."""
    return float(cv2.cvtColor(picture, cv2.COLOR_BGR2HSV)[..., 1].mean()) / 255


def _eye_shift(pixels: np.ndarray, crop: AlignedFace) -> float:
    """Mean Lab distance in two discs of 14 pixels around the eyes."""
    shifts = []
    for x, y in np.rint(crop.landmarks[:2]).astype(int):
        part = slice(y - 14, y + 15), slice(x - 14, x + 15)
        means = [
            cv2.cvtColor(image[part].astype(np.float32) / 255, cv2.COLOR_BGR2Lab).mean((0, 1))
            for image in (crop.image, pixels)
        ]
        shifts.append(float(np.linalg.norm(means[0] - means[1])))
    return float(np.mean(shifts))
