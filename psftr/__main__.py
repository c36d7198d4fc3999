"""`python -m psftr VERB …`."""

import sys

from psftr.cli import main

sys.exit(main())
