"""`python -m geofm_lib`: the command `geofm`."""

import sys

from geofm_lib.cli import main

sys.exit(main())
