"""cachelib's UWSGICache in an application."""

from urllib.parse import parse_qsl

from cachelib.uwsgi import UWSGICache

cache = UWSGICache(default_timeout=60)


def application(env, start_response):  # type: ignore[no-untyped-def]
    given = dict(parse_qsl(env["QUERY_STRING"]))
    call = getattr(cache, env["PATH_INFO"][1:])
    answer = call(*([given["key"]] if "key" in given else []), *([given["value"]] if "value" in given else []))
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [repr(answer).encode()]
