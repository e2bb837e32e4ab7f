"""Makes the tables behind `predict --fidelity auto` and `--identity`. `python tools/calibrate.py --help`"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ppgan_fr.cli import run_command

if __name__ == "__main__":
    sys.exit(run_command("calibrate", sys.argv[1:]))
