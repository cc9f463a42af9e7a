"""A chat endpoint with OpenAI's interface, at an address that the user names."""

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
    """`<url>/chat/completions`, asked for one answer at temperature 0.

    key: sent as a bearer token if it is not empty; it is written nowhere. tries: number of requests before giving up,
    with growing waits between them.
    """

    url: str
    model: str
    key: str = ""
    tries: int = 6
    timeout: float = 60.0
    wait: Callable[[float], Any] = time.sleep

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise FungiError(f"--endpoint {self.url!r} is not an address. Write it as http://localhost:8000/v1.")

    @property
    def address(self) -> str:
        """The address that requests are sent to."""
        return f"{self.url.rstrip('/')}/chat/completions"

    def ask(self, messages: list[dict[str, str]]) -> str:
        """Return the model's answer; empty where the model answered with no text.

        Raises FungiError where the endpoint refuses, keeps failing, or answers in another form than OpenAI's. An
        answer of another form is reported at once, since a repeated request would get the same one.
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
            f"the endpoint {self.address} gave no answer ({cause}). What was answered is kept: try again later."
        )

    def _text_of(self, body: bytes) -> str:
        """Return the text of the first choice; FungiError where the body has another form."""
        try:
            text = json.loads(body)["choices"][0]["message"]["content"]
            if text is not None and not isinstance(text, str):
                raise TypeError
        except (ValueError, KeyError, IndexError, TypeError):
            shown = " ".join(body[:200].decode(errors="replace").split())
            kind = "a web page" if shown.lower().startswith(("<!doctype", "<html")) else "something"
            raise FungiError(
                f"the endpoint {self.address} answered with {kind} instead of a chat completion: {shown!r}. Check"
                " --endpoint: it usually ends in /v1. What was answered before is kept."
            ) from None
        return text or ""
