"""Everything of uwsgidecorators that needs no spooler."""

import os
import time

import uwsgi  # type: ignore[import-not-found]
from uwsgidecorators import (  # type: ignore[import-not-found]
    cron,
    filemon,
    harakiri,
    lock,
    mulefunc,
    postfork,
    rbtimer,
    rpc,
    signal,
    thread,
    timer,
)


def say(text):  # type: ignore[no-untyped-def]
    line = f"{text} in worker {uwsgi.worker_id()} mule {uwsgi.mule_id()}\n"
    os.write(1, line.encode())  # one call: print makes two of it, and workers share the pipe


@postfork
def forked():  # type: ignore[no-untyped-def]
    say("forked")


@postfork(2)
def only_second():  # type: ignore[no-untyped-def]
    say("only the second")


@signal(17, target="workers")
def everywhere(number):  # type: ignore[no-untyped-def]
    say(f"signal {number}")


@signal(30, target="worker2")
def second(number):  # type: ignore[no-untyped-def]
    say(f"signal {number}")


@timer(1)
def tick(number):  # type: ignore[no-untyped-def]
    say(f"timer {number}")


@rbtimer(1)
def red_black(number):  # type: ignore[no-untyped-def]
    say(f"rbtimer {number}")


@cron(-1, -1, -1, -1, -1)
def minutely(number):  # type: ignore[no-untyped-def]
    say(f"cron {number}")


@filemon(os.environ["WATCHED"])
def changed(number):  # type: ignore[no-untyped-def]
    say(f"filemon {number}")


@rpc("hello")
def hello(name):  # type: ignore[no-untyped-def]
    return b"hello " + name


@mulefunc
def in_any_mule(number, word):  # type: ignore[no-untyped-def]
    say(f"mulefunc {number} {word}")


@lock
def locked(name):  # type: ignore[no-untyped-def]
    say("enter " + name)
    time.sleep(0.2)
    say("leave " + name)
    return name


@thread
def beside():  # type: ignore[no-untyped-def]
    say("thread")


@harakiri(5)
def quick():  # type: ignore[no-untyped-def]
    return b"quick"


def application(env, start_response):  # type: ignore[no-untyped-def]
    path = env["PATH_INFO"]
    body = b"?"
    if path.startswith("/signal/"):
        uwsgi.signal(int(path.rpartition("/")[2]))
    elif path == "/rpc":
        body = uwsgi.call("hello", b"you")
    elif path == "/mule":
        in_any_mule(7, word="dwarfs")
    elif path.startswith("/lock/"):
        body = locked(path).encode()
    elif path == "/thread":
        beside()
    elif path == "/quick":
        body = quick()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [body]
