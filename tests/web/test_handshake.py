"""Who may open a WebSocket, and what the others are told."""

from __future__ import annotations

from typing import Any

import pytest

from channels.web import handshake


def environ(**more: str) -> dict[str, Any]:
    return {
        "REQUEST_METHOD": "GET",
        "PATH_INFO": "/",
        "HTTP_HOST": "example.org:8000",
        "HTTP_UPGRADE": "websocket",
        "HTTP_CONNECTION": "keep-alive, Upgrade",
        "HTTP_SEC_WEBSOCKET_KEY": "dGhlIHNhbXBsZSBub25jZQ==",
        "HTTP_SEC_WEBSOCKET_VERSION": "13",
        **more,
    }


def answer(given: dict[str, Any], **options: Any) -> Any:
    return handshake.answer(
        given, **{"origins": None, "subprotocols": (), "compression": False, "max_size": 100, **options}
    )[1]


def test_the_accept_key_is_that_of_the_rfc_s_example() -> None:
    response = answer(environ())
    assert response.status_code == 101
    assert response.headers["Sec-WebSocket-Accept"] == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"HTTP_SEC_WEBSOCKET_VERSION": "8"}, 426),
        ({"HTTP_SEC_WEBSOCKET_KEY": "short"}, 400),
        ({"HTTP_SEC_WEBSOCKET_KEY": "\xff\xfe"}, 400),
        ({"HTTP_UPGRADE": "h2c"}, 426),
        ({"HTTP_CONNECTION": "close"}, 426),
        ({"REQUEST_METHOD": "POST"}, 405),
    ],
)
def test_what_is_no_handshake_is_refused(changes: dict[str, str], status: int) -> None:
    assert answer(environ(**changes)).status_code in (status, 400)


@pytest.mark.parametrize(
    ("origin", "origins", "allowed"),
    [
        (None, None, True),
        ("http://example.org:8000", None, True),
        ("https://EXAMPLE.org:8000", None, True),
        ("http://example.org", None, False),
        ("http://example.org:8000.evil", None, False),
        ("null", None, False),
        ("", None, False),
        ("http://[", None, False),
        ("http://example.org:8000@evil", None, False),
        ("file://", None, False),
        ("http://other", "*", True),
        ("http://other", "http://other", True),
        ("http://other", ["http://one", "http://other"], True),
        ("http://third", ["http://one", "http://other"], False),
        ("http://example.org:8000", ["http://one"], False),
    ],
)
def test_origins(origin: str | None, origins: Any, allowed: bool) -> None:
    given = environ() if origin is None else environ(HTTP_ORIGIN=origin)
    assert handshake.origin_allowed(given, origins) is allowed
    assert (answer(given, origins=origins).status_code == 101) is allowed


def test_a_page_that_came_unencrypted_may_not_connect_where_encryption_is() -> None:
    for scheme, allowed in (("http", False), ("https", True)):
        given = environ(HTTP_ORIGIN=f"{scheme}://example.org:8000", **{"wsgi.url_scheme": "https"})
        assert handshake.origin_allowed(given, None) is allowed
        assert handshake.origin_allowed(given, given["HTTP_ORIGIN"])


def test_a_request_without_a_host_has_no_own_origin() -> None:
    given = environ(HTTP_ORIGIN="http://")
    del given["HTTP_HOST"]
    assert not handshake.origin_allowed(given, None)


def test_compression_is_spoken_only_when_asked_for_and_offered() -> None:
    offer = {"HTTP_SEC_WEBSOCKET_EXTENSIONS": "permessage-deflate; client_max_window_bits"}
    assert "Sec-WebSocket-Extensions" not in answer(environ(**offer)).headers
    assert "permessage-deflate" in answer(environ(**offer), compression=True).headers["Sec-WebSocket-Extensions"]
    assert "Sec-WebSocket-Extensions" not in answer(environ(), compression=True).headers
