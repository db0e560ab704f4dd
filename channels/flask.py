"""The Flask extension: channels as event streams and WebSockets of an application.

    ch = Channels(app)

    @app.get("/rooms/<room>/events")
    def events(room):
        return ch.sse(f"room:{room}")

Runs in: worker; in tests under channels.testing.local().
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any, Callable, TypeVar

import click
import gevent
from flask import Flask, Response, abort, current_app, request
from flask.cli import AppGroup

from channels import operate
from channels.errors import ChannelsError
from channels.web import sse as events
from channels.web.tokens import BadToken, Leave, Tokens
from channels.worker import alerts, api, naming
from channels.worker import client as fabric

try:
    from channels.web import websocket as websockets
except ImportError:  # the extra [websocket] is not installed
    websockets = None  # type: ignore[assignment]

log = logging.getLogger("channels")

NAME = "channels"
DEFAULTS: dict[str, Any] = {
    "CHANNELS_PREFIX": "",  # before every channel's name: applications that share a server keep apart by it
    "CHANNELS_RETRY": None,  # seconds; None: the server's setting, as for the next three
    "CHANNELS_HEARTBEAT": None,  # seconds
    "CHANNELS_SLOW": None,  # "gap" or "close"
    "CHANNELS_MAX_SIZE": None,  # bytes of a WebSocket's message
    "CHANNELS_CORS": None,  # origins that may read event streams: "*", one, or a list
    "CHANNELS_ORIGINS": None,  # origins of pages that may open WebSockets; None: the own one
    "CHANNELS_COMPRESSION": False,  # of WebSockets
    "CHANNELS_TOKEN_AGE": 3600,  # seconds for which a subscribe token is good
    "CHANNELS_EVENTS_URL": None,  # where those who have a token are served, such as "/channels/events"
}

View = TypeVar("View", bound=Callable[..., Any])


class _Streamed(Response):
    """Chunks go out as they come; nothing may ask for their length."""

    automatically_set_content_length = False


class _Taken(Response):
    """The answer of a view whose socket spoke WebSocket: there is nothing left to answer."""

    def __init__(self, result: Callable[[], Iterable[bytes]]) -> None:
        super().__init__()
        self._result = result

    def __call__(self, environ: Any, start_response: Any) -> Iterable[bytes]:
        return self._result()


class Channels:
    """One per application, or one for several with init_app()."""

    def __init__(self, app: Flask | None = None) -> None:
        self._sockets: list[tuple[str, Callable[..., Any], dict[str, Any]]] = []
        self._apps: list[Flask] = []
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Give an application its defaults, the command `flask channels` and, if it wants one, the URL for tokens."""
        if NAME in app.extensions:
            raise RuntimeError("this application has its channels already; use app.extensions['channels']")
        for key, value in DEFAULTS.items():
            app.config.setdefault(key, value)
        app.extensions[NAME] = self
        app.cli.add_command(commands)
        url = app.config["CHANNELS_EVENTS_URL"]
        if url:
            app.add_url_rule(url, "channels_events", self._events_by_token)
        self._apps.append(app)
        for rule, handler, options in self._sockets:
            self._add_socket(app, rule, handler, options)

    # ---- sending ----

    def publish(self, channel: str, data: Any, *, event: str | None = None) -> int:
        """Send bytes, text or a JSON value to a channel; the number of workers that had subscribers.

        `event` is the name that an EventSource listens for.  Raises as channels.channel_send().
        """
        return api.publish(self._name(channel), data, event=event)

    def _name(self, channel: str) -> str:
        prefix = current_app.config["CHANNELS_PREFIX"] if current_app else ""
        return f"{prefix}{channel}"

    # ---- event streams ----

    def sse(
        self,
        *channels: str,
        prefixes: Iterable[str] = (),
        retry: float | None = None,
        heartbeat: float | None = None,
        filter: events.Filter | None = None,
        transform: events.Transform | None = None,
        slow: str | None = None,
        cors: str | Iterable[str] | None = None,
        headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
    ) -> Response:
        """A view's response: what is sent to these channels, for as long as the client stays.

        Joined when it returns, so what is sent afterwards is not missed.  Names are taken literally, so they may come
        from the URL; `prefixes` adds every channel whose name begins so.  Arguments as for channels.web.sse.stream();
        defaults are the application's CHANNELS_* keys, and then the server's settings.
        """
        config = current_app.config
        status, fields, body = events.stream(
            *map(self._name, channels),
            prefixes=map(self._name, naming.literal_prefixes(prefixes)),
            retry=config["CHANNELS_RETRY"] if retry is None else retry,
            heartbeat=config["CHANNELS_HEARTBEAT"] if heartbeat is None else heartbeat,
            filter=filter,
            transform=transform,
            slow=config["CHANNELS_SLOW"] if slow is None else slow,
            cors=config["CHANNELS_CORS"] if cors is None else cors,
            headers=headers,
            environ=request.environ,
        )
        return _Streamed(body, status=status, headers=fields, direct_passthrough=True)

    # ---- WebSockets ----

    def websocket(self, rule: str, **options: Any) -> Callable[[View], View]:
        """Decorates `handler(ws, **values of the rule)`; the request's context lasts as long as the WebSocket.

        Args:
            rule: As for app.route().
            options: `origins`, `subprotocols`, `compression`, `slow` and `max_size` as for
                channels.web.websocket.accept(); the rest is app.add_url_rule()'s.
        """

        def decorate(handler: View) -> View:
            self._sockets.append((rule, handler, options))
            for app in self._apps:
                self._add_socket(app, rule, handler, options)
            return handler

        return decorate

    def _add_socket(self, app: Flask, rule: str, handler: Callable[..., Any], options: dict[str, Any]) -> None:
        if websockets is None:
            raise ImportError("WebSockets need the package `websockets`: pip install 'wsgi-channels[websocket]'")
        names = ("origins", "subprotocols", "compression", "slow", "max_size")
        chosen = {name: options[name] for name in names if name in options}
        rest = {name: value for name, value in options.items() if name not in names}

        def view(**values: Any) -> Response:
            config = current_app.config
            given = {
                "origins": config["CHANNELS_ORIGINS"],
                "compression": config["CHANNELS_COMPRESSION"],
                "slow": config["CHANNELS_SLOW"],
                "max_size": config["CHANNELS_MAX_SIZE"],
                **chosen,
            }
            accepted = websockets.accept(request.environ, **given)
            if not isinstance(accepted, websockets.WebSocket):
                headers = [pair for pair in accepted.headers.raw_items() if pair[0].lower() not in websockets.HOPS]
                return Response(bytes(accepted.body or b""), accepted.status_code, headers)
            accepted.prefix = config["CHANNELS_PREFIX"]
            websockets.run(accepted, lambda ws: handler(ws, **values))
            return _Taken(accepted.result)

        app.add_url_rule(rule, rest.pop("endpoint", handler.__name__), view, websocket=True, **rest)

    # ---- alerts ----

    def on_alert(self, name: str, *, ordered: bool = True) -> Callable[[View], View]:
        """Decorates `handler(data: bytes)`: called in every worker for alerts of this name, in the app's context.

        What it returns answers a call.
        """

        def decorate(handler: View) -> View:
            def receive(data: bytes) -> Any:
                app = self._apps[0] if len(self._apps) == 1 else None
                if app is None:
                    return handler(data)
                with app.app_context():
                    return handler(data)

            fabric.when_attached(lambda: alerts.receive(name, receive, ordered=ordered))
            return handler

        return decorate

    # ---- background ----

    def background(self, function: View) -> View:
        """Decorates a function that runs in a greenlet of its own in every worker, from its start on."""
        fabric.when_attached(lambda: gevent.spawn(function))
        return function

    # ---- tokens ----

    def token(self, *channels: str, prefixes: Iterable[str] = (), facts: Any = None) -> str:
        """Signed leave to subscribe to these channels, for the application's own pages to hand on.

        Args:
            channels: Names, taken literally.
            prefixes: Every channel whose name begins with one of these.
            facts: JSON that check_token() gives back; whoever has the token can read it.

        Raises:
            ValueError: There is no SECRET_KEY, or nothing to give leave for.
        """
        return self._tokens().sign(*channels, prefixes=prefixes, facts=facts)

    def check_token(self, token: str) -> Leave:
        """(channels, prefixes, facts) of a token that is at most CHANNELS_TOKEN_AGE seconds old.

        Raises:
            BadToken: It is too old or not ours.
        """
        return self._tokens().check(token, current_app.config["CHANNELS_TOKEN_AGE"])

    def _tokens(self) -> Tokens:
        key = current_app.secret_key
        fallbacks = current_app.config.get("SECRET_KEY_FALLBACKS") or []
        return Tokens([*fallbacks, str(key)] if key and fallbacks else key or "")  # the last one signs

    def _events_by_token(self) -> Response:
        try:
            leave = self.check_token(request.args.get("token", ""))
        except BadToken as error:
            abort(403, str(error))
        return self.sse(*leave.channels, prefixes=leave.prefixes)


