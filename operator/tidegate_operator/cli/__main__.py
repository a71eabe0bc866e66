"""`python -Im tidegate_operator.cli` is `tidegate`."""

import sys

from tidegate_operator.cli import main

sys.exit(main())
