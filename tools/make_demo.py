"""Makes the demo pictures: a portrait and an album page of twelve people who do not exist, both aged.

    python tools/make_demo.py --prior weights/mobile_stylegan.npz --output assets/demo

The portrait is NASA's picture of the astronaut Eileen Collins (public domain), taken out of the package scikit-image.
The people of the album are drawn by MobileStyleGAN (`tools/third_party/mobile_stylegan.py` fetches it), each from a
seed. The same command gives the same pages. `originals/` keeps both before ageing.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from third_party.onnx_graph import member_of_wheel

from ppgan_fr.data import degrade
from ppgan_fr.face.image_io import decode_photo, write_file

ASTRONAUT = (
    "scikit-image==0.25.2",
    "skimage/data/astronaut.png",
    "88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5",
)
SEEDS = (32, 56, 19, 26, 29, 5, 21, 24, 52, 12, 37, 46)
"""One person each, in the order of the page."""
TRUNCATION = 0.75
PAGE = (1520, 1180)
PRINT = 286
BORDER = 14
CORNER = 34


def people(prior: Path, seeds: tuple[int, ...]) -> list[np.ndarray]:
    """Faces of people who do not exist, (512, 512, 3) uint8 BGR, one per seed."""
    import paddle

    from ppgan_fr.archs import mobile_stylegan
    from ppgan_fr.weights import from_torch

    network = mobile_stylegan.build(mobile_stylegan.Config(out_size=512))
    with np.load(prior, allow_pickle=False) as state:
        from_torch(network, {name: state[name] for name in state.files})
    network.eval()
    faces = []
    with paddle.no_grad():
        many = np.random.default_rng(0).standard_normal((4096, 512)).astype(np.float32)
        mean = network.mapping(paddle.to_tensor(many)).mean(0, keepdim=True)
        for seed in seeds:
            z = np.random.default_rng(seed).standard_normal((1, 512)).astype(np.float32)
            style = mean + TRUNCATION * (network.mapping(paddle.to_tensor(z)) - mean)
            picture = network(style)[0].numpy()[0].transpose(1, 2, 0)[..., ::-1]
            faces.append(np.clip(np.rint(picture * 127.5 + 127.5), 0, 255).astype(np.uint8))
    return faces


def aged_print(picture: np.ndarray, index: int, rng: np.random.Generator) -> np.ndarray:
    """A small paper print grows old: unsharp, grainy, faded; some in sepia, some black and white."""
    picture = degrade.gaussian_blur(picture, float(rng.uniform(1.3, 2.1)))
    tone = index % 3
    if tone == 0:
        picture = degrade.sepia(picture, 0.85)
    elif tone == 1:
        picture = degrade.gray(picture)
    picture = degrade.film_grain(picture, float(rng.uniform(5, 9)), rng, size=0.8)
    picture = degrade.fade(picture, float(rng.uniform(0.25, 0.5)))
    picture = degrade.vignette(picture, 0.25)
    return degrade.jpeg(picture, 55)


def album_page(faces: list[np.ndarray], aged: bool) -> np.ndarray:
    """Twelve prints in three rows on dark album paper, each a little askew, held by paper corners."""
    width, height = PAGE
    rng, ageing = np.random.default_rng(2), np.random.default_rng(3)
    fibres = cv2.blur(rng.standard_normal((height, width), np.float32), (3, 3))
    clouds = cv2.resize(rng.standard_normal((10, 13), np.float32), PAGE, interpolation=cv2.INTER_CUBIC)
    page = np.array((58, 70, 84), np.float32) + (fibres * 9 + clouds * 4)[:, :, None]
    for index, face in enumerate(faces):
        picture = cv2.resize(face, (PRINT, PRINT), interpolation=cv2.INTER_AREA)
        if aged:
            picture = aged_print(picture, index, ageing)
        side = PRINT + 2 * BORDER
        card = np.full((side, side, 3), (222, 234, 240), np.float32)
        card[BORDER:-BORDER, BORDER:-BORDER] = picture
        for x, inward in ((0, CORNER), (side - 1, -CORNER)):
            for y, down in ((0, CORNER), (side - 1, -CORNER)):
                cv2.fillPoly(card, [np.array([(x, y), (x + inward, y), (x, y + down)])], (38, 46, 54), cv2.LINE_AA)
        row, column = divmod(index, 4)
        centre = (column + 0.5) * (width - 60) / 4 + 30, (row + 0.5) * (height - 60) / 3 + 30
        _lay(page, card, centre, float(rng.uniform(-2.5, 2.5)))
    return np.clip(np.rint(page), 0, 255).astype(np.uint8)


def _lay(page: np.ndarray, card: np.ndarray, centre: tuple[float, float], degrees: float) -> None:
    """Puts a card on the page, turned, with a soft shadow below and to the right."""
    side, room = len(card), len(card) + 50
    x, y = (round(value - room / 2) for value in centre)
    matrix = cv2.getRotationMatrix2D(((side - 1) / 2, (side - 1) / 2), degrees, 1)
    matrix[:, 2] += (room - side) / 2
    shape = cv2.warpAffine(np.ones((side, side), np.float32), matrix, (room, room))
    laid = cv2.warpAffine(card, matrix, (room, room), flags=cv2.INTER_CUBIC)
    shadow = cv2.GaussianBlur(np.roll(shape, (5, 4), (0, 1)), (0, 0), 6)
    part = page[y : y + room, x : x + room]
    part *= 1 - 0.45 * shadow[:, :, None]
    part += (laid - part) * shape[:, :, None]


def aged_portrait(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A photo of a photo: a little out of focus, pale, grainy, sent around as a small JPEG."""
    small = cv2.resize(picture, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    picture = cv2.resize(small, picture.shape[1::-1], interpolation=cv2.INTER_CUBIC)
    picture = degrade.gaussian_blur(picture, 1.2)
    picture = degrade.film_grain(picture, 5, rng, size=0.8)
    return degrade.fade(picture, 0.25)


def save(path: Path, picture: np.ndarray, quality: int) -> None:
    """Writes a JPEG and says how large it is."""
    content = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, content)
    print(f"{path}: {picture.shape[1]} x {picture.shape[0]}, {len(content) // 1000} kB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prior", default="weights/mobile_stylegan.npz", help="MobileStyleGAN, converted")
    parser.add_argument("--wheel", help="the wheel of scikit-image, when it is already here")
    parser.add_argument("--output", default="assets/demo")
    arguments = parser.parse_args()
    output = Path(arguments.output)
    portrait = decode_photo(member_of_wheel(*ASTRONAUT, arguments.wheel), "astronaut.png").pixels
    save(output / "originals" / "astronaut.jpg", portrait, 92)
    save(output / "astronaut.jpg", aged_portrait(portrait, np.random.default_rng(1)), 45)
    faces = people(Path(arguments.prior), SEEDS)
    save(output / "originals" / "album.jpg", album_page(faces, aged=False), 88)
    save(output / "album.jpg", album_page(faces, aged=True), 62)


if __name__ == "__main__":
    main()
