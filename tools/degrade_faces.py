"""Degrades a folder of faces. `python tools/degrade_faces.py --preset gfpgan --input DIR --output DIR --seed 0`"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ppgan_fr.cli import run_command

if __name__ == "__main__":
    sys.exit(run_command("degrade", sys.argv[1:]))
