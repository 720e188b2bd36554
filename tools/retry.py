"""Retries that tell the user what they wait for: hooks for the SDK, which retries by itself.

A new account of Moonshot's platform may send 3 requests a minute, and its 429 does not say how
long to wait. The SDK would give up after seven seconds; with these hooks it waits long enough.
"""

import re
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from .errors import NO_BALANCE

RETRIES = 4
RATE_LIMIT_WAIT = 22.0  # seconds: four times that outlasts a limit per minute
LONGEST_WAIT = 60.0  # seconds that every version of the SDK waits if a server asks for it
PATIENCE = 45.0  # seconds: after that, a request without a reply is not sent again


def retry_hooks() -> dict[str, list[Callable[[Any], None]]]:
    """Event hooks for an HTTP client of the SDK; they print a line to stderr for each retry."""
    current = threading.local()  # the request of each thread

    def on_request(request: Any) -> None:
        retry = int(request.headers.get("x-stainless-retry-count", 0))
        if not retry:
            current.since = time.monotonic()
        elif not current.announced:  # a timeout, or a lost connection
            if time.monotonic() - current.since > PATIENCE:
                from openai import APITimeoutError

                raise APITimeoutError(request=request)
            announce(f"No complete reply from {request.url.netloc.decode()}", retry)
        current.announced = False

    def on_response(response: Any) -> None:
        status, headers = response.status_code, response.headers
        if status not in (408, 409, 429) and status < 500:
            return  # the SDK does not retry
        seconds = re.fullmatch(r"\d+(\.\d*)?", headers.get("retry-after", ""))  # else a date
        asked = float(seconds[0]) if seconds else 0.0
        no_balance = status == 429 and re.search(NO_BALANCE.encode(), response.read())
        if no_balance or asked > 2 * LONGEST_WAIT:
            headers["x-should-retry"] = "false"
        wait = min(asked, LONGEST_WAIT) if asked else RATE_LIMIT_WAIT * (status == 429)
        what = f"{response.request.url.netloc.decode()} answered {status}"
        what += " (rate limit)" if status == 429 else ""
        if wait:
            headers["retry-after-ms"] = str(wait * 1000)  # the SDK looks for this one first
            what += f": waiting {wait:.0f} s"
        retry = int(response.request.headers.get("x-stainless-retry-count", 0)) + 1
        if headers.get("x-should-retry") != "false" and retry <= RETRIES:
            announce(what, retry)

    def announce(what: str, retry: int) -> None:
        print(f"{what}; retry {retry} of {RETRIES}.", file=sys.stderr)
        current.announced = True

    return {"request": [on_request], "response": [on_response]}
