"""Measures a network. `python tools/eval.py -c configs/gfpgan.yaml -o weights=W --output metrics.json`"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ppgan_fr.cli import run_command

if __name__ == "__main__":
    sys.exit(run_command("eval", sys.argv[1:]))
