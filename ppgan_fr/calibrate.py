"""`ppgan-fr calibrate`: makes the two small tables behind `--fidelity auto` and `--identity`.

  python tools/calibrate.py strength --faces DIR [DIR ...] --test DIR [--test-list FILE]
  python tools/calibrate.py identity --faces DIR [DIR ...] --test DIR [--test-list FILE]

`strength` degrades sharp faces by known amounts and fits the blind estimator of `ppgan_fr/face/strength.npz` to them.
`identity` restores degraded faces with a configuration and measures how alike input and result are for the same person
and for swapped ones; the thresholds go into `ppgan_fr/face/identity.json`. Run it again when the restorer's weights
have changed. Both print what the result is worth on faces, and people, that took no part.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from ppgan_fr.cli import add_config_arguments
from ppgan_fr.config import find_file, load_config
from ppgan_fr.data import degrade
from ppgan_fr.data.datasets import decode, fit, store
from ppgan_fr.export import sha256_of
from ppgan_fr.face import strength
from ppgan_fr.face.align import FFHQ_512, already_aligned
from ppgan_fr.face.identity import TABLE, embedder
from ppgan_fr.face.image_io import write_file
from ppgan_fr.face.types import Quality
from ppgan_fr.metrics import psnr
from ppgan_fr.restorer import Restorer, load_restorer, shipped

SIZE = 512
HIDDEN = 40
POINTS = FFHQ_512.array()
SAME_PERSON = 0.363
"""Cosine similarity from which OpenCV's documentation of SFace speaks of the same person."""


