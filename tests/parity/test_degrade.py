"""Degradations and the mirrored, degraded items of GFP-GAN's data set, drawn as the original draws them."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from ppgan_fr.data import degrade
from tests.parity.reference import Fixture, names, root
from tests.parity.tolerances import check

pytestmark = pytest.mark.parity

GFPGAN = names("gfpgan", lambda name, entry: "dataset_opts" in entry)
ONE_FILE = [n for n in ("degradation",) if (root() / n / f"{n}.npz").exists()]


def close_levels(got: np.ndarray, want: np.ndarray, kind: str, name: str) -> None:
    """Compares pictures in grey levels, float ones after scaling to 255."""
    levels = np.rint(got * 255.0) if got.dtype == np.float32 else got
    check(levels, want, kind, name)


def chw(image: np.ndarray) -> np.ndarray:
    """BGR (H, W, 3) -> RGB (3, H, W), as the original hands pictures on."""
    return image[:, :, ::-1].transpose(2, 0, 1)


@pytest.fixture(params=GFPGAN)
def gfpgan(request) -> Fixture:
    return Fixture("gfpgan", request.param)


def test_blur_kernels_of_given_parameters(gfpgan):
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


def test_random_blur_kernels(gfpgan):
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


def test_gaussian_and_poisson_noise(gfpgan):
    seed, image = gfpgan.seed, gfpgan["img"]
    for key in gfpgan.keys("gauss_"):
        clip, rounds, gray = (key[i] == "1" for i in (7, 9, 11))
        got = degrade.gaussian_noise(image, 12.5, degrade.ReferenceDraws(seed + 13), gray, clip, rounds)
        check(got[::2, ::2], gfpgan[key], "pixel", key)
    got = degrade.random_gaussian_noise(image, (0, 20), degrade.ReferenceDraws(seed + 14), gray_probability=0.5)
    check(got[::2, ::2], gfpgan["rand_gauss"], "pixel", "rand_gauss")
    for gray in (0, 1):
        got = degrade.poisson_noise(image, 1.3, degrade.ReferenceDraws(seed + 15), bool(gray))
        check(got[::2, ::2], gfpgan[f"poisson_g{gray}"], "pixel", f"poisson_g{gray}")


def test_jpeg(gfpgan):
    for key in gfpgan.keys("jpg"):
        close_levels(degrade.jpeg(gfpgan["img"], int(key[3:])), gfpgan[key], "jpeg", key)
    got = degrade.random_jpeg(gfpgan["img"], (60, 100), degrade.ReferenceDraws(gfpgan.seed + 16))
    close_levels(got, gfpgan["rand_jpg"], "jpeg", "rand_jpg")


def test_colour_operations(gfpgan):
    image = np.ascontiguousarray(gfpgan["img"][::2, ::2, ::-1])  # the fixture reads it as RGB
    for operation in ("brightness", "contrast", "saturation", "hue"):
        for key in gfpgan.keys(f"{operation}_"):
            got = getattr(degrade, f"adjust_{operation}")(image, float(key.split("_")[1]))
            check(chw(got), gfpgan[key], "pixel", key)


def test_data_set_items(gfpgan):
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


@pytest.fixture(params=ONE_FILE)
def programs(request):
    folder = root() / request.param
    with np.load(folder / f"{request.param}.npz", allow_pickle=False) as archive:
        return json.loads((folder / "manifest.json").read_text()), dict(archive)


def test_hifacegan_operations(programs):
    manifest, arrays = programs
    image, settings = arrays["image_bgr"], manifest["hifacegan"]
    for i, item in enumerate(settings["down"]):
        check(degrade.down_up(image, item["factor"]), arrays[f"hif.down{i}"], "equal", f"down{i}")
        area = degrade.down_up(image, item["factor"], down=cv2.INTER_AREA)
        check(area, arrays[f"hif.down_area{i}"], "equal", f"down_area{i}")
    for i, item in enumerate(settings["gaussian_blur"]):
        assert degrade.gaussian_blur_size(item["sigma"]) == item["ksize"]
        check(degrade.gaussian_blur(image, item["sigma"]), arrays[f"hif.gauss{i}"], "equal", f"gauss{i}")
    for i, item in enumerate(settings["motion_blur"]):
        parameters = item["k"], item["angle"], item["direction"]
        check(degrade.motion_kernel(*parameters), arrays[f"hif.motion{i}.kernel"], "kernel", f"motion{i}.kernel")
        check(degrade.motion_blur(image, *parameters), arrays[f"hif.motion{i}"], "equal", f"motion{i}")
    for i, item in enumerate(settings["jpeg"]):
        assert degrade.pil_quality(item["compression"]) == item["pil_quality"]
        check(degrade.jpeg_swapped(image, item["pil_quality"]), arrays[f"hif.jpeg{i}"], "jpeg", f"jpeg{i}")
    for kind in ("gaussian", "laplace", "poisson"):
        got = degrade.add_values(image, arrays[f"hif.noise_{kind}.values"])
        check(got, arrays[f"hif.noise_{kind}"], "equal", kind)
    check(degrade.mosaic(image, 16), arrays["hif.mosaic16"], "equal", "mosaic16")


def test_face_renovation_operations(programs):
    manifest, arrays = programs
    image, settings = arrays["image_bgr"], manifest["face_renovation"]
    numbers = {key: int(key.removeprefix("fr.down")) for key in arrays if key.startswith("fr.down")}
    for key, ratio in numbers.items():
        check(degrade.down_by(image, ratio), arrays[key], "equal", key)
    for kind in ("gaussian", "laplace"):
        values = arrays[f"fr.noise_{kind}.values"]
        check(degrade.wrapped_uint8(values), arrays[f"fr.noise_{kind}.as_uint8"], "equal", f"{kind} cast")
        got = degrade.face_renovation_noise_values(image, values, noise="as_published")
        check(got, arrays[f"fr.noise_{kind}"], "equal", kind)
        share = float((values <= -1).mean())
        assert share == pytest.approx(settings[f"noise_{kind}"]["share_of_values_forced_to_255"], abs=1e-9)
    for key in (k for k in arrays if k.startswith("fr.median")):
        check(degrade.median_blur(image, int(key.removeprefix("fr.median"))), arrays[key], "equal", key)
    for i, (size, sigma) in enumerate(settings["gaussian_blur"]):
        check(degrade.gaussian_blur(image, sigma, size), arrays[f"fr.gauss{i}"], "equal", f"gauss{i}")
    for key in (k for k in arrays if k.startswith("fr.jpeg")):
        check(degrade.jpeg(image, int(key.removeprefix("fr.jpeg"))), arrays[key], "jpeg", key)


def test_face_renovation_chains(programs):
    manifest, arrays = programs
    for i, seed in enumerate(manifest["face_renovation"]["full_chain_seeds"]):
        rng = degrade.ReferenceDraws(seed)
        got = degrade.face_renovation_degrade(arrays["image_bgr"], rng, noise="as_published")
        check(got, arrays[f"fr.chain{i}"], "jpeg", f"chain{i}")
