"""`python -m channels` is the command `channels`."""

import sys

from channels.cli import main

sys.exit(main())
