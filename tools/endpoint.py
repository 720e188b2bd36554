"""Which endpoint, key and model to use: settings, client, retries and choice of a model.

A setting comes from a flag, else the environment, else `.env` beside the scripts, else a default.
"""

import os
import re
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .errors import NO_BALANCE, KimiError, SettingError, hide

if TYPE_CHECKING:  # at run time this import would take half a second
    from openai import OpenAI

DEFAULT_BASE_URL = "https://api.moonshot.ai/v1"
DEFAULT_MODEL = "moonshotai/Kimi-K2-Instruct"
RETRIES = 4
RATE_LIMIT_WAIT = 22.0  # seconds; four of these outlast a limit per minute
LONGEST_WAIT = 60.0  # seconds: the longest wait that every version of the SDK accepts
PATIENCE = 45.0  # seconds: after that, a request without a reply is not sent again
ENV_FILE = Path(__file__).parents[1] / ".env"
PLACEHOLDER = "your_api_key_here"
NO_KEY = """\
Please set your MOONSHOT_API_KEY environment variable
Get a key at https://platform.moonshot.ai (in China https://platform.moonshot.cn), then
  bash, zsh:   export MOONSHOT_API_KEY=sk-...
  PowerShell:  $env:MOONSHOT_API_KEY = "sk-..."
  or a file:   copy .env.example to .env and put the key there
Without a key: use --offline, or for your own program python -m tools.offline."""

# https://USER:PASSWORD@HOST:PORT/PATH in two groups, without user and password.
_URL = re.compile(
    r"(https?://)(?:[^/\s]*@)?((?:\[[\da-f:.]+\]|[^/:?#\[\]\s]+)(?::\d{1,5})?(?:/\S*)?)", re.I
)
_LOCAL_HTTP = re.compile(r"http://(localhost|127(\.\d+){3}|0\.0\.0\.0|\[::1\])(:\d+)?(/|$)", re.I)


class Settings(NamedTuple):
    """Where to call. `named` tells whether the user chose the model; else it is the default."""

    api_key: str
    key_source: str
    base_url: str = DEFAULT_BASE_URL
    model: str = DEFAULT_MODEL
    named: bool = False


def read_settings(base_url: str | None = None, model: str | None = None) -> Settings:
    """The settings, flags first. SettingError if one is wrong; warns about http:// on stderr."""
    from dotenv import dotenv_values

    try:
        file = dotenv_values(ENV_FILE, encoding="utf-8-sig")
    except (OSError, UnicodeError) as error:
        raise SettingError(f"Error: .env cannot be read ({error}).\nSave it as UTF-8.") from error

    def pick(name: str, flag: str | None, default: str) -> tuple[str, str]:
        if flag is not None:
            return flag.strip().strip("\"'"), "a flag"
        for source, value in (("the environment", os.environ.get(name)), (".env", file.get(name))):
            value = (value or "").strip().strip("\"'").strip()
            if value and value != PLACEHOLDER:
                return value, source
        return default, "the default"

    key, key_source = pick("MOONSHOT_API_KEY", None, "")
    if not key:
        raise SettingError(NO_KEY)
    if not re.fullmatch("[!-~]+", key):
        what = f"Error: The key from {key_source} has a character that cannot be in a key."
        raise SettingError(f"{what}\nCopy it again, without spaces, quotes or accents.")
    hide(key)
    url, source = pick("MOONSHOT_BASE_URL", base_url, DEFAULT_BASE_URL)
    parts = _URL.fullmatch(url)
    if not parts:  # not quoted: it could be the key, put in the wrong place
        what = f"Error: The base URL from {source} is not a complete address."
        raise SettingError(f"{what}\nWrite it with https:// or http://, like {DEFAULT_BASE_URL}")
    url = parts[1] + parts[2]  # HTTPX would send a user name in place of the key
    if parts[1].lower() == "http://" and not _LOCAL_HTTP.match(url):
        print("Warning: with http:// the key travels unencrypted. Use https://.", file=sys.stderr)
    model, source = pick("MOONSHOT_MODEL", model, DEFAULT_MODEL)
    if not model:
        raise SettingError("Error: The model from a flag is empty.\nName one, or leave it out.")
    return Settings(key, key_source, url, model, named=source != "the default")


