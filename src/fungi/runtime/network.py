"""Check quickly whether a host answers. If there is no network, download libraries would retry for a minute."""

from functools import cache
from http.client import HTTPException
from pathlib import Path
from ssl import SSLError
from threading import Thread
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

SECONDS = 4.0
"""Longest time to wait for a connection or a reply."""


def hub_answers() -> bool:
    """Return whether the Hugging Face hub answers and HF_HUB_OFFLINE is not set."""
    from huggingface_hub import constants

    return not constants.HF_HUB_OFFLINE and answers(constants.ENDPOINT)


def only_on_disk(model: str) -> bool:
    """Return whether `transformers` should read a model (a folder or an id of the hub) only from the disk."""
    return Path(model).exists() or not hub_answers()


@cache
def answers(url: str) -> bool:
    """Return whether the host of a URL answers within a few seconds, through the proxies of the environment.

    The result is cached. A thread sends the request, because the lookup of a host name has no time limit.
    """
    replies: list[bool] = []
    thread = Thread(target=lambda: replies.append(_replies(url)), daemon=True)
    thread.start()
    thread.join(2 * SECONDS)  # SECONDS for the lookup of the name, SECONDS for the reply
    return bool(replies and replies[0])


def _replies(url: str) -> bool:
    """Return whether a host replies. Errors of HTTP or certificates also count as a reply."""
    try:
        urlopen(Request(url, method="HEAD"), timeout=SECONDS).close()
    except HTTPError:
        return True
    except URLError as error:
        return isinstance(error.reason, SSLError)
    except (OSError, ValueError, HTTPException):
        return False
    return True
