"""`channels MODULE:APP ...`: arguments -> settings -> master.  The only wiring."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from channels import __version__, log, settings
from channels.errors import ChannelsError
from channels.master.master import Master
from channels.worker import main as worker


def parser() -> argparse.ArgumentParser:
    """One option per setting."""
    made = argparse.ArgumentParser(
        prog="channels",
        description="Serve a WSGI application with real-time channels between its worker processes.",
        epilog="Every option is also an environment variable: --send-timeout is CHANNELS_SEND_TIMEOUT.",
    )
    made.add_argument("app", nargs="?", metavar="MODULE:APP", help=settings.FIELDS["app"].metadata["doc"])
    made.add_argument("--version", action="version", version=f"channels {__version__}")
    for name, field in settings.FIELDS.items():
        if name == "app":
            continue
        default = getattr(settings.Settings(), name)
        unit = f", {field.metadata['unit']}" if field.metadata["unit"] else ""
        flags = [*field.metadata["flags"], "--" + name.replace("_", "-")]
        options: dict[str, Any] = {
            "dest": name,
            "default": None,
            "help": f"{field.metadata['doc']} (default: {_shown(default)}{unit})".replace("%", "%%"),
        }
        if isinstance(default, bool):
            made.add_argument(*flags, action="store_true", **options)
        elif isinstance(default, list):
            made.add_argument(*flags, action="append", metavar="VALUE", **options)
        else:
            made.add_argument(*flags, metavar=type(default).__name__.upper(), **options)
    return made


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(value) or "none"
    return "no" if value is False else str(value) if value != "" else "none"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; its exit status."""
    given = vars(parser().parse_args(arguments))
    given = {name: value for name, value in given.items() if value is not None}

    def load() -> settings.Settings:
        return settings.make([settings.from_environment(), given])

    try:
        wanted = load()
        if not wanted.app:
            raise ChannelsError("which application? channels MODULE:APP, for example channels examples.chat:app")
        log.setup(wanted.loglevel)
        master = Master(wanted, worker.run, load)
    except ChannelsError as error:
        print(f"channels: {error}", file=sys.stderr)
        return 2
    return master.run()


if __name__ == "__main__":
    sys.exit(main())
