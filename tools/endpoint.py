"""Which endpoint, key and model to use: settings, client and choice of a model.

A setting comes from a flag, else the environment, else `.env` beside the scripts, else a default.
"""

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from .errors import KimiError, SettingError, quote

if TYPE_CHECKING:  # at run time this import would take half a second
    from openai import OpenAI

DEFAULT_BASE_URL = "https://api.moonshot.ai/v1"
DEFAULT_MODEL = "moonshotai/Kimi-K2-Instruct"
ENV_FILE = Path(__file__).parents[1] / ".env"
PLACEHOLDERS = ("your_api_key_here", "sk-...", "")
NO_KEY = "Please set your MOONSHOT_API_KEY environment variable"
HOW_TO_SET_IT = """\
Get a key at https://platform.moonshot.ai (a new one works after a top-up of 1 dollar) or, in China,
at https://platform.moonshot.cn, then
  bash, zsh:   export MOONSHOT_API_KEY=sk-...
  PowerShell:  $env:MOONSHOT_API_KEY = "sk-..."
  or a file:   copy .env.example to .env and put the key there
Without a key: use --offline, or for your own program python -m tools.offline.
An engine that you host may accept any value as the key."""


class Settings(NamedTuple):
    """Where to call, and with which key. Its repr hides the key."""

    api_key: str
    base_url: str = DEFAULT_BASE_URL
    model: str = DEFAULT_MODEL
    key_source: str = "the program"
    named: bool = False  # the user chose the model (false: it is the default)

    def __repr__(self) -> str:
        return f"Settings(base_url={self.base_url!r}, model={self.model!r}, named={self.named})"


def connect() -> "tuple[OpenAI, str]":
    """A client and the id of a model for your program, from MOONSHOT_API_KEY, MOONSHOT_BASE_URL and
    MOONSHOT_MODEL or .env. Raises KimiError or an openai.OpenAIError if something is missing."""
    settings = read_settings()
    client = make_client(settings)
    model, remark = choose_model(settings, list_models(client))
    if remark:
        print(f"model {model} {remark}", file=sys.stderr)
    return client, model


def read_settings(base_url: str | None = None, model: str | None = None) -> Settings:
    """The settings, flags first. SettingError if one is wrong; warns about http:// on stderr."""
    from dotenv import dotenv_values

    try:
        file = dotenv_values(ENV_FILE, encoding="utf-8-sig")
    except (OSError, UnicodeError) as error:
        raise SettingError(f".env cannot be read ({error})", "Save it as UTF-8.") from error

    def pick(name: str, flag: str | None, default: str) -> tuple[str, str]:
        """The value, and where it is from."""
        found = {"a flag": flag, "the environment": os.environ.get(name), ".env": file.get(name)}
        for source, value in found.items():
            value = (value or "").strip(" \t\r\n\"'")  # quotes, too: some shells keep them
            if flag is not None or value not in PLACEHOLDERS:
                return value, source
        return default, "the default"

    key, key_source = pick("MOONSHOT_API_KEY", None, "")
    if not key:
        raise SettingError("", f"{NO_KEY}\n{HOW_TO_SET_IT}")
    if not re.fullmatch("[!-~]+", key):
        what = f"The key from {key_source} contains a character that no key has"
        raise SettingError(what, "Copy it again, without spaces, quotes or accents.")
    url, source = pick("MOONSHOT_BASE_URL", base_url, DEFAULT_BASE_URL)
    kind = _kind(url)
    if not kind:  # the address is not quoted: it could be the key, put in the wrong place
        name = "--base-url" if source == "a flag" else f"MOONSHOT_BASE_URL from {source}"
        advice = f"Write it with https:// or http:// and without a user name: {DEFAULT_BASE_URL}"
        raise SettingError(f"{name} is not a complete address", advice)
    if kind == "http":
        print("Warning: with http:// the key travels unencrypted. Use https://.", file=sys.stderr)
    model, source = pick("MOONSHOT_MODEL", model, DEFAULT_MODEL)
    if not model:
        raise SettingError("--model is empty", "Name a model, or leave it out.")
    return Settings(key, url, model, key_source, named=source != "the default")


