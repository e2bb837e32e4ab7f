"""Makes a tiny data set. `python tools/make_lite_data.py --output data/lite`"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ppgan_fr.cli import run_command

if __name__ == "__main__":
    sys.exit(run_command("make-lite-data", sys.argv[1:]))
