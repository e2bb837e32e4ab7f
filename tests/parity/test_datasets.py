"""Items of GFP-GAN's data set, replayed with the random numbers of the original: pictures and component boxes."""

from __future__ import annotations

import re

import numpy as np
import pytest

from ppgan_fr.config import Data, Degradation
from ppgan_fr.data import degrade
from ppgan_fr.data.datasets import DegradedFaces
from tests.parity.reference import Fixture, parametrize
from tests.parity.tolerances import check

pytestmark = pytest.mark.parity

PARTS = ("left_eye", "right_eye", "mouth")


def has_items(name: str, entry: dict) -> bool:
    return "dataset_opts" in entry


def data_of(fixture: Fixture, tag: str) -> Data:
    opts = fixture.meta["dataset_opts"][tag]
    components = fixture.folder / opts["component_path"] if opts["crop_components"] else None
    return Data(
        root=str(fixture.folder / opts["dataroot_gt"]),
        size=opts["out_size"],
        mirror=opts["use_hflip"],
        component_boxes=str(components) if components else None,
        eye_enlarge=opts["eye_enlarge_ratio"],
        degradation=Degradation(gfpgan=degrade.gfpgan_options(opts)),
    )


@parametrize("gfpgan", has_items)
def test_an_item_equals_the_originals(fixture):
    reference = Fixture(*fixture)
    if not (reference.folder / "data_gt").is_dir():
        pytest.fail("the fixture's pictures data_gt/ are missing")
    items = sorted({key.rsplit("_lq", 1)[0] for key in reference.keys("ds_") if key.endswith("_lq")})
    assert items
    for item in items:
        tag, number = re.fullmatch(r"ds_([a-z]+)(\d+)", item).groups()
        found = []
        # The original lists its folder in the order of the disk, so the fixture does not say which file has a number.
        for offset in range(len(list((reference.folder / "data_gt").iterdir()))):
            source = DegradedFaces(data_of(reference, tag))
            source.store.names = source.store.names[offset:] + source.store.names[:offset]
            draws = degrade.ReferenceDraws(reference.meta["seed"] * 100 + int(number))
            found.append(source.sample(int(number) % 2, draws))
        sample = min(found, key=lambda one: np.abs(one["gt"] - reference[f"{item}_gt"]).max())
        np.testing.assert_allclose(sample["gt"], reference[f"{item}_gt"], atol=1e-6, err_msg=item)
        # one level of 255 is 2 / 255 here: the step through JPEG
        check(sample["lq"] * 127.5, reference[f"{item}_lq"] * 127.5, "jpeg", item)
        for part, box in zip(PARTS, sample.get("boxes", ()), strict=False):
            np.testing.assert_allclose(box, reference[f"{item}_loc_{part}"], atol=1e-4, err_msg=f"{item} {part}")
