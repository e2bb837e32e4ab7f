"""The stages of a restoration, one photo each, or the faces of several: what the Ops of the service call.

Knows no server. Gives the very picture that `tools/predict.py` writes, by the same pipeline, engine and encoder.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from deploy.serving_python.wire import FORMATS, Code, RefusedError, Ticket
from ppgan_fr.face.align import AlignError, align, named_template
from ppgan_fr.face.detect import detector
from ppgan_fr.face.identity import SFACE_112
from ppgan_fr.face.image_io import ImageError, decode_photo, encode_photo
from ppgan_fr.face.pipeline import restore_image
from ppgan_fr.face.restore import FIDELITY, to_pixels, to_tensor
from ppgan_fr.face.spec import ModelSpec
from ppgan_fr.face.types import AlignedFace, Detect, RestoredFace, Run
from ppgan_fr.face.xmp import mark_as_enhanced


class Stages:
    """Decode, detect and align; run the network; paste and encode."""

    def __init__(
        self,
        detect: Detect,
        run: Run,
        spec: ModelSpec,
        run_embedding: Run | None = None,
        *,
        max_pixels: int = 25_000_000,
        faces_per_call: int = 1,
    ):
        """Takes the detector, the generator as `Run` with its spec, and SFace as `Run` (None: no similarity)."""
        self.detect, self.run, self.spec, self.run_embedding = detect, run, spec, run_embedding
        self.max_pixels, self.faces_per_call = max_pixels, faces_per_call
        self.mask = spec.mask if spec.mask in ("face", "square", "sgpn") else "face"
        self.template = named_template(spec.template if spec.template != "none" else "ffhq_512").at_size(spec.size)
        self.has_fidelity = "fidelity" in spec.input_names

    def open(self, ticket: Ticket) -> None:
        """Decodes the photo, finds its faces and cuts them out.

        Raises:
            RefusedError: the file is damaged, or it is too late.
        """
        ticket.check_deadline()
        start = time.perf_counter()
        try:
            ticket.photo = decode_photo(ticket.content, max_pixels=self.max_pixels)
        except ImageError:
            raise RefusedError(Code.NOT_A_PICTURE, "the picture is damaged or cut short") from None
        ticket.seconds["decode"] = time.perf_counter() - start
        start = time.perf_counter()
        for face in self.detect(ticket.photo.pixels):
            try:
                crop = align(ticket.photo.pixels, face, self.template)
            except AlignError:  # five points on one spot; the pipeline leaves it out, too
                continue
            ticket.faces.append(face)
            ticket.crops.append(crop)
        if ticket.only_center and ticket.faces:
            self._keep_the_middle(ticket)
        ticket.seconds["detect"] = time.perf_counter() - start

    def _keep_the_middle(self, ticket: Ticket) -> None:
        height, width = ticket.photo.pixels.shape[:2]
        middle = np.array([width / 2, height / 2])
        away = [float(np.hypot(*(face.box[:2] + face.box[2:] / 2 - middle))) for face in ticket.faces]
        nearest = int(np.argmin(away))
        ticket.faces, ticket.crops = [ticket.faces[nearest]], [ticket.crops[nearest]]

    def feed(self, ticket: Ticket) -> dict[str, np.ndarray]:
        """The faces of a photo as arrays for the network, (faces, 3, size, size); with no face, of length 0."""
        first, *others = self.spec.inputs
        size = self.spec.size
        if ticket.crops:
            arrays = {first.name: to_tensor([crop.image for crop in ticket.crops], self.spec)}
        else:
            arrays = {first.name: np.zeros((0, 3, size, size), np.float32)}
        fidelity = FIDELITY if ticket.fidelity is None else ticket.fidelity
        for tensor in others:
            shape = (len(ticket.crops), *(1 for _ in tensor.shape[1:]))
            arrays[tensor.name] = np.full(shape, fidelity, np.float32)
        return arrays

    def predict(self, arrays: dict[str, np.ndarray]) -> np.ndarray:
        """Runs the network over the faces of one or several photos, `faces_per_call` at a time.

        Returns:
            (faces, 3, size, size); not a number where the network failed.
        """
        count = len(next(iter(arrays.values())))
        answers = np.full((count, 3, self.spec.size, self.spec.size), np.nan, np.float32)
        for start in range(0, count, self.faces_per_call):
            part = slice(start, start + self.faces_per_call)
            answer = np.asarray(self.run({name: value[part] for name, value in arrays.items()})[0], np.float32)
            if answer.shape == answers[part].shape:
                answers[part] = answer
        return answers

    def take(self, ticket: Ticket, answers: np.ndarray, seconds: float = 0.0) -> None:
        """Keeps the network's answers of a photo's faces."""
        ticket.answers = list(answers)
        ticket.seconds["restore"] = seconds

    def close(self, ticket: Ticket) -> dict[str, str]:
        """Pastes the restored faces and encodes the photo.

        Returns:
            The answer, strings only: `image` (base64), `format`, `width`, `height`, `faces` and `seconds` (JSON).

        Raises:
            RefusedError: the network's answer was of no use, or it is too late.
        """
        ticket.check_deadline()
        start = time.perf_counter()
        # Here and not in `take`: whoever calls that runs the network next, and every photo waits for it.
        pictures = to_pixels(np.stack(ticket.answers), self.spec) if ticket.answers else ()
        known = {crop.image.tobytes(): picture for crop, picture in zip(ticket.crops, pictures)}
        restored = restore_image(
            ticket.photo.pixels,
            lambda _: ticket.faces,
            lambda crops: [known[crop.image.tobytes()] for crop in crops],
            mask=self.mask,
            template=self.template,
        )
        if any(one.image is None for one in restored.faces):
            raise RefusedError(Code.FAILED, "a face could not be restored")
        similarities = self._similarities(restored.faces)
        ticket.seconds["paste"] = time.perf_counter() - start
        start = time.perf_counter()
        kind = ticket.format or ticket.kind
        if not restored.faces and kind == ticket.kind:
            content = ticket.content  # nothing to change: the very same file
        else:
            metadata = ticket.photo.metadata
            if restored.faces:
                metadata = mark_as_enhanced(metadata, len(restored.faces), self.spec.arch)
            content = encode_photo(replace(ticket.photo, pixels=restored.image, metadata=metadata), kind)
        height, width = restored.image.shape[:2]
        ticket.seconds["encode"] = time.perf_counter() - start
        fidelity = (FIDELITY if ticket.fidelity is None else ticket.fidelity) if self.has_fidelity else None
        return {
            "image": base64.b64encode(content).decode("ascii"),
            "format": FORMATS[kind],
            "width": str(width),
            "height": str(height),
            "faces": json.dumps([_describe(one, like, fidelity) for one, like in zip(restored.faces, similarities)]),
            "seconds": json.dumps({name: round(value, 4) for name, value in ticket.seconds.items()}),
        }

    def _similarities(self, faces: Sequence[RestoredFace]) -> list[float | None]:
        if self.run_embedding is None or not faces:
            return [None] * len(faces)
        crops = [
            align(picture, one.aligned.landmarks, SFACE_112).image[..., ::-1].transpose(2, 0, 1)
            for one in faces
            for picture in (one.aligned.image, one.image)
        ]
        vectors = np.concatenate(
            [
                self.run_embedding({"image": np.stack(crops[i : i + 8]).astype(np.float32)})[0]
                for i in range(0, len(crops), 8)
            ]
        )
        vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return [float(a @ b) for a, b in zip(vectors[::2], vectors[1::2])]

    def warm_up(self) -> None:
        """Runs every network once, so that the first client does not wait for it."""
        gray = np.full((96, 96, 3), 127, np.uint8)
        self.detect(gray)
        crop = AlignedFace(np.full((self.spec.size, self.spec.size, 3), 127, np.uint8), np.zeros((5, 2)), np.eye(2, 3))
        self.predict(self.feed(Ticket(b"", "PNG", crops=[crop])))
        if self.run_embedding is not None:
            self.run_embedding({"image": np.zeros((2, 3, 112, 112), np.float32)})


def load_stages(
    model_dir: Path,
    *,
    engine: str | None = None,
    cpu_threads: int | None = None,
    max_pixels: int = 25_000_000,
    faces_per_call: int = 1,
) -> Stages:
    """Loads the exported networks of a folder: the generator, `yunet/`, `onet/`, and `sface/` when it is there.

    Raises:
        SpecError, EngineError: a network is missing or cannot be loaded here.
    """
    from ppgan_fr.face.spec import read_spec
    from ppgan_fr.inference import default_threads, paddle_run

    # The small networks run beside the generator, which has every processor. With as many threads of their own they
    # would mostly wait for each other, and the generator for them; their answers are the same to the last bit.
    few = max(1, (cpu_threads or default_threads()) // 4)

    def helper(name: str) -> Run:
        return paddle_run(model_dir / name, cpu_threads=few)

    spec = read_spec(model_dir)
    return Stages(
        detector(helper("yunet"), helper("onet") if (model_dir / "onet").is_dir() else None),
        paddle_run(model_dir, engine=engine, cpu_threads=cpu_threads),
        spec,
        helper("sface") if (model_dir / "sface").is_dir() else None,
        max_pixels=max_pixels,
        faces_per_call=faces_per_call,
    )


def _describe(one: RestoredFace, similarity: float | None, fidelity: float | None) -> dict:
    return {
        "box": [round(float(value), 1) for value in one.face.box],
        "landmarks": [[round(float(x), 2), round(float(y), 2)] for x, y in one.face.landmarks],
        "score": round(one.face.score, 4),
        "restored": one.image is not None,
        "identity_similarity": None if similarity is None else round(float(similarity), 4),
        "fidelity": fidelity,
    }
