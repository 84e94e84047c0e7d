"""`python -m pyinterceptor` is the command line."""

import os
import sys

# `-m` puts the current directory first, so that a module there would replace one of Python's. The script doesn't.
if sys.path[0] == os.getcwd() and not os.path.samefile(os.path.dirname(os.path.dirname(__file__)), sys.path[0]):
    del sys.path[0]

from pyinterceptor.cli.main import main

sys.exit(main())
