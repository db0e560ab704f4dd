"""Whom the server believes what it says about a connection it forwards: X-Forwarded-For and X-Forwarded-Proto.

Pure.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Any

from channels.errors import BadSetting

REMEMBERED = 4096


class Peers:
    """A set of addresses and networks; "*" is everybody, "unix" those who come over a Unix socket."""

    def __init__(self, listed: Iterable[str], setting: str = "forwarded_allow_ips") -> None:
        entries = list(listed)
        self._all = "*" in entries
        self._unix = self._all or "unix" in entries
        try:
            self._networks = [
                ipaddress.ip_network(entry, strict=False) for entry in entries if entry not in ("*", "unix")
            ]
        except ValueError as error:
            raise BadSetting(setting, entries, f"{error}; addresses, networks, unix or *") from None
        self._known: dict[str, bool] = {}

    def holds(self, address: str, unix: bool) -> bool:
        """Whether this peer is one of them."""
        if unix:
            return self._unix
        found = self._known.get(address)
        if found is None:
            found = self._all or self._look(address)
            if len(self._known) >= REMEMBERED:
                self._known.clear()
            self._known[address] = found
        return found

    def _look(self, address: str) -> bool:
        try:
            ip = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            return False
        mapped = getattr(ip, "ipv4_mapped", None) or ip
        return any(mapped in network for network in self._networks if network.version == mapped.version)


def believe(environ: dict[str, Any], forwarders: Peers) -> None:
    """Take over what a believed peer says: the client's address and the scheme it used.

    Of X-Forwarded-For the last address counts that is not a forwarder's: what stands before it, anyone can write.
    """
    told = environ.get("HTTP_X_FORWARDED_FOR")
    if told is not None:
        for entry in reversed(told.split(",")):
            address = _address(entry.strip())
            if address is None:
                break
            environ["REMOTE_ADDR"], environ["REMOTE_PORT"] = address, ""
            if not forwarders.holds(address, False):
                break
    scheme = environ.get("HTTP_X_FORWARDED_PROTO")
    if scheme is not None:
        last = scheme.rpartition(",")[2].strip().lower()
        if last in ("http", "https"):
            environ["wsgi.url_scheme"] = last


def _address(text: str) -> str | None:
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return None if "%" in text else str(address)  # behind the %, anything may stand