def _kind(url: str) -> str:
    """The kind of base URL: "https", "http", or "local" for plain http to this machine; "" if it is
    not valid, or has a user name, which would be sent in place of the key."""
    try:
        parts = urlsplit(url)
        host = parts.hostname if parts.port != 0 else ""
    except ValueError:  # the port is not a number
        return ""
    if not host or not re.fullmatch(r"https?://[^\s@]+", url, re.I):
        return ""
    is_here = re.fullmatch(r"localhost|0\.0\.0\.0|::1|127(\.\d+){3}", host)
    return "local" if is_here and parts.scheme == "http" else parts.scheme


def make_client(settings: Settings, on_retry: Callable[[str], object] | None = None) -> "OpenAI":
    """The SDK's client: waits ten minutes for a reply, waits out rate limits, announces retries on
    stderr or to `on_retry(notice)`. SettingError if a variable names a bad proxy or certificate."""
    from openai import OpenAI, Timeout

    from .retries import PatientClient

    try:
        # No proxy could reach this machine.
        http_client: Any = PatientClient(trust_env=_kind(settings.base_url) != "local")
    except OSError as error:
        name = "SSLKEYLOGFILE" if error.filename else "SSL_CERT_FILE"
        what = f"{name}={os.environ.get(name)} cannot be read ({error})"
        raise SettingError(what, f"Correct the path, or unset {name}.") from error
    except Exception as error:  # about an address, or a package that is missing
        what = f"HTTP_PROXY, HTTPS_PROXY, ALL_PROXY or NO_PROXY is not valid{quote(error)}"
        advice = "Correct the variable, or unset it."
        if "socks" in str(error).lower():
            what = "ALL_PROXY or another variable names a SOCKS proxy, which needs another package"
            advice = "Run python -m pip install socksio (with socks5:// in ALL_PROXY), or unset it."
        raise SettingError(what, advice) from error
    http_client.on_retry = on_retry or http_client.on_retry
    return OpenAI(
        api_key=settings.api_key, base_url=settings.base_url, http_client=http_client,
        timeout=Timeout(600, connect=10), max_retries=0,  # PatientClient tries again
    )  # fmt: skip


def list_models(client: "OpenAI") -> list[dict[str, Any]] | None:
    """What `GET /models` lists, each with an "id"; None if there is no readable list. Raises the
    SDK's exception if the key is refused or rate-limited, or if there is no answer."""
    from openai import APIStatusError

    try:
        body: Any = client.get("/models", cast_to=object, options={"timeout": 10})
    except (APIStatusError, ValueError, RecursionError) as error:  # broken or hostile JSON
        if getattr(error, "status_code", None) in (401, 403, 429):
            raise
        return None
    body = body.get("data") if isinstance(body, dict) else body
    models = body if isinstance(body, list) else []  # an HTML page is a str
    return [m for m in models if isinstance(m, dict) and isinstance(m.get("id"), str)] or None


def choose_model(settings: Settings, served: list[dict[str, Any]] | None) -> tuple[str, str]:
    """The model to use, and a remark for the user or "". One that the user named is never replaced:
    if it is not served, KimiError lists what is. The default is replaced by the closest one.
    Without a list, either is used unchecked."""
    if not served or any(model["id"] == settings.model for model in served):
        return settings.model, ""

    def closeness(model: dict[str, Any]) -> tuple[bool, bool, bool, int, float, str]:
        name, created = model["id"].lower(), model.get("created")
        short = name.split("/")[-1]
        same = short == settings.model.split("/")[-1].lower()
        newness = created if isinstance(created, (int, float)) else 0
        # The shortest: variants such as -code, -highspeed or :free are longer.
        return same, "kimi-k2" in name, "kimi" in name, -len(short), newness, model["id"]

    closest = max(served, key=closeness)
    if not settings.named and (len(served) == 1 or any(closeness(closest)[:3])):
        how = "--model or MOONSHOT_MODEL chooses another"
        return closest["id"], f"({settings.model} is not served here; {how})"
    ids = ", ".join(sorted(model["id"] for model in served)[:40])
    what = f"Model not found: {settings.model} is not served here. Served: {ids}"
    raise KimiError(what, "Choose one of them with --model or MOONSHOT_MODEL=...")