class CalibrateError(ValueError):
    """A calibration that cannot be done as asked."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `tools/calibrate.py`."""
    parser.add_argument("what", choices=("strength", "identity"))
    add_config_arguments(parser, default="configs/gfpgan_mobile.yaml")
    parser.add_argument("--weights", help="of the generator, instead of the configuration's")
    parser.add_argument("--faces", nargs="+", required=True, help="folders of sharp faces, aligned, to learn from")
    parser.add_argument("--except-list", help="text file with names that are not learnt from")
    parser.add_argument("--test", nargs="*", default=[], help="folders of other faces, to test on")
    parser.add_argument("--test-list", help="text file with names; only these are tested on where a folder has them")
    parser.add_argument("--each", type=int, default=4, help="how many degraded versions of a face")
    parser.add_argument("--limit", type=int, default=0, help="at most so many faces of each folder; 0: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="instead of the file that the package reads")


def run(args: argparse.Namespace) -> int:
    """Calibrates, writes the table and prints what it is worth."""
    learn = list(faces_of(args.faces, args.limit, without=_names(args.except_list)))
    test = list(faces_of(args.test, args.limit, only=_names(args.test_list)))
    if not learn:
        raise CalibrateError(f"{args.faces[0]}: no faces")
    return (calibrate_strength if args.what == "strength" else calibrate_identity)(args, learn, test)


def faces_of(
    folders: Sequence[str], limit: int, *, only: set[str] | None = None, without: set[str] | None = None
) -> Iterator[tuple[str, Any]]:
    """(name, its store) of the faces of several folders."""
    for folder in folders:
        source = store(folder)
        names = [name for name in source.names if name not in (without or ())]
        if only is not None and any(name in only for name in names):
            names = [name for name in names if name in only]
        for name in names[: limit or None]:
            yield name, source


def read(face: tuple[str, Any]) -> np.ndarray:
    """(512, 512, 3) uint8 BGR."""
    name, source = face
    return fit(decode(source.read(name), name), SIZE, name)


def damage(face: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, dict[str, float]]:
    """Degrades a face by known amounts: blur, smaller, noise, JPEG, larger again, as GFP-GAN does; a part stays sharp.

    Args:
        face: (512, 512, 3) uint8 BGR.
        rng: of the amounts.

    Returns:
        The degraded face, what it would be without damage (brightness and gray are none), and its blur, noise, jpeg and
        scale, see `types.Quality`.
    """
    known = {"blur": 0.0, "noise": 0.0, "jpeg": 100.0, "scale": 1.0}
    picture = degrade.to_float(face)
    if rng.uniform() < 0.12:  # turned to gray, as old pictures are
        picture = degrade.gray(picture)
    picture = np.clip(picture * np.float32(rng.uniform(0.7, 1.2)), 0, 1)
    whole = degrade.to_uint8(picture)
    hard = rng.choice([0.0, 0.35, 1.0], p=[0.12, 0.38, 0.5])
    if hard and rng.uniform() < 0.75:
        known["blur"] = float(np.exp(rng.uniform(np.log(0.3), np.log(1 + 9 * hard))))
        picture = cv2.GaussianBlur(picture, (0, 0), known["blur"])
    if hard and rng.uniform() < 0.75:
        known["scale"] = float(np.exp(rng.uniform(0, np.log(1 + 15 * hard))))
        picture = degrade.downsample(picture, known["scale"])
    if hard and rng.uniform() < 0.7:
        known["noise"] = float(rng.uniform(0, 25 * hard))
        picture = degrade.gaussian_noise(picture, known["noise"], rng, gray=rng.uniform() < 0.4)
    if hard and rng.uniform() < 0.75:
        known["jpeg"] = float(rng.uniform(100 - 70 * hard, 100))
        picture = degrade.jpeg(np.clip(picture, 0, 1), known["jpeg"])
    picture = degrade.to_uint8(np.clip(degrade.resize(picture, SIZE, SIZE), 0, 1))
    return picture, whole, known


# ---------------------------------------------------------------- strength


def calibrate_strength(args: argparse.Namespace, learn: Sequence, test: Sequence) -> int:
    """Fits the estimator and writes its weights."""
    seen, labels = labelled(learn, args.each, args.seed)
    weights = fit_network(seen, labels, args.seed)
    path = args.output or strength.WEIGHTS
    beside = path.with_name(f".{path.stem}.part.npz")
    np.savez_compressed(beside, **weights)
    beside.replace(path)
    print(f"{path}: {path.stat().st_size} bytes, from {len(seen)} pictures of {len(learn)} faces")  # noqa: T201
    if test:
        seen, labels = labelled(test, args.each, args.seed + 1)
        stored = {name: value.astype(np.float64) for name, value in weights.items()}
        print(worth(strength.predict(seen, stored), labels))  # noqa: T201
    return 0


def labelled(faces: Sequence, each: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Statistics and labels of `each` degraded versions of every face."""
    embed = embedder(shipped("sface"))
    seen, labels = [], []
    for index, face in enumerate(tqdm(faces, unit="face", disable=None)):
        sharp = read(face)
        rng = np.random.default_rng([seed, index])
        versions = [damage(sharp, rng) for _ in range(each)]
        vectors = embed([sharp, *(picture for picture, _, _ in versions)], POINTS)
        for (picture, whole, known), vector in zip(versions, vectors[1:]):
            like = float(vectors[0] @ vector)
            labels.append([*known.values(), min(psnr(_gray(picture), _gray(whole)), 50.0), like])
            seen.append(strength.statistics(picture))
    return np.array(seen), np.array(labels)


def fit_network(seen: np.ndarray, labels: np.ndarray, seed: int, steps: int = 6000) -> dict[str, np.ndarray]:
    """One hidden layer, least squares, Adam on random batches; a few seconds."""
    rng = np.random.default_rng(seed)
    mean, deviation = seen.mean(0), seen.std(0) + 1e-6
    inputs, targets = (seen - mean) / deviation, strength.to_targets(labels)
    n, m = inputs.shape[1], targets.shape[1]
    weights = {
        "w1": rng.normal(0, n**-0.5, (n, HIDDEN)),
        "b1": np.zeros(HIDDEN),
        "w2": rng.normal(0, HIDDEN**-0.5, (HIDDEN, m)),
        "b2": targets.mean(0),
    }
    first, second = ({k: np.zeros_like(v) for k, v in weights.items()} for _ in range(2))
    for step in range(1, steps + 1):
        rows = rng.integers(0, len(inputs), 128)
        x = inputs[rows] + rng.normal(0, 0.05, (128, n))  # a little noise: no statistic is trusted to the last digit
        hidden = np.tanh(x @ weights["w1"] + weights["b1"])
        error = (hidden @ weights["w2"] + weights["b2"] - targets[rows]) / 128
        back = (error @ weights["w2"].T) * (1 - hidden**2)
        slopes = {"w1": x.T @ back, "b1": back.sum(0), "w2": hidden.T @ error, "b2": error.sum(0)}
        rate = 3e-3 * 0.5 * (1 + np.cos(np.pi * step / steps))
        for name, slope in slopes.items():
            slope = slope + 1e-4 * weights[name] if name[0] == "w" else slope
            first[name] += 0.1 * (slope - first[name])
            second[name] += 0.001 * (slope**2 - second[name])
            scaled = first[name] / (1 - 0.9**step)
            weights[name] = weights[name] - rate * scaled / (np.sqrt(second[name] / (1 - 0.999**step)) + 1e-8)
    return {name: value.astype(np.float32) for name, value in {**weights, "mean": mean, "deviation": deviation}.items()}


def worth(estimates: np.ndarray, labels: np.ndarray) -> str:
    """Markdown: how estimates follow the truth, as correlation and mean absolute error, and how sharp faces fare."""
    lines = ["| | correlation | rank correlation | mean absolute error |", "|---|---|---|---|"]
    for column, name in enumerate(strength.LABELS):
        a, b = estimates[:, column], labels[:, column]
        ranks = [np.argsort(np.argsort(values)) for values in (a, b)]
        lines.append(
            f"| {name} | {np.corrcoef(a, b)[0, 1]:.3f} | {np.corrcoef(*ranks)[0, 1]:.3f} | {np.abs(a - b).mean():.3g} |"
        )
    amounts = np.array([strength.automatic_strength(Quality(*row))[1] for row in estimates])
    bins = [(10, 24), (24, 28), (28, 32), (32, 36), (36, 40), (40, 51)]
    lines += ["", "| true PSNR of the input, dB | faces | left alone | restored in full |", "|---|---|---|---|"]
    for low, high in bins:
        part = amounts[(labels[:, 4] >= low) & (labels[:, 4] < high)]
        if len(part):
            lines.append(f"| {low} to {high} | {len(part)} | {np.mean(part == 0):.0%} | {np.mean(part == 1):.0%} |")
    return "\n".join(lines)


# ---------------------------------------------------------------- identity


@dataclass(frozen=True)
class Results:
    """Degraded faces and what the restorer made of them."""

    people: np.ndarray
    """(N,) who it is."""
    recognisable: np.ndarray
    """(N,) as estimated from the degraded face."""
    before: np.ndarray
    after: np.ndarray
    """(N, 128) embeddings of length 1."""

    def honest(self) -> np.ndarray:
        """(N,) similarity of each input and its result."""
        return (self.before * self.after).sum(1)

    def swapped(self) -> np.ndarray:
        """(N, N) similarity of input i and result j; NaN for the same person."""
        return np.where(self.people[:, None] == self.people[None], np.nan, self.before @ self.after.T)


def calibrate_identity(args: argparse.Namespace, learn: Sequence, test: Sequence) -> int:
    """Finds the thresholds and writes the table."""
    restorer = load_restorer(args.config, args.override, args.weights, aligned=True)
    learnt = restored(learn, restorer, args.each, args.seed)
    table = thresholds(learnt)
    report: dict[str, Any] = {
        "what": "smallest SFace similarity of input and result that passes, by how recognisable the input is estimated "
        "to be; made by tools/calibrate.py identity",
        "recogniser": "SFace (weights/sface.npz)",
        "restorer": str(args.config),
        "weights_sha256": sha256_of(find_file(args.weights or load_config(args.config, args.override).weights)),
        "faces": len(learn),
        "pictures": len(learnt.people),
        "table": table,
    }
    if test:
        tested = restored(test, restorer, args.each, args.seed + 1)
        report["test"] = judged(tested, table)
    write_file(args.output or TABLE, (json.dumps(report, indent=1) + "\n").encode())
    print(json.dumps({key: report[key] for key in ("table", "test") if key in report}, indent=1))  # noqa: T201
    return 0


def restored(faces: Sequence, restorer: Restorer, each: int, seed: int) -> Results:
    """Degrades every face `each` times, restores and embeds it."""
    embed = embedder(shipped("sface"))
    people, recognisable, before, after = [], [], [], []
    for index, face in enumerate(tqdm(faces, unit="face", disable=None)):
        sharp = read(face)
        rng = np.random.default_rng([seed, index])
        for _ in range(each):
            picture = damage(sharp, rng)[0]
            answer = np.rint(restorer.restore_faces([already_aligned(picture)])[0]).astype(np.uint8)
            people.append(person(*face))
            recognisable.append(strength.estimate(picture).recognisable)
            vectors = embed([picture, answer], POINTS)
            before.append(vectors[0])
            after.append(vectors[1])
    return Results(np.array(people), np.array(recognisable), np.array(before), np.array(after))


def person(name: str, source: Any) -> str:
    """Pictures `002_03.jpg` and `002_08.jpg` of one folder show one person."""
    return f"{id(source)}/{Path(name).stem.split('_')[0]}"


def thresholds(results: Results, bins: int = 6) -> list[dict[str, float]]:
    """One threshold for each level of `recognisable`.

    97 of 100 swapped results stay below it. Where honest results leave room it goes up, to SFace's own threshold for
    "the same person" (0.363), as long as 98 of 100 honest ones pass.
    """
    order = np.argsort(results.recognisable)
    honest, swapped = results.honest(), results.swapped()
    table, last = [], -1.0
    for rows in np.array_split(order, bins):
        others, own = swapped[rows], honest[rows]
        refuse = float(np.nanquantile(others, 0.97))
        needed = max(refuse, min(float(np.quantile(own, 0.02)), SAME_PERSON), last)
        last = needed
        row = {
            "recognisable": float(results.recognisable[rows].mean()),
            "threshold": needed,
            "honest_passed": float((own >= needed).mean()),
            "swapped_refused": float((others[~np.isnan(others)] < needed).mean()),
            "honest_median": float(np.median(own)),
        }
        table.append({key: round(value, 4) for key, value in row.items()})
    return table


def judged(results: Results, table: Sequence[dict[str, float]]) -> list[dict[str, float]]:
    """What the table is worth on other people, by the same levels."""
    levels, needed = ([row[key] for row in table] for key in ("recognisable", "threshold"))
    limits = np.interp(results.recognisable, levels, needed)
    honest, swapped = results.honest(), results.swapped()
    edges = [-np.inf, *((a + b) / 2 for a, b in zip(levels, levels[1:])), np.inf]
    found = []
    for low, high in zip(edges, edges[1:]):
        rows = (results.recognisable >= low) & (results.recognisable < high)
        if not rows.any():
            continue
        others = swapped[rows] - limits[rows, None]
        row = {
            "recognisable": float(results.recognisable[rows].mean()),
            "pictures": int(rows.sum()),
            "honest_passed": float((honest[rows] >= limits[rows]).mean()),
            "swapped_refused": float((others[~np.isnan(others)] < 0).mean()),
        }
        found.append({key: round(value, 4) for key, value in row.items()})
    return found


def _gray(picture: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)


def _names(path: str | None) -> set[str] | None:
    if path is None:
        return None
    try:
        lines = find_file(path).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise CalibrateError(f"{path}: {error.strerror}") from None
    return {line.strip() for line in lines if line.strip() and not line.startswith("#")}
