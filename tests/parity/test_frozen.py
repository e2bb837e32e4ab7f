"""Networks around the restorers against their originals: component discriminator, ArcFace, RetinaFace, ParseNet,
RestoreFormer, and facexlib's alignment and paste."""

from __future__ import annotations

import cv2
import numpy as np
import paddle
import pytest

from ppgan_fr import losses, weights
from ppgan_fr.archs import arcface, component_discriminator, parsenet, restoreformer, retinaface
from ppgan_fr.face import align, paste
from ppgan_fr.face import retinaface as face_retinaface
from tests.parity.reference import Fixture, names, parametrize, uniform_image
from tests.parity.tolerances import TOLERANCES, check

pytestmark = pytest.mark.parity

ARCHITECTURES = {
    "FacialComponentDiscriminator": component_discriminator,
    "ResNetArcFace": arcface,
    "RestoreFormer": restoreformer,
}


def is_trained(name, entry):
    return entry.get("cls") in ARCHITECTURES and not name.startswith("full512")


def has_gradients(name, entry):
    """Whether the selection holds gradients too."""
    return is_trained(name, entry) and name in names("gfpgan", is_trained) and "grad_x" in Fixture("gfpgan", name)


def build(fixture: Fixture, module):
    """The network with the fixture's parameters, in evaluation mode, all parameters open to gradients."""
    network = module.build(module.Config(**fixture.kwargs()))
    weights.from_torch(network, fixture.state())
    network.eval()
    return network


def first(output):
    return output[0] if isinstance(output, tuple) else output


class Differentiated:
    """A fixture's network and its loss mean(output * probe), in float32 or float64."""

    def __init__(self, fixture: Fixture, module, dtype: str):
        self.fixture, self.dtype = fixture, dtype
        self.network = build(fixture, module)
        self.reference_names = {ours: theirs for theirs, ours in weights._torch_names(self.network)[0].items()}
        self.network.to(dtype=dtype)
        for parameter in self.network.parameters():
            parameter.stop_gradient = False

    def gradients(self, seed: int | None = None) -> tuple[np.ndarray, np.ndarray, dict[str, float]]:
        """Loss, gradient of the input, gradient norms of the parameters by reference name.

        With a seed the input is first moved by some units of float32's last place.
        """
        x = self.fixture["x"].astype(self.dtype)
        if seed is not None:
            x = x + np.random.default_rng(seed).uniform(-3e-6, 3e-6, x.shape).astype(self.dtype)
        self.network.clear_gradients()
        x = paddle.to_tensor(x)
        x.stop_gradient = False
        paddle.set_default_dtype(self.dtype)
        try:
            output = first(self.network(x))
            probe = self.fixture.normal(f"{self.fixture.name}/proj", output.shape).astype(self.dtype)
            loss = (output * paddle.to_tensor(probe)).mean()
            loss.backward()
        finally:
            paddle.set_default_dtype("float32")
        norms = {
            self.reference_names.get(name, name): float(np.linalg.norm(p.grad.numpy().astype(np.float64)))
            for name, p in self.network.named_parameters()
            if p.grad is not None
        }
        return loss.numpy(), x.grad.numpy(), norms


def agrees(grad: np.ndarray, want: np.ndarray) -> bool:
    rtol, atol = TOLERANCES["gradient"]
    return bool(np.abs(grad - want).max() <= atol + rtol * np.abs(want).max())


def lies_between(exact: Differentiated, want: np.ndarray, rounds: int = 16) -> bool:
    """Whether the reference is one of the gradients next to the input: at a kink there are two, one on each side."""
    found = [exact.gradients(seed)[1] for seed in range(rounds)]
    rtol, atol = TOLERANCES["gradient"]
    allowed = atol + rtol * np.abs(want).max()
    low, high = np.min(found, axis=0), np.max(found, axis=0)
    return bool((want >= low - allowed).all() and (want <= high + allowed).all())


