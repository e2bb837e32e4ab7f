"""Makes the quality page. `python tools/facebench.py -c configs/gfpgan_mobile.yaml --faces DIR --output DIR`"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ppgan_fr.cli import run_command

if __name__ == "__main__":
    sys.exit(run_command("facebench", sys.argv[1:]))
