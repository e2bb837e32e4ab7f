"""An export that every engine can open."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """The folder of a tiny GFP-GAN, exported with its detector. Not to be written to."""
    import paddle

    from ppgan_fr import export, weights
    from ppgan_fr.config import build, make_config

    folder = tmp_path_factory.mktemp("model")
    generator = {"arch": "gfpgan", "out_size": 64, "num_style_feat": 12, "narrow": 1 / 16, "num_mlp": 2}
    config = make_config(
        {"name": "tiny", "generator": generator, "weights": str(folder / "w"), "export": {"dir": str(folder / "m")}}
    )
    paddle.seed(0)
    weights.save(build(config.generator), folder / "w")
    return export.export(config)[0]
