"""What tests of several folders stand on."""

from __future__ import annotations

import pytest

TINY = """
name: tiny
generator: {arch: gfpgan_mobile, out_size: 64, narrow: 0.0625, num_style_feat: 32}
pipeline: {size: 64}
"""


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """A folder with tiny.yaml and tiny.pdparams: a small gfpgan_mobile with random weights."""
    import paddle

    from ppgan_fr import weights
    from ppgan_fr.config import build, load_config

    folder = tmp_path_factory.mktemp("tiny")
    (folder / "tiny.yaml").write_text(TINY)
    paddle.seed(0)
    weights.save(build(load_config(folder / "tiny.yaml").generator), folder / "tiny.pdparams")
    return folder
