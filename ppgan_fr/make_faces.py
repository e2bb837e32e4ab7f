"""Synthetic FFHQ-aligned faces with their latent codes, drawn by MobileStyleGAN.

The prior's weights are not shipped; `tools/third_party/mobile_stylegan.py` fetches and converts them. Face i of seed s
is always the same picture, whatever the count, so a folder can be continued.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

SIZES = (512, 1024)
DEFAULT_WEIGHTS = "weights/mobile_stylegan.npz"
MEAN_SAMPLES = 4096


class FacesError(ValueError):
    """The faces cannot be made; the message says why in one line."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `make-faces`."""
    parser.add_argument("--count", type=int, required=True, help="how many faces")
    parser.add_argument("--output", required=True, help="folder for NNNNN.png and latents.npz")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, choices=SIZES, default=512, help="side of the pictures in pixels")
    parser.add_argument("--truncation", type=float, nargs=2, default=(0.45, 0.85), metavar=("LOW", "HIGH"),
                        help="range of the share of the way from the mean face to a drawn one")  # fmt: skip
    parser.add_argument("--weights", default=DEFAULT_WEIGHTS, help="converted MobileStyleGAN weights")


def run(args: argparse.Namespace) -> int:
    """Makes the faces; pictures that are already in the folder are kept, so an interrupted run can be repeated."""
    if args.count < 1:
        raise FacesError(f"--count: must be positive, got {args.count}")
    low, high = args.truncation
    if not 0 <= low <= high <= 1.5:
        raise FacesError(f"--truncation: expected 0 <= LOW <= HIGH <= 1.5, got {low} {high}")
    output = Path(args.output)
    output.mkdir(parents=True, exist_ok=True)
    draw = face_maker(args.weights, args.size)
    latents, mean = draw.latents(args.seed, args.count, (low, high))
    names = np.array([f"{index:05d}" for index in range(args.count)])
    write_beside(output / "latents.npz", lambda path: np.savez(path, names=names, latents=latents, mean=mean))
    from tqdm import tqdm

    for index in tqdm(range(args.count), unit="face", disable=None):
        path = output / f"{index:05d}.png"
        if not path.exists():
            write_png(path, draw.picture(latents[index]))
    return 0


class FaceMaker:
    """Latents and pictures of one MobileStyleGAN."""

    def __init__(self, network) -> None:
        self.network = network

    def latents(self, seed: int, count: int, truncation: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
        """Style codes of faces 0 ... count-1 of a seed.

        Returns:
            (count, 512) float32 styles, truncated towards the mean, and the mean style (512,).
        """
        mean = self._map(np.random.default_rng([0]).standard_normal((MEAN_SAMPLES, 512))).mean(0)
        rngs = [np.random.default_rng([seed, index]) for index in range(count)]
        styles = self._map(np.stack([rng.standard_normal(512) for rng in rngs]))
        alpha = np.array([rng.uniform(*truncation) for rng in rngs], np.float32)[:, None]
        return mean + alpha * (styles - mean), mean

    def picture(self, latent: np.ndarray) -> np.ndarray:
        """One style (512,) -> picture (size, size, 3) uint8 BGR."""
        import paddle

        with paddle.no_grad():
            image = self.network(paddle.to_tensor(latent[None].astype(np.float32)))[0].numpy()[0]
        return np.round((np.clip(image, -1, 1) + 1) * 127.5).astype(np.uint8).transpose(1, 2, 0)[:, :, ::-1]

    def _map(self, z: np.ndarray) -> np.ndarray:
        import paddle

        with paddle.no_grad():
            return self.network.mapping(paddle.to_tensor(z.astype(np.float32))).numpy()


def face_maker(weights: str, size: int) -> FaceMaker:
    """Builds MobileStyleGAN with its weights.

    Raises:
        FacesError: when the weights are not there.
        WeightsError: when they are of something else.
    """
    from ppgan_fr.archs import mobile_stylegan
    from ppgan_fr.weights import from_torch, load_npz

    if not Path(weights).exists():
        how = f"python tools/third_party/mobile_stylegan.py --output {weights}"
        raise FacesError(f"{weights}: not there; make it with: {how}")
    network = mobile_stylegan.build(mobile_stylegan.Config(out_size=size))
    network.eval()
    from_torch(network, load_npz(weights))
    return FaceMaker(network)


def write_png(path: Path, picture: np.ndarray) -> None:
    """Writes beside, then renames."""
    import cv2

    ok, data = cv2.imencode(".png", picture)
    if not ok:
        raise FacesError(f"{path}: could not be encoded")
    write_beside(path, lambda beside: Path(beside).write_bytes(data.tobytes()))


def write_beside(path: Path, write) -> None:
    """Calls `write` with a path beside `path` and the same ending, then moves the result over `path`."""
    beside = path.with_name(f".{path.stem}.part{path.suffix}")
    try:
        write(beside)
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise FacesError(f"{path}: {error.strerror}") from None
