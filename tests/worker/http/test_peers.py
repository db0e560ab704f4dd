"""Who is believed, and what."""

from __future__ import annotations

from typing import Any

import pytest

from channels.errors import BadSetting
from channels.worker.http.peers import Peers, believe
from tests.worker.http.running import Running


def test_addresses_networks_everybody_and_unix_sockets() -> None:
    peers = Peers(["10.0.0.0/8", "192.168.1.5", "2001:db8::/32"])
    assert peers.holds("10.1.2.3", False) and peers.holds("192.168.1.5", False) and peers.holds("2001:db8::9", False)
    assert peers.holds("::ffff:10.1.2.3", False)
    assert not peers.holds("11.0.0.1", False) and not peers.holds("", True) and not peers.holds("nonsense", False)
    assert Peers(["*"]).holds("1.2.3.4", False) and Peers(["unix"]).holds("", True)
    assert not Peers([]).holds("127.0.0.1", False)


def test_what_is_no_address_is_a_clear_error() -> None:
    with pytest.raises(BadSetting, match="networks"):
        Peers(["localhost"])


def believed(environ: dict[str, Any], *forwarders: str) -> tuple[str, str]:
    given = {"REMOTE_ADDR": "127.0.0.1", "REMOTE_PORT": "1", "wsgi.url_scheme": "http", **environ}
    believe(given, Peers(["127.0.0.1", *forwarders]))
    return given["REMOTE_ADDR"], given["wsgi.url_scheme"]


def test_the_last_address_that_is_no_forwarder_is_the_client() -> None:
    assert believed({"HTTP_X_FORWARDED_FOR": "6.6.6.6, 1.2.3.4"})[0] == "1.2.3.4"
    assert believed({"HTTP_X_FORWARDED_FOR": "6.6.6.6, 1.2.3.4, 10.0.0.1"}, "10.0.0.0/8")[0] == "1.2.3.4"
    assert believed({"HTTP_X_FORWARDED_FOR": "[2001:db8::1]:99"})[0] == "2001:db8::1"
    assert believed({"HTTP_X_FORWARDED_FOR": "1.2.3.4:99"})[0] == "1.2.3.4"
    assert believed({"HTTP_X_FORWARDED_FOR": "1.2.3.4, nonsense"})[0] == "127.0.0.1"
    assert believed({"HTTP_X_FORWARDED_FOR": '::1%eth0 - - "GET / HTTP/1.1" 200'})[0] == "127.0.0.1"


def test_the_scheme_is_one_of_two() -> None:
    assert believed({"HTTP_X_FORWARDED_PROTO": "https"})[1] == "https"
    assert believed({"HTTP_X_FORWARDED_PROTO": "http, HTTPS"})[1] == "https"
    assert believed({"HTTP_X_FORWARDED_PROTO": "javascript"})[1] == "http"


def tell(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    start_response("200 OK", [])
    return [f"{environ['REMOTE_ADDR']} {environ['wsgi.url_scheme']}".encode()]


@pytest.mark.parametrize(("allowed", "seen"), [(["127.0.0.1"], b"1.2.3.4 https"), (["10.9.9.9"], b"127.0.0.1 http")])
def test_a_stranger_is_not_believed(allowed: list[str], seen: bytes) -> None:
    with Running(tell, forwarded_allow_ips=allowed) as server:
        assert server.get("/", "X-Forwarded-For: 1.2.3.4", "X-Forwarded-Proto: https").body == seen
