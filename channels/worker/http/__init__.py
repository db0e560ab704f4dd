"""The HTTP/1.1 server of a worker, usable without one: `Server(listener, application)`."""

from channels.worker.http.accept import AcceptPolicy
from channels.worker.http.config import HttpConfig
from channels.worker.http.server import Server

__all__ = ["AcceptPolicy", "HttpConfig", "Server"]
