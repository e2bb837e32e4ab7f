"""Draws a training and a validation set. `python tools/sample_faces.py 100 10 --source DIR --output DIR --seed 0`"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ppgan_fr.cli import run_command

if __name__ == "__main__":
    sys.exit(run_command("sample", sys.argv[1:]))
