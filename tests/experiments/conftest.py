import sys
from pathlib import Path

# The scripts import each other as they do when one of them is started.
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "experiments"))
