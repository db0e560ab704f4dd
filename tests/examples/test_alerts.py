"""The alerts example on a real server."""

from __future__ import annotations

from urllib.error import HTTPError

import pytest

from tests.server import Server


@pytest.fixture(scope="module")
def server():
    with Server("examples.alerts:app", workers=3) as running:
        yield running


def heard(server: Server) -> dict[int, list[str]]:
    """{process id: what it has heard}."""
    found: dict[int, list[str]] = {}
    for line in server.get("/").decode().splitlines():
        if line.startswith("worker"):
            said = found.setdefault(int(line.split("process ")[1].split(",")[0]), [])
        else:
            said.append(line.strip())
    return found


def test_an_alert_reaches_the_worker_it_is_sent_to_and_its_reply_the_sender(server):
    target = server.workers[2]
    assert server.get(f"/send/{target}/good%20morning") == f"sent to process {target}\n".encode()

    def settled():
        said = heard(server)
        mine = [line for line in said[target] if line.endswith("says 'good morning'")]
        answers = [
            (pid, line)
            for pid, lines in said.items()
            for line in lines
            if line == f"sender {target} answers 'hello to you too. you said good morning'"
        ]
        return len(mine) == len(answers) == 1 and (mine[0], answers[0][0])

    says, sender = server.wait(settled)
    assert says == f"sender {sender} says 'good morning'"


def test_a_broadcast_reaches_every_worker_and_each_replies(server):
    assert server.get("/broadcast/all%2Fof%20you") == b"sent to every worker\n"

    def settled():
        said = heard(server)
        says = [pid for pid, lines in said.items() for line in lines if line.endswith("says 'all/of you'")]
        answers = [line for lines in said.values() for line in lines if line.endswith("you said all/of you'")]
        return sorted(says) == sorted(server.workers.values()) and len(answers) == 3

    server.wait(settled)


def test_a_call_waits_for_what_the_handler_returns(server):
    for pid in server.workers.values():
        assert server.get(f"/ask/{pid}/x") == f"process {pid} got 'x'\n".encode()


@pytest.mark.parametrize("path", ["/send/1/x", "/send/no-pid/x", "/ask/999999999/x", "/elsewhere", "/send/1"])
def test_what_is_not_there_is_404_in_words(server, path):
    with pytest.raises(HTTPError) as refused:
        server.get(path)
    assert refused.value.code == 404
    assert refused.value.read().strip()
