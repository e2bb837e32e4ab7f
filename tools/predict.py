"""Restores photos. `python tools/predict.py --input photo.jpg --output restored`"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ppgan_fr.cli import run_command

if __name__ == "__main__":
    sys.exit(run_command("predict", sys.argv[1:]))