def retry_hooks() -> dict[str, list[Callable[[Any], None]]]:
    """Event hooks for the SDK's HTTP client. They print a line to stderr for each retry; after a
    429 they make the SDK wait until the minute is over, because Moonshot does not say how long to
    wait, and the SDK alone would give up after seven seconds."""
    current = threading.local()  # the request of each thread

    def on_request(request: Any) -> None:
        retry = int(request.headers.get("x-stainless-retry-count", 0))
        if not retry:
            current.announced = 0
        if retry == current.announced:  # a new request, a redirect, or the last one was answered
            current.since = time.monotonic()
        else:  # a timeout, or a lost connection
            if time.monotonic() - current.since > PATIENCE:
                from openai import APITimeoutError

                raise APITimeoutError(request=request)
            announce(f"No complete reply from {request.url.netloc.decode()}", retry)

    def on_response(response: Any) -> None:
        status, headers = response.status_code, response.headers
        if status not in (408, 409, 429) and status < 500:
            return  # the SDK does not retry
        seconds = re.fullmatch(r"\d+(\.\d*)?", headers.get("retry-after", ""))  # not a date
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
        current.announced = retry

    return {"request": [on_request], "response": [on_response]}


def make_client(settings: Settings) -> "OpenAI":
    """The SDK's client: waits ten minutes for a reply, waits out rate limits, announces retries."""
    from openai import DefaultHttpxClient, OpenAI, Timeout

    hide(settings.api_key)
    proxies = not _LOCAL_HTTP.match(settings.base_url)  # a proxy could not reach this machine
    try:
        http_client = DefaultHttpxClient(event_hooks=retry_hooks(), trust_env=proxies)
    except OSError as error:
        what = f"Error: SSL_CERT_FILE={os.environ.get('SSL_CERT_FILE')} cannot be read ({error})."
        raise SettingError(f"{what}\nCorrect the path, or unset SSL_CERT_FILE.") from error
    return OpenAI(
        api_key=settings.api_key, base_url=settings.base_url, http_client=http_client,
        timeout=Timeout(600, connect=10), max_retries=RETRIES,
    )  # fmt: skip


def list_models(client: "OpenAI") -> list[dict[str, Any]] | None:
    """What `GET /models` lists, each with an "id"; None if there is no readable list. Raises the
    SDK's exception if the key is refused or rate-limited, or if there is no answer."""
    from openai import APIStatusError, Timeout

    try:
        quick = Timeout(10, connect=5)
        body: Any = client.get("/models", cast_to=object, options={"timeout": quick})
    except (APIStatusError, ValueError) as error:  # ValueError: broken JSON
        if getattr(error, "status_code", None) in (401, 403, 429):
            raise
        return None
    body = body.get("data") if isinstance(body, dict) else body
    models = body if isinstance(body, list) else []  # an HTML page is a str
    return [m for m in models if isinstance(m, dict) and isinstance(m.get("id"), str)] or None


def choose_model(settings: Settings, served: list[dict[str, Any]] | None) -> tuple[str, str]:
    """The model to use, and a remark for the user or "".

    A model that the user named is never replaced: if it is not served, KimiError lists what is. The
    default is replaced by the closest one. Without a list, either is used unchecked.
    """

    def closeness(model: dict[str, Any]) -> tuple[bool, bool, bool, float]:
        name, created = model["id"].lower(), model.get("created")
        same = name.split("/")[-1] == settings.model.split("/")[-1].lower()
        newness = created if isinstance(created, (int, float)) else 0
        return same, "kimi-k2" in name, "kimi" in name, newness

    if not served or any(model["id"] == settings.model for model in served):
        return settings.model, ""
    closest = max(served, key=closeness)
    if not settings.named and (len(served) == 1 or any(closeness(closest)[:3])):
        return closest["id"], f"replaces {settings.model}; choose with --model or MOONSHOT_MODEL"
    ids = ", ".join(sorted(model["id"] for model in served)[:40])
    what = f"Error: Model not found: {settings.model} is not served here. Served: {ids}"
    raise KimiError(f"{what}\nSet one with --model or MOONSHOT_MODEL=...")
