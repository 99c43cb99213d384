"""`python -m svcnb` is the command `svcnb`."""

import sys

from svcnb.cli.main import main

sys.exit(main())
