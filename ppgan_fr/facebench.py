"""`ppgan-fr facebench`: how good are restored faces? Good faces are degraded, restored, measured, and shown.

  python tools/facebench.py -c configs/gfpgan_mobile.yaml --faces DIR --output DIR
  python tools/facebench.py -c inference/gfpgan_mobile --faces DIR --output DIR      (an export folder)
  python tools/facebench.py -c configs/gfpgan_mobile.yaml --faces DIR --output DIR --checks

Every face of the folder (aligned to the FFHQ template) is degraded by the protocol (GFP-GAN's degradation, a generator
of random numbers per face) and compared with itself three ways: as it came (`input`), softened by
bicubic resampling (`bicubic`), and restored. The page has the table, histograms, every pair with the worst first; the
numbers of each face are in `facebench.json`. A face that could not be measured is counted and named, never left out.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import html
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from ppgan_fr import metrics
from ppgan_fr.cli import add_config_arguments
from ppgan_fr.config import Detector, find_file, make_config
from ppgan_fr.data import degrade
from ppgan_fr.data.datasets import decode, fit, store
from ppgan_fr.data.loader import DataError
from ppgan_fr.export import kept_export, sha256_of, write_checked
from ppgan_fr.face.align import FFHQ_512, already_aligned, named_template
from ppgan_fr.face.identity import embedder
from ppgan_fr.face.restore import FIDELITY, image_restorer
from ppgan_fr.face.spec import ModelSpec, TensorSpec, read_spec
from ppgan_fr.facechecks import run_checks
from ppgan_fr.inference import paddle_run
from ppgan_fr.restorer import Restorer, face_detector, load_restorer, shipped

SIZE = 512
PROTOCOLS = {
    "gfpgan": {"gray_prob": None, "color_jitter_prob": None, "color_jitter_pt_prob": None},
    "mild": {
        "blur_sigma": (0.1, 2.0),
        "downsample_range": (0.8, 2.0),
        "noise_range": (0.0, 5.0),
        "jpeg_range": (80.0, 100.0),
        "gray_prob": None,
        "color_jitter_prob": None,
        "color_jitter_pt_prob": None,
    },
}
"""GFP-GAN's degradation without changes of colour, and a light one."""
COLUMNS = {
    "perceptual": ("VGG19 distance", "lower"),
    "identity": ("SFace similarity", "higher"),
    "landmarks": ("landmark error, % of the eye distance", "lower"),
    "niqe": ("NIQE", "lower"),
    "psnr": ("PSNR, dB", "higher"),
    "ssim": ("SSIM", "higher"),
}


class BenchError(ValueError):
    """A bench that cannot be run as asked."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `tools/facebench.py`."""
    add_config_arguments(parser, default="configs/gfpgan_mobile.yaml")
    parser.add_argument("--faces", required=True, help="folder of good faces, aligned to the FFHQ template")
    parser.add_argument("--list", help="text file with the names to use, one a line; default: all of the folder")
    parser.add_argument("--output", required=True, help="folder for index.html and facebench.json")
    parser.add_argument("--weights", help="weights of the generator, instead of the configuration's")
    parser.add_argument("--vgg", default="weights/vgg19.pdparams", help="VGG19 (tools/third_party/vgg19.py)")
    parser.add_argument("--protocol", choices=PROTOCOLS, default="gfpgan", help="how the faces are degraded")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int, default=0, help="use the first so many faces; 0: all")
    parser.add_argument("--fidelity", type=float, help="of the generator, where it has this knob")
    parser.add_argument("--checks", action="store_true", help="check the policies' promises instead: checks.json, .md")


