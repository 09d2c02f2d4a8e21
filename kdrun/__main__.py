"""`python -m kdrun`."""

import os
import sys

from kdrun.cli import main

if sys.path[0] in ("", os.getcwd()) and not sys.flags.safe_path:
    # Python puts the current folder first, where a file of somebody else could stand in for a library.
    sys.path.append(sys.path.pop(0))

sys.exit(main())
