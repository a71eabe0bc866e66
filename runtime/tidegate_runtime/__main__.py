"""`python -m tidegate_runtime`: the router."""

import os
import sys

from tidegate_runtime.app import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
