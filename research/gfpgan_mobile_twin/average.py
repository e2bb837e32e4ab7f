"""Average weights: `average.py OUT.pdparams SHARE A.pdparams SHARE B.pdparams ...`, shares relative to their sum.

Trainings that began from the same weights and learned the same go on in one valley, and their mean lies lower in it
than each of them (Wortsman et al., "Model soups", ICML 2022). A negative share goes beyond the others, away from that
file. `--only REGEX`: parameters whose names do not begin so are those of the last file.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from ppgan_fr import weights  # noqa: E402


def average(files: list[dict], shares: list[float], only: str | None = None) -> dict[str, np.ndarray]:
    """The weighted mean of states with the same names, in float32."""
    total = sum(shares)
    return {
        name: sum(share / total * np.float32(state[name]) for share, state in zip(shares, files, strict=True))
        if only is None or re.match(only, name)
        else files[-1][name]
        for name in files[0]
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output")
    parser.add_argument("pairs", nargs="+", metavar="SHARE FILE")
    parser.add_argument("--only", help="a regular expression")
    arguments = parser.parse_intermixed_args()
    shares, files = arguments.pairs[::2], arguments.pairs[1::2]
    if len(shares) != len(files):
        parser.error("a share before every file")
    states = [weights.load(path) for path in files]
    weights.save(average(states, [float(share) for share in shares], arguments.only), arguments.output, half=True)


if __name__ == "__main__":
    main()
