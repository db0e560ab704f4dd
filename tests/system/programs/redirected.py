"""Lends a program that knows only localhost:6379 another Redis; the program itself stays as it is.

PROGRAM: the module whose `application` it is; REDIS_PORT; REDIS_TEXT: replies are str, as in Python 2.
"""

import importlib
import os

import redis

_original = redis.StrictRedis


def _elsewhere(host="localhost", port=6379, db=0):  # type: ignore[no-untyped-def]
    return _original(
        host="127.0.0.1", port=int(os.environ["REDIS_PORT"]), db=db, decode_responses="REDIS_TEXT" in os.environ
    )


redis.StrictRedis = _elsewhere  # type: ignore[assignment, misc]
application = importlib.import_module(os.environ["PROGRAM"]).application