@parametrize("gfpgan", is_trained)
def test_forward(fixture):
    fixture = Fixture(*fixture)
    network = build(fixture, ARCHITECTURES[fixture.meta["cls"]])
    with paddle.no_grad():
        x = paddle.to_tensor(fixture["x"])
        output = network(x)
        if "pred" in fixture:
            check(output[0], fixture["pred"], "image", "prediction")
            for i, feature in enumerate(output[1]):
                if f"feat{i}" in fixture:
                    check(feature[:, : fixture[f"feat{i}"].shape[1]], fixture[f"feat{i}"], "feature", f"feature {i}")
        if "emb" in fixture:
            check(output, fixture["emb"], "image", "embedding")
        if "image" in fixture:
            check(output[0], fixture["image"], "image", "image")
        if "quant" in fixture:
            quantised, _, indices, features = network.encode(x)
            check(quantised, fixture["quant"], "feature", "quantised")
            np.testing.assert_array_equal(indices.numpy(), fixture["codebook_idx"])
            for key in fixture.keys("hs_"):
                check(features[key.removeprefix("hs_")], fixture[key], "feature", key)


@parametrize("gfpgan", has_gradients)
def test_gradients(fixture):
    fixture = Fixture(*fixture)
    module = ARCHITECTURES[fixture.meta["cls"]]
    loss, grad, norms = Differentiated(fixture, module, "float32").gradients()
    check(loss, fixture["loss"], "loss", "loss")
    want = fixture["grad_x"]
    if not agrees(grad, want):
        # A unit within float32 rounding of a ReLU's kink may fall on the other side, which changes the gradient of all
        # pixels it sees by a finite amount: in our float32 (then float64 agrees) or in the reference's (then it is one
        # of the gradients around the input).
        exact = Differentiated(fixture, module, "float64")
        _, grad, norms = exact.gradients()
        if not agrees(grad, want) and not lies_between(exact, want):
            check(grad, want, "gradient", "gradient of the input")
    keys = [str(key) for key in fixture["gradnorm_keys"]]
    check([norms[key] for key in keys], fixture["gradnorm"], "gradient_norm", "gradient norms")


@parametrize("gfpgan", lambda name, entry: entry.get("cls") == "FacialComponentDiscriminator")
def test_r1_penalty_of_the_component_discriminator(fixture):
    fixture = Fixture(*fixture)
    network = build(fixture, component_discriminator)
    image = paddle.to_tensor(fixture["x"])
    image.stop_gradient = False
    check(losses.r1_penalty(network(image)[0], image), fixture["r1"], "second_derivative", "R1")


@parametrize("gfpgan", lambda name, entry: name.startswith("retinaface"))
def test_retinaface(fixture):
    fixture = Fixture(*fixture)
    if "x" in fixture:
        network = build(fixture, retinaface)
        with paddle.no_grad():
            boxes, scores, landmarks = network(paddle.to_tensor(fixture["x"]))
        check(boxes, fixture["loc"], "image", "boxes")
        check(scores, fixture["conf"], "probability", "scores")
        check(landmarks, fixture["landmarks"], "image", "landmarks")
        anchors = face_retinaface.priors(*fixture["x"].shape[2:])
        check(anchors, fixture["priors"], "operator", "priors")
    # the fixture decodes a tenth of the offsets, so that the exponential stays small
    tenth = np.float32(0.1)
    decoded = face_retinaface.decode_boxes(fixture["loc"][0] * tenth, fixture["priors"])
    check(decoded, fixture["decoded_boxes"], "operator", "decoded boxes")
    points = face_retinaface.decode_landmarks(fixture["landmarks"][0] * tenth, fixture["priors"])
    check(points, fixture["decoded_landms"], "operator", "decoded landmarks")
    candidates = fixture["nms_dets"]
    for key in fixture.keys("nms_keep_"):
        kept = face_retinaface.suppress(candidates[:, :4], candidates[:, 4], float(key.removeprefix("nms_keep_")))
        np.testing.assert_array_equal(kept, fixture[key])


