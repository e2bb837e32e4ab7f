"""The before/after page of a run: one HTML file with everything in it, to look at without a network and to send to
somebody.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import cv2
import numpy as np

from ppgan_fr.face.image_io import ImageError, read_image, write_file

PAGE = Path(__file__).with_name("report.html")
PHOTO_SIDE = 1100
FACE_SIDE = 320
LEFT_ALONE = {
    "small": "too small to restore",
    "sharp": "sharp already",
    "identity": "its restoration was somebody else",
}
MAX_BYTES = 40_000_000
"""Beyond this, further photos are listed without pictures: a page for ten thousand photos still opens."""


def write_report(results: Sequence[dict], output: Path) -> Path:
    """Writes `report.html` into the folder of a finished run.

    Args:
        results: lines of `results.jsonl`, in the order to show them.
        output: the folder with `restored/` and `faces/`; every `output` in `results` lies in it.

    Returns:
        The page's path.

    Raises:
        OSError: the page cannot be written.
    """
    sections: list[str] = []
    budget = MAX_BYTES
    for number, line in enumerate(results, 1):
        section = _section(number, line, output, with_pictures=budget > 0)
        budget -= len(section)
        sections.append(section)
    page = PAGE.read_text(encoding="utf-8")
    for name, value in (("TITLE", "Restored photos"), ("SUMMARY", _summary(results)), ("PHOTOS", "\n".join(sections))):
        page = page.replace(f"<!-- {name} -->", value)
    path = output / "report.html"
    write_file(path, page.encode())
    return path


def _summary(results: Sequence[dict]) -> str:
    faces = [face for line in results for face in line["faces"] if face["restored"]]
    seconds = sum(line["seconds"] for line in results)
    alike = [face["identity_similarity"] for face in faces if face["identity_similarity"] is not None]
    failed = sum(line["status"] == "failed" for line in results)
    figures = [
        (str(len(results)), "photo" if len(results) == 1 else "photos"),
        (str(len(faces)), "face restored" if len(faces) == 1 else "faces restored"),
        (f"{seconds:.1f} s", f"{seconds / len(faces):.2f} s per face" if faces else "in all"),
    ]
    if alike:
        figures.append((f"{np.median(alike):.2f}", "median likeness before/after"))
    alone = sum(face.get("left_alone") is not None for line in results for face in line["faces"])
    if alone:
        figures.append((str(alone), "face left alone" if alone == 1 else "faces left alone"))
    strangers = sum(not (face.get("identity") or {"passed": True})["passed"] for face in faces)
    if strangers:
        figures.append((str(strangers), "no longer the person?" if strangers == 1 else "no longer the persons?"))
    if failed:
        figures.append((str(failed), "failed"))
    cells = "".join(f"<div><dt>{label}</dt><dd>{value}</dd></div>" for value, label in figures)
    return f"<dl>{cells}</dl><p class=when>{datetime.now():%Y-%m-%d %H:%M}</p>"


def _section(number: int, line: dict, output: Path, with_pictures: bool) -> str:
    name = html.escape(Path(line["input"]).name)
    facts = []
    if line["width"]:
        facts.append(f"{line['width']} × {line['height']}")
    count = len(line["faces"])
    if line["status"] != "failed":
        facts.append("no face found, kept as it was" if not count else f"{count} face{'s' * (count != 1)}")
    facts.append(f"{line['seconds']:.1f} s")
    head = f"<header><h2>{name}</h2><p>{' · '.join(facts)}</p></header>"
    if line["status"] == "failed":
        reason = html.escape(line["error"] or "")
        return f"<article class=failed id=photo-{number}>{head}<p class=error>{reason}</p></article>"
    if not with_pictures:
        return f"<article id=photo-{number}>{head}<p>Not shown: the page would become too large.</p></article>"
    try:
        before, after = read_image(line["input"]), read_image(line["output"])
    except ImageError as error:
        return f"<article id=photo-{number}>{head}<p class=error>{html.escape(str(error))}</p></article>"
    height, width = after.shape[:2]
    fit = min(1.0, PHOTO_SIDE / max(height, width))
    size = max(1, round(width * fit)), max(1, round(height * fit))
    body = _slider(_embed(before, size, 85), _embed(after, size, 85), size, f"{name}, whole photo") if count else ""
    if count:
        body += f"<ol class=faces>{''.join(_face(line, output, i) for i in range(count))}</ol>"
    return f"<article id=photo-{number}>{head}{body}</article>"


def _face(line: dict, output: Path, index: int) -> str:
    face = line["faces"][index]
    stem = _face_stem(line, output)
    try:
        before, after = (read_image(output / "faces" / f"{stem}_{index}_{kind}.png") for kind in ("input", "restored"))
    except ImageError:
        return ""
    side = (FACE_SIDE, FACE_SIDE)
    facts = [f"{face['box'][2]:.0f} px wide"]
    if face["identity_similarity"] is not None:
        facts.append(f"likeness {face['identity_similarity']:.2f}")
    facts += _remarks(face)
    label = f"{Path(line['input']).name}, face {index + 1}"
    slider = _slider(_embed(before, side, 82), _embed(after, side, 82), side, html.escape(label))
    return f"<li>{slider}<p>{' · '.join(facts)}</p></li>"


def _remarks(face: dict) -> list[str]:
    """What the policies said about a face."""
    said = []
    if face.get("left_alone") in LEFT_ALONE:
        said.append(f"left alone: {LEFT_ALONE[face['left_alone']]}")
    verdict = face.get("identity")
    if verdict is not None and not verdict["passed"]:
        like = f"likeness {verdict['similarity']:.2f}, {verdict['threshold']:.2f} wanted"
        kept = f", {verdict['kept']:.0%} of the input mixed back in" if 0 < verdict["kept"] < 1 else ""
        said.append(f"<b class=stranger>may be somebody else</b> ({like}{kept})")
    return said


def _face_stem(line: dict, output: Path) -> str:
    """Face files are named after the photo, with its ending when two photos share a name."""
    source = Path(line["input"])
    longer = f"{source.stem}_{source.suffix[1:]}"
    return longer if (output / "faces" / f"{longer}_0_input.png").exists() else source.stem


def _slider(before: str, after: str, size: tuple[int, int], label: str) -> str:
    """Two pictures over each other and a range input that moves the edge between them: mouse, finger and arrow keys."""
    width, height = size
    return (
        f'<figure class=pair style="--ratio:{width}/{height};--width:{width}px">'
        f'<img src="{after}" alt="{label}: restored" width={width} height={height}>'
        f'<img class=before src="{before}" alt="{label}: before" width={width} height={height}>'
        f'<input type=range min=0 max=100 value=50 step=1 aria-label="{label}: how much of the picture before to show">'
        "<span class=edge></span><figcaption><b>before</b><b>after</b></figcaption></figure>"
    )


def _embed(image: np.ndarray, size: tuple[int, int], quality: int) -> str:
    """A picture as a JPEG of `size` inside an address."""
    if image.shape[1::-1] != size:
        smaller = image.shape[0] * image.shape[1] > size[0] * size[1]
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC)
    content = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
    return f"data:image/jpeg;base64,{base64.b64encode(content).decode()}"
