"""A chat endpoint with OpenAI's interface, at an address that the user names."""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fungi.errors import FungiError

AGAIN = {408, 409, 429, 500, 502, 503, 504}
"""HTTP status codes after which a request may go well the next time."""


@dataclass(frozen=True)
class ChatEndpoint:
    """`<url>/chat/completions`, asked for one answer at temperature 0.

    key: sent as a bearer token where there is one; it is written nowhere. tries: before giving up, with growing waits.
    """

    url: str
    model: str
    key: str = ""
    tries: int = 6
    timeout: float = 60.0
    wait: Callable[[float], Any] = time.sleep

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise FungiError(f"--endpoint {self.url!r} is no address. Write it as http://localhost:8000/v1.")

    def ask(self, messages: list[dict[str, str]]) -> str:
        """The answer; FungiError where the endpoint refuses, or keeps failing."""
        content = {"model": self.model, "messages": messages, "temperature": 0}
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self.key}"} if self.key else {})
        address = f"{self.url.rstrip('/')}/chat/completions"
        request = urllib.request.Request(address, json.dumps(content).encode(), headers)
        cause = ""
        for attempt in range(self.tries):
            if attempt:
                self.wait(min(2.0**attempt, 60.0))
            try:
                with urllib.request.urlopen(request, timeout=self.timeout) as answer:
                    return str(json.load(answer)["choices"][0]["message"]["content"])
            except urllib.error.HTTPError as error:
                cause = f"{error.code} {error.reason}: {error.read(300).decode(errors='replace')}".partition("\n")[0]
                if error.code not in AGAIN:
                    break
            except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
                cause = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise FungiError(
            f"the endpoint {address} gave no answer ({cause}). What was answered is kept: try again later."
        )
