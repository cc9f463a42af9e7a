"""Client for a chat endpoint with the interface of OpenAI."""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any

from fungi.errors import FungiError

TRANSIENT_STATUS = {408, 409, 429, 500, 502, 503, 504}
"""HTTP status codes after which a later request may succeed."""


@dataclass(frozen=True)
class ChatEndpoint:
    """A chat endpoint at the address `<url>/chat/completions`. Requests have the temperature 0.

    model: name of the model to ask. key: sent as a bearer token if it is not empty, and never written to a file.
    tries: maximum number of requests per answer, with increasing waiting times. timeout: seconds per request.
    wait: function that waits for some seconds.
    """

    url: str
    model: str
    key: str = ""
    tries: int = 6
    timeout: float = 60.0
    wait: Callable[[float], Any] = time.sleep

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise FungiError(f"--endpoint {self.url!r} is not a URL. Example: http://localhost:8000/v1.")

    @property
    def address(self) -> str:
        """The URL of the requests."""
        return f"{self.url.rstrip('/')}/chat/completions"

    def ask(self, messages: list[dict[str, str]]) -> str:
        """Return the answer of the model, or an empty string if the answer has no text.

        Raises FungiError if the endpoint refuses the request, fails repeatedly, or returns another format. Another
        format is reported at once, because a second request would return the same format.
        """
        content = {"model": self.model, "messages": messages, "temperature": 0}
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self.key}"} if self.key else {})
        request = urllib.request.Request(self.address, json.dumps(content).encode(), headers)
        cause = ""
        for attempt in range(self.tries):
            if attempt:
                self.wait(min(2.0**attempt, 60.0))
            try:
                with urllib.request.urlopen(request, timeout=self.timeout) as response:
                    body = response.read()
            except urllib.error.HTTPError as error:
                cause = f"{error.code} {error.reason}: {error.read(300).decode(errors='replace')}".partition("\n")[0]
                if error.code not in TRANSIENT_STATUS:
                    break
            except (OSError, ValueError, HTTPException) as error:
                cause = f"{type(error).__name__}: {error}".partition("\n")[0]
            else:
                return self._text_of(body)
        raise FungiError(
            f"the endpoint {self.address} did not answer ({cause}). Earlier answers are kept: try again later."
        )

    def _text_of(self, body: bytes) -> str:
        """Return the text of the first choice. Raises FungiError if the body has another format."""
        try:
            text = json.loads(body)["choices"][0]["message"]["content"]
            if text is not None and not isinstance(text, str):
                raise TypeError
        except (ValueError, KeyError, IndexError, TypeError):
            start = " ".join(body[:200].decode(errors="replace").split())
            kind = "a web page" if start.lower().startswith(("<!doctype", "<html")) else "other content"
            raise FungiError(
                f"the endpoint {self.address} returned {kind} instead of a chat completion: {start!r}. Check"
                " --endpoint: it usually ends in /v1. Earlier answers are kept."
            ) from None
        return text or ""
