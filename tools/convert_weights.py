"""Converts a torch checkpoint. `python tools/convert_weights.py --arch gfpgan --input X.pth --output Y.pdparams`"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ppgan_fr.cli import run_command

if __name__ == "__main__":
    sys.exit(run_command("convert", sys.argv[1:]))
