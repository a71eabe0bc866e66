"""What takes long, one part after the other: `make test-long ARGS="--part motion --seed 2"`.

    wakes    200 wakes from zero beside plain `kubectl scale`
    motion   everything moves and breaks under load, and nothing is lost
    scale    1,000 models, simulated
    ledger   1,000,000 events on each database, with kills; no cluster
    soak     30 minutes of `tidegate up` under random changes, kills and aborts; no cluster

What else is given goes to each part that is run. The exit status is 1 where a part's was not 0.
"""

import argparse
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
PARTS = {
    "wakes": HERE / "wakes.py",
    "motion": HERE / "motion.py",
    "scale": HERE / "scale.py",
    "ledger": HERE.parent / "torture" / "torture.py",
    "soak": HERE.parent / "torture" / "soak.py",
}


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Run what takes long.")
    parser.add_argument("--part", choices=PARTS, action="append", help="repeatable; default: all")
    chosen, rest = parser.parse_known_args()
    wrong = []
    for part in chosen.part or PARTS:
        sys.stderr.write(f"test-long: {part}\n")
        if subprocess.run([sys.executable, str(PARTS[part]), *rest], check=False).returncode:
            wrong.append(part)
    sys.stderr.write(f"test-long: {'wrong: ' + ', '.join(wrong) if wrong else 'all is well'}\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
