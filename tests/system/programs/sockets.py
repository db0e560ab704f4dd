"""python-socketio with its driver for uWSGI; broadcasts reach other workers over uWSGI's signals of channels."""

import socketio
import uwsgi  # type: ignore[import-not-found]

server = socketio.Server(async_mode="gevent_uwsgi", cors_allowed_origins="*")
application = socketio.WSGIApp(server)


@server.event
def double(sid, number):  # type: ignore[no-untyped-def]
    return number * 2, uwsgi.worker_id()


@server.event
def reverse(sid, data):  # type: ignore[no-untyped-def]
    assert isinstance(data, bytes)
    server.emit("reversed", data[::-1], to=sid)


@server.event
def shout(sid, text):  # type: ignore[no-untyped-def]
    uwsgi.rpc("worker1", b"shout", text.encode())
    uwsgi.rpc("worker2", b"shout", text.encode())
    uwsgi.rpc("worker3", b"shout", text.encode())


def _shout(text):  # type: ignore[no-untyped-def]
    server.emit("shouted", text.decode())


uwsgi.register_rpc("shout", _shout)
