"""Degradations and the mirrored, degraded items of GFP-GAN's data set, drawn as the original draws them."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from ppgan_fr.data import degrade
from tests.parity.reference import Fixture, once_per, parametrize, root
from tests.parity.tolerances import check

pytestmark = pytest.mark.parity

gfpgan_fixtures = parametrize("gfpgan", lambda name, entry: "dataset_opts" in entry)
programs_fixtures = once_per(
    "fixture", [pytest.param(n, id=n) for n in ("degradation",) if (root() / n / f"{n}.npz").exists()]
)


def close_levels(got: np.ndarray, want: np.ndarray, kind: str, name: str) -> None:
    """Compares pictures in grey levels, float ones after scaling to 255."""
    levels = np.rint(got * 255.0) if got.dtype == np.float32 else got
    check(levels, want, kind, name)


def chw(image: np.ndarray) -> np.ndarray:
    """BGR (H, W, 3) -> RGB (3, H, W), as the original hands pictures on."""
    return image[:, :, ::-1].transpose(2, 0, 1)


@gfpgan_fixtures
def test_blur_kernels_of_given_parameters(fixture):
    gfpgan = Fixture(*fixture)
    makers = {
        "bivariate_Gaussian": lambda size, sx, sy, theta, isotropic: degrade.gaussian_kernel(
            size, sx, sy, theta, isotropic
        ),
        "bivariate_generalized_Gaussian": degrade.generalized_gaussian_kernel,
        "bivariate_plateau": degrade.plateau_kernel,
        "circular_lowpass_kernel": degrade.sinc_kernel,
    }
    for key, value in gfpgan.meta["explicit"].items():
        if isinstance(value, list):
            name, positional, named = value
            check(makers[name](*positional, **named), gfpgan[key], "kernel", key)


@gfpgan_fixtures
def test_random_blur_kernels(fixture):
    gfpgan = Fixture(*fixture)
    seed, sigma = gfpgan.seed, (0.1, 10.0)
    for key in gfpgan.keys("rk_"):
        if key == "rk_mix10":
            continue
        kind, noisy = key[3:].rsplit("_", 1)
        rng = degrade.ReferenceDraws(seed + 11)
        # in a mixture the original never gives its noise to the plateau kernels
        noise = (0.75, 1.25) if noisy == "n" else None
        got = degrade.random_mixed_kernel([kind], [1.0], gfpgan[key].shape[0], sigma, rng, noise)
        check(got, gfpgan[key], "kernel", key)


@gfpgan_fixtures
def test_gaussian_and_poisson_noise(fixture):
    gfpgan = Fixture(*fixture)
    seed, image = gfpgan.seed, gfpgan["img"]
    for key in gfpgan.keys("gauss_"):
        clip, rounds, gray = (key[i] == "1" for i in (7, 9, 11))
        got = degrade.gaussian_noise(image, 12.5, degrade.ReferenceDraws(seed + 13), gray, clip, rounds)
        check(got[::2, ::2], gfpgan[key], "pixel", key)
    got = degrade.random_gaussian_noise(image, (0, 20), degrade.ReferenceDraws(seed + 14), gray_probability=0.5)
    check(got[::2, ::2], gfpgan["rand_gauss"], "pixel", "rand_gauss")
    for key in gfpgan.keys("poisson_g"):
        got = degrade.poisson_noise(image, 1.3, degrade.ReferenceDraws(seed + 15), key.endswith("1"))
        check(got[::2, ::2], gfpgan[key], "pixel", key)


@gfpgan_fixtures
def test_jpeg(fixture):
    gfpgan = Fixture(*fixture)
    for key in gfpgan.keys("jpg"):
        close_levels(degrade.jpeg(gfpgan["img"], int(key[3:])), gfpgan[key], "jpeg", key)
    if "rand_jpg" in gfpgan:
        got = degrade.random_jpeg(gfpgan["img"], (60, 100), degrade.ReferenceDraws(gfpgan.seed + 16))
        close_levels(got, gfpgan["rand_jpg"], "jpeg", "rand_jpg")


@gfpgan_fixtures
def test_colour_operations(fixture):
    gfpgan = Fixture(*fixture)
    image = np.ascontiguousarray(gfpgan["img"][::2, ::2, ::-1])  # the fixture reads it as RGB
    for operation in ("brightness", "contrast", "saturation", "hue"):
        for key in gfpgan.keys(f"{operation}_"):
            got = getattr(degrade, f"adjust_{operation}")(image, float(key.split("_")[1]))
            check(chw(got), gfpgan[key], "pixel", key)


@gfpgan_fixtures
def test_data_set_items(fixture):
    gfpgan = Fixture(*fixture)
    files = sorted((gfpgan.folder / "data_gt").glob("*"))
    if not files:
        pytest.fail("the fixture's pictures data_gt/ are missing")
    pictures = [cv2.imread(str(file)).astype(np.float32) / 255.0 for file in files]
    for tag, options in gfpgan.meta["dataset_opts"].items():
        mean, std = (np.float32(options[k]).reshape(3, 1, 1) for k in ("mean", "std"))
        index = 0
        while f"ds_{tag}{index}_lq" in gfpgan:
            found = []
            # The original lists its folder unsorted, so the fixture does not say which file an index meant.
            for picture in pictures:
                rng = degrade.ReferenceDraws(gfpgan.seed * 100 + index)
                image, _ = degrade.mirror(picture, rng, options["use_hflip"])
                pair = degrade.gfpgan_pair(image, options, rng)
                lq, gt = ((chw(part) - mean) / std for part in pair)
                distance = np.abs(gt - gfpgan[f"ds_{tag}{index}_gt"]).max()
                found.append((distance, lq, gt))
            _, lq, gt = min(found, key=lambda item: item[0])
            check(gt, gfpgan[f"ds_{tag}{index}_gt"], "pixel", f"{tag}{index} gt")
            # one level is 2 / 255 in [-1, 1]: the step through JPEG
            check(lq * 127.5, gfpgan[f"ds_{tag}{index}_lq"] * 127.5, "jpeg", f"{tag}{index} lq")
            index += 1
        assert index > 0, tag


def load_programs(name: str) -> tuple[dict, dict[str, np.ndarray]]:
    folder = root() / name
    with np.load(folder / f"{name}.npz", allow_pickle=False) as archive:
        return json.loads((folder / "manifest.json").read_text()), dict(archive)


class Arrays(dict):
    """The reference's pictures; `compare` looks at those that the selection holds and counts them."""

    compared = 0

    def compare(self, key: str, make, kind: str = "equal") -> None:
        if key in self:
            check(make(), self[key], kind, key)
            self.compared += 1


