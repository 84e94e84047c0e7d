"""`python -m pyinterceptor` is the command line."""

import sys

from pyinterceptor.cli.main import main

sys.exit(main())
