"""Makes synthetic faces. `python tools/make_faces.py --count 8 --output DIR --seed 0`"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ppgan_fr.cli import run_command

if __name__ == "__main__":
    sys.exit(run_command("make-faces", sys.argv[1:]))
