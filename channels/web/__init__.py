"""Streams for any WSGI framework: server-sent events, WebSockets, signed tokens."""
