"""`python -m tidegate_operator.kube`: the operator process."""

import os
import sys

from tidegate_operator.kube.process import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