# ---- `flask channels` ----

commands = AppGroup(NAME, help="Look into and talk to a running `channels` server.")
_where = [
    click.option("--pid", type=int, help="process id of the master, when several are running"),
    click.option("--control-socket", metavar="PATH", help="path of its control socket"),
]


def _run(pid: int | None, control_socket: str | None, *words: str) -> None:
    where = ["--pid", str(pid)] if pid is not None else []
    where += ["--control-socket", control_socket] if control_socket else []
    try:
        status = operate.main([*where, *words])
    except ChannelsError as error:
        raise click.ClickException(str(error)) from None
    if status:
        raise SystemExit(status)


def _command(name: str) -> Callable[[Callable[..., None]], Any]:
    def decorate(function: Callable[..., None]) -> Any:
        for option in _where:
            function = option(function)
        return commands.command(name, with_appcontext=False)(function)

    return decorate


@_command("ls")
@click.argument("prefix", default="")
def _ls(prefix: str, pid: int | None, control_socket: str | None) -> None:
    """List the channels and which workers listen."""
    _run(pid, control_socket, "ls", prefix)


@_command("send")
@click.argument("name")
@click.argument("data")
def _send(name: str, data: str, pid: int | None, control_socket: str | None) -> None:
    """Send DATA (- for the standard input) to the channel NAME."""
    _run(pid, control_socket, "send", "--", name, data)


@_command("tail")
@click.argument("names", nargs=-1, required=True)
@click.option("--count", type=int, default=0, help="end after so many messages")
def _tail(names: tuple[str, ...], count: int, pid: int | None, control_socket: str | None) -> None:
    """Print what is sent to channels."""
    _run(pid, control_socket, "tail", "--count", str(count), "--", *names)


__all__ = ["BadToken", "Channels", "Leave"]
