"""The sampler and the data set of the Face-Renovation-Project: the same draws, the same arrays."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from ppgan_fr.data import pairs
from ppgan_fr.data.sample_faces import sample_indices
from tests.parity.reference import manifest, once_per, root
from tests.parity.tolerances import check

pytestmark = pytest.mark.parity

AREA = "degradation"
ARRAYS = root() / AREA / f"{AREA}.npz"
FACTS = manifest(AREA).get("face_renovation", {})


def arrays() -> dict[str, np.ndarray]:
    with np.load(ARRAYS, allow_pickle=False) as archive:
        return {key: archive[key] for key in archive.files if key.startswith("fr.dataset.")}


SAMPLER = [AREA] if "sampler" in FACTS else []
DATASET = [AREA] if "dataset" in FACTS and ARRAYS.is_file() and "fr.dataset.out_sub4" in arrays() else []


@once_per("fixture", SAMPLER)
def test_the_same_seed_draws_the_same_faces(fixture):
    wanted = FACTS["sampler"]
    train, valid = sample_indices(70_000, wanted["train_size"], wanted["valid_size"], wanted["numpy_seed"])
    assert train.tolist() == wanted["train_index"]
    assert valid.tolist() == wanted["valid_index"]


@once_per("fixture", DATASET)
def test_an_item_of_the_data_set_has_the_same_window_mirror_and_values(fixture, tmp_path):
    facts, wanted = FACTS["dataset"], arrays()
    small = wanted["fr.dataset.source256_bgr"]
    assert cv2.imwrite(str(tmp_path / "0.png"), cv2.resize(small, (1024, 1024), interpolation=cv2.INTER_CUBIC))
    pair = pairs.load_folder_pair(
        tmp_path / "0.png",
        tmp_path / "0.png",
        facts["crop"],
        facts["resize"],
        facts["crop_top"],
        facts["crop_left"],
        facts["hflip"],
    )
    for picture in pair:
        got = pairs.imagenet_normalised(picture)[:, ::4, ::4]
        check(got, wanted["fr.dataset.out_sub4"], "normalised_pixel", "fr.dataset")
