"""`answers` finds out whether a host replies."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from fungi.runtime import network


@pytest.fixture
def server(request, monkeypatch) -> Iterator[str]:
    """Return the address of a host that replies with a status. The proxies of the environment are not used."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(request.param)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    monkeypatch.setenv("no_proxy", "*")
    with HTTPServer(("127.0.0.1", 0), Handler) as host:
        thread = threading.Thread(target=host.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{host.server_port}/"
        host.shutdown()
        thread.join()


@pytest.mark.parametrize("server", [200, 404, 503], indirect=True)
def test_a_host_answers_also_if_it_replies_with_an_error(server):
    assert network.answers(server)


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/", "http://", "no address", "http://127.0.0.1:port/"])
def test_a_closed_port_or_an_invalid_address_does_not_answer(url, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    assert not network.answers(url)
