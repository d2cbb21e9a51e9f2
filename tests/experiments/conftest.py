import sys
from pathlib import Path

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"
# The scripts find each other as they do when one of them is started.
sys.path.insert(0, str(EXPERIMENTS))
