"""Three small photos with one face each, from a demo picture: as it is, mirrored, and darker."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", type=Path, help="a photo with one face (default: the portrait of assets/demo)")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--width", type=int, default=256)
    args = parser.parse_args()
    found = [args.source] if args.source else sorted((ROOT / "assets" / "demo").glob("*astronaut*"))
    image = cv2.imread(str(found[0])) if found and found[0].is_file() else None
    if image is None:
        print("assets/demo: the astronaut's portrait is missing or cannot be read", file=sys.stderr)
        return 1
    height = round(image.shape[0] * args.width / image.shape[1])
    small = cv2.resize(image, (args.width, height), interpolation=cv2.INTER_AREA)
    args.output.mkdir(parents=True, exist_ok=True)
    versions = {"as_it_is": small, "mirrored": small[:, ::-1], "darker": (small * 0.7).astype(np.uint8)}
    for name, picture in versions.items():
        cv2.imwrite(str(args.output / f"{name}.png"), np.ascontiguousarray(picture))
    return 0


if __name__ == "__main__":
    sys.exit(main())