def run(args: argparse.Namespace) -> int:
    """Degrades, restores, measures, writes the page; 1 when some faces could not be used."""
    output = Path(args.output)
    output.mkdir(parents=True, exist_ok=True)
    names = chosen(args.faces, args.list, args.limit)
    restorer = open_restorer(args)
    if args.checks:
        faces = [(name, fit(decode(store(args.faces).read(name), name), SIZE, name)) for name in names]
        checks = run_checks(restorer, faces, PROTOCOLS, output, args.seed)
        return 1 if any(check["passed"] is False for check in checks) else 0
    judge = Judge(args.vgg)
    began, rows, failures = time.perf_counter(), [], []
    source = store(args.faces)
    for index, name in enumerate(tqdm(names, unit="face", disable=None)):
        try:
            rows.append(bench_face(source, name, index, args, restorer.restore_faces, judge))
        except DataError as error:
            failures.append({"input": name, "reason": str(error)})
    if not rows:
        raise BenchError(f"{args.faces}: none of {len(names)} faces can be used")
    report = {
        "config": str(args.config),
        "protocol": args.protocol,
        "seed": args.seed,
        "count": len(rows),
        "failures": failures,
        "means": means(rows),
        "measured_with": judge.names,
        "hashes": {"faces": _digest("\n".join(names)), "restorer": _digest(restorer.settings)},
        "faces": [{k: v for k, v in row.items() if k != "pictures"} for row in rows],
        "seconds": round(time.perf_counter() - began, 1),
    }
    write(output / "facebench.json", json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    write(output / "index.html", page(report, rows))
    print(table_text(report))  # noqa: T201
    for failure in failures:
        print(f"failed: {failure['input']}: {failure['reason']}")  # noqa: T201
    return 1 if failures else 0


def open_restorer(args: argparse.Namespace) -> Restorer:
    """The configuration's, or what an export folder holds.

    Raises:
        BenchError: options that an export folder does not have.
    """
    folder = Path(args.config)
    if not folder.is_dir():
        return load_restorer(args.config, args.override, args.weights, args.fidelity, aligned=True)
    if args.weights or args.override:
        raise BenchError(f"{folder}: an exported network has its weights; leave --weights and -o out")
    spec = read_spec(folder)
    restore = image_restorer(paddle_run(folder), spec, fidelity=args.fidelity)
    fidelity = (FIDELITY if args.fidelity is None else args.fidelity) if "fidelity" in spec.input_names else None
    template = named_template(spec.template).at_size(spec.size)
    settings = repr([spec.arch, spec.weights_sha256, args.fidelity])
    return Restorer(None, restore, template, spec.mask, fidelity=fidelity, settings=settings)


def chosen(folder: str, listing: str | None, limit: int) -> list[str]:
    """The faces to use.

    Raises:
        BenchError: a listed face is not in the folder, or there is none at all.
    """
    names = list(store(folder).names)
    if listing is not None:
        try:
            lines = find_file(listing).read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise BenchError(f"{listing}: {error.strerror}") from None
        wanted = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
        absent = sorted(set(wanted) - set(names))
        if absent:
            raise BenchError(f"{listing}: {len(absent)} of {len(wanted)} faces are not in {folder}, e.g. {absent[0]}")
        names = wanted
    if not names:
        raise BenchError(f"{folder}: no faces")
    return names[: limit or None]


def bench_face(source: Any, name: str, index: int, args: argparse.Namespace, restore: Callable, judge: Judge) -> dict:
    """Numbers and pictures of one face: {name, input, bicubic, restored, pictures}."""
    try:
        original = fit(decode(source.read(name), name), SIZE, name)
    except OSError as error:
        raise DataError(f"{name}: {error.strerror or error}") from None
    rng = np.random.default_rng([args.seed, index])
    low = degrade.to_uint8(degrade.gfpgan_degrade(degrade.to_float(original), PROTOCOLS[args.protocol], rng))
    began = time.perf_counter()
    answer = restore([already_aligned(low)])[0]
    seconds = time.perf_counter() - began
    if not np.isfinite(answer).all():
        raise DataError(f"{name}: the network gave NaN or infinite numbers")
    pictures = {"input": low, "bicubic": soften(low), "restored": np.rint(answer).astype(np.uint8)}
    row: dict[str, Any] = {"name": name, "seconds": round(seconds, 4)}
    row |= dict(zip(pictures, judge.compare(original, list(pictures.values()))))
    return row | {"pictures": pictures | {"original": original}}


def soften(picture: np.ndarray, factor: int = 4) -> np.ndarray:
    """The baseline `bicubic`: area-averaged by `factor`, enlarged again by cubic interpolation."""
    height, width = picture.shape[:2]
    small = cv2.resize(picture, (width // factor, height // factor), interpolation=cv2.INTER_AREA)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


class Judge:
    """Networks and formulas that compare a picture with its original."""

    def __init__(self, vgg: str | None) -> None:
        self.detect = face_detector(Detector())
        self.embed = embedder(shipped("sface"))
        self.vgg = _perceptual(vgg)
        self.names = {"identity": "SFace", "landmarks": "YuNet + ONet", "niqe": "NIQE (BasicSR's parameters)"}
        if self.vgg is not None:
            self.names["perceptual"] = "VGG19 (the original weights), conv1_2 to conv5_4"

    def compare(self, original: np.ndarray, pictures: Sequence[np.ndarray]) -> list[dict[str, float | None]]:
        """Every measure of `COLUMNS` for pictures of one face, (512, 512, 3) uint8 BGR; None where it failed."""
        vectors = self.embed([original, *pictures], FFHQ_512.array())
        distances = [None] * len(pictures) if self.vgg is None else self.vgg([original, *pictures])[1:]
        known = self._landmarks(original)
        return [
            {
                "psnr": metrics.psnr(picture, original),
                "ssim": metrics.ssim(picture, original),
                "niqe": _or_none(lambda picture=picture: metrics.niqe(picture)),
                "identity": float(vectors[0] @ vector),
                "perceptual": distance,
                "landmarks": _landmark_error(self._landmarks(picture), known),
            }
            for picture, vector, distance in zip(pictures, vectors[1:], distances)
        ]

    def _landmarks(self, picture: np.ndarray) -> np.ndarray | None:
        from ppgan_fr.data.make_components import find_landmarks

        return find_landmarks(self.detect, picture, cv2)


def _landmark_error(seen: np.ndarray | None, known: np.ndarray | None) -> float | None:
    """In hundredths of the eye distance."""
    if seen is None or known is None:
        return None
    eyes = float(np.linalg.norm(known[0] - known[1]))
    return 100 * metrics.landmark_distance(seen, known) / eyes


def means(rows: Sequence[dict]) -> dict[str, dict[str, dict[str, float | int | None]]]:
    """Method -> measure -> mean, count and failures."""
    found: dict[str, Any] = {}
    for method in ("input", "bicubic", "restored"):
        found[method] = {}
        for column in COLUMNS:
            values = [row[method][column] for row in rows if row[method][column] is not None]
            mean = float(np.mean(values)) if values else None
            found[method][column] = {"mean": mean, "count": len(values), "failures": len(rows) - len(values)}
    return found


def table_text(report: dict) -> str:
    """The table as Markdown."""
    lines = [
        "| | " + " | ".join(f"{title} ({better} is better)" for title, better in _titles()) + " |",
        "|---" * (len(COLUMNS) + 1) + "|",
    ]
    for method, columns in report["means"].items():
        lines.append(f"| {method} | " + " | ".join(_cell(columns[column]) for column in COLUMNS) + " |")
    return "\n".join(lines)


def _cell(value: dict) -> str:
    if value["mean"] is None:
        return "not measured"
    failed = f" ({value['failures']} failed)" if value["failures"] else ""
    return f"{value['mean']:.3f}{failed}"


def page(report: dict, rows: Sequence[dict]) -> str:
    """One self-contained HTML page: table, histograms, faces with the largest loss of identity first."""
    order = sorted(rows, key=lambda row: row["restored"]["identity"] - row["input"]["identity"])
    head = "".join(f"<th>{html.escape(title)}<br><small>{better} is better</small></th>" for title, better in _titles())
    body = "".join(
        f"<tr><th>{method}</th>" + "".join(f"<td>{_cell(columns[c])}</td>" for c in COLUMNS) + "</tr>"
        for method, columns in report["means"].items()
    )
    histograms = "".join(
        f"<figure>{histogram(rows, c)}<figcaption>{html.escape(COLUMNS[c][0])}</figcaption></figure>" for c in COLUMNS
    )
    faces = "".join(_face(row) for row in order)
    failures = "".join(f"<li>{html.escape(f['input'])}: {html.escape(f['reason'])}</li>" for f in report["failures"])
    return f"""<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>facebench</title><style>
body{{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:1100px;padding:0 1rem}}
table{{border-collapse:collapse}}td,th{{border:1px solid #bbb;padding:.3rem .6rem;text-align:right}}
.faces img{{width:100%}}figure{{display:inline-block;margin:.5rem}}</style>
<h1>facebench</h1><p>{report["count"]} faces, protocol {html.escape(report["protocol"])}, seed {report["seed"]},
configuration {html.escape(report["config"])}, {len(report["failures"])} failed.</p>
<table><tr><th></th>{head}</tr>{body}</table><h2>Distributions</h2><p>Gray: input. Blue: restored.</p>{histograms}
{"<h2>Failed</h2><ul>" + failures + "</ul>" if failures else ""}
<h2>Faces, largest loss of identity first</h2><p>Input, restored, original.</p>
<div class="faces">{faces}</div></html>"""


def histogram(rows: Sequence[dict], column: str, bins: int = 12) -> str:
    """Inline SVG: the measure of the inputs (gray) and of the restored faces (blue)."""
    groups = [[r[m][column] for r in rows if r[m][column] is not None] for m in ("input", "restored")]
    if not all(groups):
        return "<p>not measured</p>"
    edges = np.histogram_bin_edges(np.concatenate(groups), bins)
    top = max(np.histogram(group, edges)[0].max() for group in groups)
    bars = ""
    for offset, (group, colour) in enumerate(zip(groups, ("#999", "#2563eb"))):
        for i, count in enumerate(np.histogram(group, edges)[0]):
            height = 90 * count / top
            place = f'x="{i * 20 + offset * 9}" y="{95 - height:.1f}"'
            bars += f'<rect {place} width="9" height="{height:.1f}" fill="{colour}"/>'
    ends = f'<text y="110">{edges[0]:.3g}</text><text x="{bins * 20}" y="110" text-anchor="end">{edges[-1]:.3g}</text>'
    return f'<svg width="{bins * 20}" height="115" font-size="11" role="img">{bars}{ends}</svg>'


def _face(row: dict) -> str:
    pictures = [row["pictures"][kind] for kind in ("input", "restored", "original")]
    strip = np.hstack([cv2.resize(picture, (256, 256), interpolation=cv2.INTER_AREA) for picture in pictures])
    data = base64.b64encode(cv2.imencode(".jpg", strip, [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes()).decode()
    shown = f"{row['name']}: identity {row['input']['identity']:.2f} to {row['restored']['identity']:.2f}"
    return f'<p>{html.escape(shown)}</p><img alt="{html.escape(shown)}" src="data:image/jpeg;base64,{data}">'


def write(path: Path, text: str) -> None:
    """Writes beside, then renames."""
    beside = path.with_name(f".{path.name}.part")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)


def _perceptual(path: str | None) -> Callable[[Sequence[np.ndarray]], list[float]] | None:
    """VGG19 distances of pictures, (512, 512, 3) uint8 BGR, to the first of them; None without the weights.

    The network with the distance behind it is exported once, as every network here that runs often: the eager one took
    three quarters of the bench, and normalising its features in float64 most of the rest.
    """
    if path is None or not find_file(path).is_file():
        print(f"{path}: not there, the VGG19 distance is not measured; tools/third_party/vgg19.py makes it")  # noqa: T201
        return None
    weights = find_file(path)

    def make(folder: Path) -> None:
        image = TensorSpec("image", (-1, 3, SIZE, SIZE))
        spec = ModelSpec("vgg19_distance", "embedding", (image,), ("distance",), SIZE)
        config = make_config({"name": "perceptual", "generator": {"arch": "vgg19"}})
        write_checked(perceptual_network(weights), spec, folder, config, batches=(2,), first_is_enough=True)

    run = paddle_run(kept_export(weights, f"perceptual-{sha256_of(weights)[:16]}", make))

    def distances(pictures: Sequence[np.ndarray]) -> list[float]:
        tensor = np.stack(pictures)[..., ::-1].transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1
        return [float(value) for value in run({"image": tensor})[0]]

    return distances


def perceptual_network(weights: Path) -> Any:
    """VGG19 with its weights and the distance behind it."""
    from ppgan_fr.archs import vgg19
    from ppgan_fr.weights import load_into

    features = vgg19.build(vgg19.Config())
    load_into(features, weights)
    return with_distance(features)


def with_distance(features: Any) -> Any:
    """A VGG19 and `metrics.perceptual_distance` behind it: (N, 3, H, W) -> (N,) distances to the first picture."""
    import paddle
    from paddle import nn

    class Perceptual(nn.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.features = features

        def forward(self, pictures: Any) -> Any:
            layers = list(self.features(pictures).values())
            found = 0.0
            for value in layers:
                unit = value / (paddle.sqrt((value * value).sum(1, keepdim=True)) + 1e-10)
                found = found + ((unit - unit[:1]) ** 2).sum(1).mean([1, 2])
            return found / len(layers)

    network = Perceptual()
    network.eval()
    return network


def _or_none(measure: Callable[[], float]) -> float | None:
    try:
        return float(measure())
    except metrics.MetricError:
        return None


def _titles() -> list[tuple[str, str]]:
    return list(COLUMNS.values())


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
