"""Whether a host answers, asked once and quickly: download libraries retry for a minute where there is no network."""

from functools import cache
from http.client import HTTPException
from pathlib import Path
from ssl import SSLError
from threading import Thread
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

SECONDS = 4.0


def hub_answers() -> bool:
    """Return whether the Hugging Face hub can be asked: it answers, and HF_HUB_OFFLINE is not set."""
    from huggingface_hub import constants

    return not constants.HF_HUB_OFFLINE and answers(constants.ENDPOINT)


def only_on_disk(place: str) -> bool:
    """Return whether a model of `transformers` is to be read from the disk alone."""
    return Path(place).exists() or not hub_answers()


@cache
def answers(url: str) -> bool:
    """Return whether the host of a URL answers anything within a few seconds; proxies of the environment are used.

    The answer is kept for the life of the process. A thread asks, since looking up a name has no time limit of its own.
    """
    replies: list[bool] = []
    thread = Thread(target=lambda: replies.append(_replies(url)), daemon=True)
    thread.start()
    thread.join(2 * SECONDS)
    return bool(replies and replies[0])


def _replies(url: str) -> bool:
    """Return whether a host replies, be it with an error: certificates are left to the library that downloads."""
    try:
        urlopen(Request(url, method="HEAD"), timeout=SECONDS).close()
    except HTTPError:
        return True
    except URLError as error:
        return isinstance(error.reason, SSLError)
    except (OSError, ValueError, HTTPException):
        return False
    return True
