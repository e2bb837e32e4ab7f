"""Trains a network. `python tools/train.py -c configs/gfpgan.yaml -o train.total_steps=10`"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ppgan_fr.cli import run_command

if __name__ == "__main__":
    sys.exit(run_command("train", sys.argv[1:]))
