"""Computes eye and mouth boxes. `python tools/make_components.py --input DIR --output components.npz`"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ppgan_fr.cli import run_command

if __name__ == "__main__":
    sys.exit(run_command("make-components", sys.argv[1:]))
