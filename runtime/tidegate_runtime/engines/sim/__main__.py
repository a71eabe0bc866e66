"""`python -m tidegate_runtime.engines.sim`."""

import sys

from tidegate_runtime.engines.sim import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