@parametrize("gfpgan", lambda name, entry: name.startswith("parsenet"))
def test_parsenet(fixture):
    fixture = Fixture(*fixture)
    network = build(fixture, parsenet)
    size = fixture.kwargs()["in_size"]
    with paddle.no_grad():
        logits = network(paddle.to_tensor(uniform_image(fixture.seed, "pn/x", (1, 3, size, size))))[0].numpy()
    want = fixture["mask_logits_sub"]
    step = logits.shape[2] // want.shape[2]
    check(logits[:, :, ::step, ::step], want, "image", "logits")
    step = logits.shape[2] // fixture["argmax_sub4"].shape[1]
    classes = logits.argmax(axis=1)[:, ::step, ::step]
    rtol, atol = TOLERANCES["image"]
    sure = fixture["argmax_margin_sub4"] > 2 * (atol + rtol * np.abs(want).max())
    np.testing.assert_array_equal(classes[sure], fixture["argmax_sub4"][sure])


@parametrize("gfpgan", lambda name, entry: name.startswith("full512") and entry.get("cls") == "RestoreFormer")
def test_restoreformer_at_full_size(fixture):
    fixture = Fixture(*fixture)
    network = build(fixture, restoreformer)
    x = uniform_image(fixture.seed, f"{fixture.name}/x", (1, 3, 512, 512))
    with paddle.no_grad():
        image = network(paddle.to_tensor(x))[0].numpy()
    check(image[:, :, ::8, ::8], fixture["image_stride8"], "image_512", "image, every eighth pixel")
    side = fixture["image_crop96"].shape[2]
    corner = (image.shape[2] - side) // 2
    crop = image[:, :, corner : corner + side, corner : corner + side]
    check(crop, fixture["image_crop96"], "image_512", "centre")
    statistics = np.stack([image.mean(axis=(0, 2, 3)), image.std(axis=(0, 2, 3))])
    check(statistics, fixture["image_mean_std"], "image_512", "mean and deviation")


# ---------------------------------------------------------------- facexlib's helper


def parsing_labels() -> np.ndarray:
    """The classes of the fixture's stand-in for the parsing network: a face, clothes below it, hair above it."""
    y, x = np.mgrid[0:512, 0:512]
    face = ((y - 270) / 190) ** 2 + ((x - 256) / 150) ** 2 < 1
    labels = np.zeros((512, 512), np.int64)
    labels[~face & (y > 420)] = 14
    labels[~face & (y < 100)] = 17
    labels[face] = 1
    return labels


def close_pictures(got: np.ndarray, want: np.ndarray, name: str) -> None:
    """Within one grey level, up to one pixel value in a thousand (OpenCV versions interpolate differently)."""
    assert got.shape == want.shape, name
    beyond = np.abs(got.astype(int) - want.astype(int)) > 1
    assert beyond.mean() <= 1e-3, f"{name}: {beyond.mean():.2%} of the values differ by more than one level"


@parametrize("gfpgan", lambda name, entry: name.startswith("face_helper"))
def test_face_helper(fixture):
    fixture = Fixture(*fixture)
    image = fixture["img"]
    cases = [key.removesuffix("_affine") for key in fixture.keys("up") if key.endswith("_affine") and "inv" not in key]
    assert cases
    for case in cases:
        scale, parse = int(case[2 : case.index("_")]), case.endswith("parse1")
        height, width = image.shape[:2]
        out = cv2.resize(image, (width * scale, height * scale), interpolation=cv2.INTER_LANCZOS4)
        for i, landmarks in enumerate(fixture["landmarks"]):
            aligned = align.align(image, landmarks, align.FFHQ_512)
            check(aligned.to_template, fixture[f"{case}_affine"][i], "matrix", f"{case} matrix")
            inverse = paste.reference_inverse(aligned.to_template, scale)
            check(inverse, fixture[f"{case}_inv_affine"][i], "matrix", f"{case} inverse")
            close_pictures(aligned.image[::2, ::2], fixture["cropped_sub2"][i], f"{case} crop")
            restored = 255 - aligned.image
            labels = parsing_labels() if parse else None
            out = paste.paste_reference(out, restored, aligned.to_template, labels, scale)
        close_pictures(out.astype(np.uint8), fixture[f"{case}_pasted"], case)
