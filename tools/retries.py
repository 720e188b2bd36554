"""The HTTP client under the SDK's: it tries again, says so, and waits out rate limits."""

import re
import sys
import time
from contextlib import suppress
from email.utils import parsedate_to_datetime
from typing import Any

from openai import DefaultHttpxClient

from .errors import NEXT_CYCLE, NO_BALANCE, PER_DAY

RETRIES = 4
RATE_LIMIT_WAIT = 22.0  # seconds; four of these outlast a limit per minute
LONGEST_WAIT = 120.0  # seconds: a server that asks for more is not asked again
PATIENCE = 30.0  # seconds that failed connections may take together


class PatientClient(DefaultHttpxClient):
    """Retries in place of the SDK's, which are silent and over after seven seconds: too soon for
    Moonshot's limit per minute, whose 429 does not say how long to wait."""

    def on_retry(self, notice: str) -> None:
        """Say that a request is sent again; a program may put a function of its own here."""
        print(notice, file=sys.stderr)

    def send(self, request: Any, **options: Any) -> Any:
        """Send the request, and again if that can help; `on_retry` says so before."""
        host, failing = request.url.netloc.decode(), 0.0
        for retry in range(1, RETRIES + 1):
            start = time.monotonic()
            try:
                response = super().send(request, **options)
                wait = seconds_to_wait(response)
                if wait is None:
                    return response
                response.close()
                what = f"{host} answered {response.status_code}"
                what += " (rate limit)" if response.status_code == 429 else ""
            except Exception as error:
                names = [each.__name__ for each in type(error).__mro__]
                failing += time.monotonic() - start
                # A refused connection or an unknown host will hardly be there in a second.
                gone = retry > 1 and "ConnectError" in names
                if gone or failing > PATIENCE or "TransportError" not in names:
                    raise
                wait, what = 0.0, f"No connection to {host}, or its reply was cut"
            what += f": waiting {wait:.0f} s" if wait >= 0.5 else ""
            self.on_retry(f"{what}; retry {retry} of {RETRIES}.")
            time.sleep(wait or 0.5 * 2 ** (retry - 1))
        return super().send(request, **options)


def seconds_to_wait(response: Any) -> float | None:
    """How long the server needs; 0 if it does not say, None if another try soon is of no use."""
    status, headers = response.status_code, response.headers
    temporary = status in (408, 409, 429) or status >= 500 and status != 501
    if not temporary or headers.get("x-should-retry") == "false":
        return None
    said = response.read().decode("utf-8", "replace")
    if status == 429 and re.search(f"{NO_BALANCE}|{PER_DAY}|{NEXT_CYCLE}", said, re.I):
        return None
    wait = 0.0
    for name, unit in (("retry-after", 1.0), ("retry-after-ms", 0.001)):
        if re.fullmatch(r"\d+(\.\d*)?", headers.get(name, "")):
            wait = float(headers[name]) * unit
    with suppress(ValueError, OverflowError):  # it is no date
        date = parsedate_to_datetime(headers.get("retry-after", ""))
        wait = wait or date.timestamp() - time.time()
    if wait <= 0:
        wait = RATE_LIMIT_WAIT if status == 429 else 0.0
    return wait if wait <= LONGEST_WAIT else None
