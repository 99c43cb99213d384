"""`python -m svcnb` is the command `svcnb`."""

import sys

from svcnb.cli import main

sys.exit(main())
