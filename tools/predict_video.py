"""Restores a video. `python tools/predict_video.py --input in.mp4 --output out.mp4`"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ppgan_fr.cli import run_command

if __name__ == "__main__":
    sys.exit(run_command("predict-video", sys.argv[1:]))