@programs_fixtures
def test_hifacegan_operations(fixture):
    manifest, loaded = load_programs(fixture)
    arrays = Arrays(loaded)
    image, settings = arrays["image_bgr"], manifest["hifacegan"]
    for i, item in enumerate(settings["down"]):
        factor = item["factor"]
        arrays.compare(f"hif.down{i}", lambda f=factor: degrade.down_up(image, f))
        arrays.compare(f"hif.down_area{i}", lambda f=factor: degrade.down_up(image, f, down=cv2.INTER_AREA))
    for i, item in enumerate(settings["gaussian_blur"]):
        assert degrade.gaussian_blur_size(item["sigma"]) == item["ksize"]
        arrays.compare(f"hif.gauss{i}", lambda s=item["sigma"]: degrade.gaussian_blur(image, s))
    for i, item in enumerate(settings["motion_blur"]):
        parameters = item["k"], item["angle"], item["direction"]
        arrays.compare(f"hif.motion{i}.kernel", lambda p=parameters: degrade.motion_kernel(*p), "kernel")
        arrays.compare(f"hif.motion{i}", lambda p=parameters: degrade.motion_blur(image, *p))
    for i, item in enumerate(settings["jpeg"]):
        assert degrade.pil_quality(item["compression"]) == item["pil_quality"]
        arrays.compare(f"hif.jpeg{i}", lambda q=item["pil_quality"]: degrade.jpeg_swapped(image, q), "jpeg")
    for kind in ("gaussian", "laplace", "poisson"):
        values = f"hif.noise_{kind}.values"
        arrays.compare(f"hif.noise_{kind}", lambda v=values: degrade.add_values(image, arrays[v]))
    arrays.compare("hif.mosaic16", lambda: degrade.mosaic(image, 16))
    assert arrays.compared == sum(key.startswith("hif.") and not key.endswith(".values") for key in arrays)


@programs_fixtures
def test_face_renovation_operations(fixture):
    manifest, loaded = load_programs(fixture)
    arrays = Arrays(loaded)
    image, settings = arrays["image_bgr"], manifest["face_renovation"]
    for kind in ("gaussian", "laplace"):
        values = arrays.get(f"fr.noise_{kind}.values")
        if values is None:
            continue
        arrays.compare(f"fr.noise_{kind}.as_uint8", lambda v=values: degrade.wrapped_uint8(v))
        arrays.compare(
            f"fr.noise_{kind}", lambda v=values: degrade.face_renovation_noise_values(image, v, noise="as_published")
        )
        share = float((values <= -1).mean())
        assert share == pytest.approx(settings[f"noise_{kind}"]["share_of_values_forced_to_255"], abs=1e-9)
    for key in list(arrays):
        name, number = key.rstrip("0123456789"), key[len(key.rstrip("0123456789")) :]
        if name == "fr.down":
            arrays.compare(key, lambda n=number: degrade.down_by(image, int(n)))
        elif name == "fr.median":
            arrays.compare(key, lambda n=number: degrade.median_blur(image, int(n)))
        elif name == "fr.jpeg":
            arrays.compare(key, lambda n=number: degrade.jpeg(image, int(n)), "jpeg")
    for i, (size, sigma) in enumerate(settings["gaussian_blur"]):
        arrays.compare(f"fr.gauss{i}", lambda s=sigma, k=size: degrade.gaussian_blur(image, s, k))
    assert arrays.compared > 0


@programs_fixtures
def test_face_renovation_chains(fixture):
    manifest, loaded = load_programs(fixture)
    arrays = Arrays(loaded)
    for i, seed in enumerate(manifest["face_renovation"]["full_chain_seeds"]):
        rng = degrade.ReferenceDraws(seed)
        arrays.compare(
            f"fr.chain{i}",
            lambda r=rng: degrade.face_renovation_degrade(arrays["image_bgr"], r, noise="as_published"),
            "jpeg",
        )
    assert arrays.compared == sum(key.startswith("fr.chain") for key in arrays) > 0
