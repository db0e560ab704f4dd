"""Alerts from one worker to another, over a few addresses.  Plain WSGI.

    channels examples.alerts:app --workers 4

    /                    the workers, and what each has heard
    /send/<pid>/<data>   to the worker with that process id, whose handler replies
    /broadcast/<data>    to all of them
    /ask/<pid>/<data>    a call: waits for what the handler returns

After the example of ngx_lua_ipc (https://github.com/slact/ngx_lua_ipc), which does this between the workers of nginx.
"""

import collections
import os

import channels
from channels import alerts

HEARD_MAX = 20  # what each worker remembers

heard = collections.deque(maxlen=HEARD_MAX)


def text(data):
    return data.decode(errors="replace")


def on_hello(data):
    """From /send and /broadcast: remember it, and answer whoever sent it."""
    heard.append(f"sender {alerts.sender} says {text(data)!r}")
    alerts.reply("hello-response", b"hello to you too. you said " + data)


def on_response(data):
    heard.append(f"sender {alerts.sender} answers {text(data)!r}")


def on_ask(data):
    """From /ask: what a handler returns goes back to the caller."""
    return f"process {os.getpid()} got {text(data)!r}".encode()


def start():
    """In a worker, and not where the application is only looked at (`--check-config`)."""
    try:
        channels.worker_id()
    except channels.NotAttached:
        return
    alerts.receive({"hello": on_hello, "hello-response": on_response, "ask": on_ask})
    alerts.receive("heard", lambda data: "\n".join(heard).encode())


start()


def index():
    answers = alerts.call_all("heard", b"", timeout=2)
    lines = []
    for worker in channels.workers():
        lines.append(f"worker {worker.id}: process {worker.pid}, {worker.state}")
        answer = answers.get(worker.id)
        if isinstance(answer, bytes):
            lines.extend(f"    {line}" for line in text(answer).splitlines())
    return "200 OK", "\n".join(lines)


def send(pid, data):
    try:
        alerts.send(int(pid), "hello", data)
    except (ValueError, channels.WorkerGone) as error:
        return "404 Not Found", str(error)
    return "200 OK", f"sent to process {pid}"


def broadcast(data):
    alerts.broadcast("hello", data)
    return "200 OK", "sent to every worker"


def ask(pid, data):
    try:
        return "200 OK", text(alerts.call(int(pid), "ask", data, timeout=2))
    except (ValueError, channels.WorkerGone) as error:
        return "404 Not Found", str(error)
    except (channels.CallTimeout, channels.RemoteError) as error:
        return "504 Gateway Timeout", str(error)


def app(environ, start_response):
    word, *rest = environ["PATH_INFO"].encode("latin-1").lstrip(b"/").split(b"/", 2)
    if word == b"" and not rest:
        status, answer = index()
    elif word == b"send" and len(rest) == 2:
        status, answer = send(text(rest[0]), rest[1])
    elif word == b"ask" and len(rest) == 2:
        status, answer = ask(text(rest[0]), rest[1])
    elif word == b"broadcast" and rest:
        status, answer = broadcast(b"/".join(rest))
    else:
        status, answer = "404 Not Found", "/ or /send/<pid>/<data> or /broadcast/<data> or /ask/<pid>/<data>"
    body = (answer + "\n").encode()
    start_response(status, [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))])
    return [body]
