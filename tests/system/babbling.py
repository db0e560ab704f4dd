"""The command `channels` whose router says what makes no sense, and after that what does."""

import sys
from typing import Any

from channels import cli
from channels.master.router import RouterProcess

NONSENSE = (b"buried", b"buried one two", b"quarantine 1", b"quarantine x 1 why", b"buried 1")
HARMLESS = (b"buried 99 1", b"buried 1 99", b"quarantine 1 99 why", b"parked", b"\xff\xfe", b"hello", b"x" * 30_000)


class Babbler(RouterProcess):
    def _obey(self, *args: Any) -> int:
        for message in (*NONSENSE, *HARMLESS):
            self.link.send(message)
        return super()._obey(*args)


if __name__ == "__main__":
    from channels.master import master

    master.RouterProcess = Babbler  # type: ignore[misc]  # that is what this program is for
    sys.exit(cli.main())
