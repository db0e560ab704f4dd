"""`channels MODULE:APP ...`: arguments -> settings -> master.  The only wiring."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from typing import Any, Callable

from channels import __version__, identity, log, operate, settings, settings_file
from channels.errors import BadSetting, ChannelsError
from channels.hooks import Hooks
from channels.master import processes
from channels.master.estate import Estate
from channels.master.master import Master
from channels.worker import application
from channels.worker import main as worker

STATUS_USAGE = 2
PATHS = ("chdir", "pidfile", "control", "errorlog")  # settings that mean the directory where the server was started
UWSGI = "channels.web.uwsgi.install"  # imported in the workers: it needs gevent


def parser() -> argparse.ArgumentParser:
    """One option per setting."""
    made = argparse.ArgumentParser(
        prog="channels",
        allow_abbrev=False,
        description="Serve a WSGI application with real-time channels between its worker processes.",
        epilog="Every option is also a name in the settings file and an environment variable: --send-timeout is "
        "send_timeout and CHANNELS_SEND_TIMEOUT.  Also: channels ls | top | tail NAME | send NAME DATA | "
        "alert WORKER NAME DATA | doctor, which talk to a running master.",
    )
    made.add_argument("app", nargs="?", metavar="MODULE:APP", help=settings.FIELDS["app"].metadata["doc"])
    made.add_argument("--version", action="version", version=f"channels {__version__}")
    made.add_argument(
        "-c",
        "--config",
        metavar="FILE",
        help=f"Python file of settings and hooks (default: {settings_file.DEFAULT}, if any)",
    )
    made.add_argument("--check-config", action="store_true", help="import the application, check the settings, and end")
    made.add_argument("--print-config", action="store_true", help="print the settings in force, and end")
    defaults = settings.Settings()
    for name, field in settings.FIELDS.items():
        default = getattr(defaults, name)
        unit = f", {field.metadata['unit']}" if field.metadata["unit"] else ""
        flags = [*field.metadata["flags"], *([] if name == "app" else ["--" + name.replace("_", "-")])]
        options: dict[str, Any] = {
            "dest": "wsgi_app" if name == "app" else name,
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


def _loader(given: Mapping[str, Any], config: str | None) -> Callable[[], tuple[settings.Settings, Hooks]]:
    """Defaults < file < environment < command line; read again at each reload, wherever the process stands then."""
    path = os.path.abspath((config or settings_file.DEFAULT).removeprefix("file:"))
    start = os.getcwd()

    def load() -> tuple[settings.Settings, Hooks]:
        file_values, functions = settings_file.read(path, must_exist=config is not None)
        loaded = settings.make([file_values, settings.from_environment(os.environ), given])
        identity.owner(loaded.user, loaded.group)
        if loaded.chdir and not os.path.isdir(os.path.join(start, loaded.chdir)):
            raise BadSetting("chdir", loaded.chdir, "there is no such directory")
        absolute: dict[str, Any] = {
            name: os.path.join(start, getattr(loaded, name)) for name in PATHS if getattr(loaded, name) not in ("", "-")
        }
        if loaded.reload and importlib.util.find_spec("watchfiles") is None:
            raise BadSetting("reload", True, "needs watchfiles: pip install wsgi-channels[reload]")
        return dataclasses.replace(loaded, **absolute), Hooks(functions)

    return load


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; its exit status."""
    words = sys.argv[1:] if arguments is None else arguments
    if operate.is_command(words):
        try:
            return operate.main(words)
        except ChannelsError as error:
            print(f"channels: {error}", file=sys.stderr)
            return operate.STATUS_FAILED
    given = {name: value for name, value in vars(parser().parse_args(arguments)).items() if value is not None}
    config, check, show = given.pop("config", None), given.pop("check_config"), given.pop("print_config")
    wsgi_app = given.pop("wsgi_app", None)
    if wsgi_app is not None:
        given.setdefault("app", wsgi_app)
    load = _loader(given, config)
    try:
        wanted, hooks = load()
        if show:
            for name in settings.FIELDS:
                print(f"{name} = {getattr(wanted, name)!r}")
            return 0
        if not wanted.app:
            raise BadSetting("app", "", "which application? For example: channels examples.chat:app")
        if check:
            return _check(wanted)
        return _serve(wanted, hooks, load)
    except ChannelsError as error:
        print(f"channels: {error}", file=sys.stderr)
        return STATUS_USAGE


def _check(wanted: settings.Settings) -> int:
    """Import the application as a worker would."""
    if _import(wanted) is None:
        return worker.STATUS_APP
    print("the settings and the application are good")
    return 0


def _import(wanted: settings.Settings) -> application.WSGIApplication | None:
    """The application, or None after it was said why not.  Raises BadSetting."""
    application.set_environment(wanted.raw_env)
    try:
        if not wanted.no_uwsgi:
            importlib.import_module(UWSGI).provide(wanted)
        return application.load(wanted.app, wanted.chdir)
    except ChannelsError:
        raise
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        print(f"channels: cannot import {wanted.app!r}: {type(error).__name__}: {error}", file=sys.stderr)
        return None


def _serve(wanted: settings.Settings, hooks: Hooks, load: Callable[[], tuple[settings.Settings, Hooks]]) -> int:
    processes.become_init()
    if wanted.daemon and "CHANNELS_UPGRADE" not in os.environ:
        if wanted.errorlog in ("", "-"):
            raise BadSetting("daemon", True, "needs a file for the errors: --error-logfile PATH")
        processes.daemonize()
    try:
        log.setup(wanted.loglevel, wanted.errorlog, identity.owner(wanted.user, wanted.group))
    except OSError as error:
        raise BadSetting("errorlog", wanted.errorlog, f"cannot be written: {error.strerror}") from None
    if wanted.worker_class:
        log.log.info("worker_class=%s is ignored: every worker runs gevent", wanted.worker_class)
    preloaded = _import(wanted) if wanted.preload_app else None
    if wanted.preload_app and preloaded is None:
        return worker.STATUS_APP
    run = functools.partial(worker.run, extensions=() if wanted.no_uwsgi else (UWSGI,))
    try:
        master = Master(wanted, hooks, Estate(wanted), run, load, preloaded)
    except OSError as error:  # the kernel gives no more descriptors, or memory
        print(f"channels: cannot start: {error}", file=sys.stderr)
        return STATUS_USAGE
    return master.run()


if __name__ == "__main__":
    sys.exit(main())
