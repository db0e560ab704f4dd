"""The command `channels`, made quick: a worker that died young is replaced at once, and finds everything imported.

Else a thousand kills take hours.  Importing gevent starts nothing; each worker still makes its own hub.
"""

import sys

import gevent.monkey  # noqa: F401

import channels.worker.alerts
import channels.worker.serve  # noqa: F401
from channels import cli
from channels.master import lifecycle

if __name__ == "__main__":
    lifecycle.LIVED_LONG = 0.0
    lifecycle.ROUTER_QUICK = 0.0
    sys.exit(cli.main())
