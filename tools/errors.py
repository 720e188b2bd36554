"""Readable errors: what happened, then what to do. The advice follows platform.kimi.ai/docs."""

import re
from typing import Any

# Words of a server that mean that waiting for some minutes does not help.
NO_BALANCE = r"(current|insufficient)_quota|\bbalance\b"
PER_DAY = r"\b[tr]pd\b|per.day|daily"
NEXT_CYCLE = "refreshed in the next cycle"
PAGE = (
    "The endpoint answered with a page instead of JSON (a proxy? a login page?)",
    "Check the base URL: most end in /v1.",
)


class KimiError(Exception):
    """An error for the user: `what` happened (or "") and `advice` on what to do about it.
    `status_code` is that of the response or, if that was 200, the one that the body means."""

    def __init__(self, what: str, advice: str, status_code: int = 0) -> None:
        super().__init__(what, advice)
        self.what, self.advice, self.status_code = what, advice, status_code

    def __str__(self) -> str:
        return f"Error: {self.what}.\n{self.advice}" if self.what else self.advice


class SettingError(KimiError):
    """A missing or wrong setting, so that nothing can be sent."""


def explain(error: BaseException) -> str:
    """The message for an exception: what happened, then what to do. It never contains the key."""
    return mask(str(as_kimi_error(error)))


def as_kimi_error(error: BaseException) -> KimiError:
    """Any exception as a KimiError. Classes are recognized by their names, which are the same in
    HTTPX, httpx2 and all versions of the SDK, whichever of them are installed."""
    if isinstance(error, KimiError):
        return error
    # Other exceptions may have a `status_code` or a `request` that mean something else.
    known = vars(error) if re.match(r"(openai|httpx2?)\b", type(error).__module__) else {}
    request, body = known.get("request") or known.get("_request"), known.get("body")
    host, path, key = "the endpoint", "", ""
    if request is not None:
        host, path = request.url.netloc.decode(), request.url.path
        key = request.headers.get("authorization", "").removeprefix("Bearer ")
    if "status_code" in known:
        problem = about_body(body, known["status_code"], host + path, key)
        asked = known["response"].headers.get("retry-after", "")
        # Shorter waits have been waited out.
        if re.fullmatch(r"\d{3,7}", asked) and "balance" not in problem.what:
            problem.advice = f"The server asks to wait {asked} seconds."
        return problem
    said = quote(body or error.__cause__ or error, key)
    names = f"{type(error).__mro__} {type(error.__cause__).__mro__}"
    doc = str(getattr(error, "doc", "")).lstrip()  # of a JSONDecodeError
    network = "Check the base URL, the network and any proxy, then run it again."
    what, advice = next(row[1:] for row in (
        ("ImportError" in names, "A package is missing",
         "Run .venv/bin/python, or install: python -m pip install -r requirements.txt"),
        ("'str' object has no attribute 'choices'" in said or doc.startswith("<"), *PAGE),
        ("JSONDecodeError" in names, "The reply is broken JSON, maybe because it was cut",
         "Run it again; if that happens every time, check the base URL."),
        ("Timeout" in names, f"No reply from {host} in time",
         "Check the base URL, the network and any proxy."
         + ("" if path.endswith("/models") else " For a long reply, use mode streaming.")),
        ("CERTIFICATE_VERIFY_FAILED" in said, f"The certificate of {host} was refused",
         "Check the base URL. Behind a company proxy, set SSL_CERT_FILE to its root certificate."),
        (re.search("RemoteProtocolError|ReadError|DecodingError", names),
         f"The connection to {host} was lost, so the reply or stream was cut", network),
        (re.search("APIConnectionError|TransportError|InvalidURL", names),
         f"The connection to {host} failed", network),
        ("APIError" in names, "The endpoint broke off the reply", "Try again later."),
        (True, f"Unexpected {type(error).__name__}",
         "This looks like a mistake in the program, or a reply of an unknown form."),
    ) if row[0])  # fmt: skip
    # Leave out what means something only to a programmer.
    said = re.sub(r"\[SSL: \w+\] | \(_ssl\.c:\d+\)|: \"(Expecting value|'str' object).*", "", said)
    return KimiError(what + said, advice)


def mask(text: str, key: str = "") -> str:
    """`text` with "sk-..." in place of `key`, and of whatever looks like a key."""
    if len(key) > 8:  # else it is only a word like "none", for an engine that needs no key
        text = text.replace(key, "sk-...")
    return re.sub(r"\bsk-[\w*.…-]{6,}[\w*]", "sk-...", text)


def quote(words: Any, key: str = "") -> str:
    """A server's message as `: "…"`, in one line, masked and cut; "" for none, or for a page."""
    while isinstance(words, dict):
        names = [name for name in ("message", "detail", "msg", "error") if words.get(name)]
        words = words[names[0]] if names else str(words)
    text = "".join(filter(str.isprintable, " ".join(str(words or "").split())))
    text = mask(text, key)
    if not text or re.search(r"<(!doctype|html|body)", text, re.I):
        return ""
    if len(text) > 300:  # cut between words, because half a key cannot be recognised
        text = (text[:300].rpartition(" ")[0] or text[:300]) + "…"
    return f': "{text}"'


def about_body(body: Any, status: int = 200, address: str = "", key: str = "") -> KimiError:
    """A KimiError for the body of an error. Under status 200, it may name another status."""
    said = quote(body, key)
    words = str(body).lower() if said else ""  # with type and code; a page says nothing
    where = f" ({status} from {address})" if status != 200 else ""
    if status == 200:
        named = re.search(r"'(?:code|status)': '?([45]\d\d)\b", str(body))
        kinds = (("authentication_error|api_key", 401), (NO_BALANCE, 402), ("rate_limit", 429))
        hinted = [number for pattern, number in kinds if re.search(pattern, words)]
        status = int(named[1]) if named else [*hinted, 200][0]
    refused = status == 401 or "no_db_connection" in words  # litellm's, for a wrong key
    on_kimi_code = address.startswith("api.kimi.")
    on_moonshot = address.startswith("api.moonshot.")
    other = "ai" if address.startswith("api.moonshot.cn") else "cn"
    is_manual = address.endswith("/completions") and not address.endswith("/chat/completions")
    about_model = re.search("model|provider|endpoints|function", words)
    refusal = "The endpoint did not accept the key"
    what, advice = next(row[1:] for row in (
        (refused and on_kimi_code, refusal,
         "Check MOONSHOT_API_KEY: api.kimi.com and api.kimi.ai have separate keys.\n"
         "Here 401 can also mean an unknown model: try MOONSHOT_MODEL=kimi-for-coding"),
        (refused and key.startswith("sk-kimi-"), f"{refusal}, because it is a Kimi Code key",
         "A key of a Kimi Code membership works only at https://api.kimi.com/coding/v1 or\n"
         "https://api.kimi.ai/coding/v1. For a platform key, go to https://platform.moonshot.ai"),
        (refused and on_moonshot, refusal,
         "Check MOONSHOT_API_KEY. The two platforms have separate keys: one of platform.moonshot."
         f"{other} needs\nMOONSHOT_BASE_URL=https://api.moonshot.{other}/v1"),
        (refused, refusal, "Check MOONSHOT_API_KEY and the base URL."),
        (NEXT_CYCLE in words, "The quota of this period is used up",
         "Wait for the next period (Kimi Code: 5 hours or 7 days), or use another key."),
        (status == 402 and on_kimi_code, "The Kimi Code membership could not be verified",
         "Check the membership, and that the key belongs to this address."),
        (status == 402 or status in (403, 429) and re.search(f"{NO_BALANCE}|your quota", words),
         "The account has no balance left", "Top up the account; waiting will not help."),
        (status == 429 and re.search(PER_DAY, words), "The limit per day is reached",
         "Try again tomorrow, or use a higher tier."),
        (status == 403, "This key may not use this model or route",
         "Check the account, or choose another model (MOONSHOT_MODEL)."),
        (status == 404 and is_manual and (on_moonshot or not about_model),
         "This endpoint has no /completions: manual mode is for engines that you host yourself",
         "Choose another mode, or run vLLM, SGLang or llama.cpp."),
        (status == 410 or status == 404 and about_model, "Model not found",
         "Choose one that is served (MOONSHOT_MODEL)."),
        (status == 404 and address.endswith("/messages"), "This endpoint has no route /messages",
         "Choose another mode."),
        (status == 404 or "unexpected endpoint" in words, "There is no API at this address",
         "Check the base URL (most end in /v1) and the model."),
        (re.search("content_filter|high risk", words), "The content filter refused the request",
         "Rephrase it."),
        ("flavored json schema" in words, "The endpoint refused the schema of one of your tools",
         "Correct what the message names: each property needs a type, and none beside anyOf."),
        (status == 429 and "overloaded" not in words, "The rate limit is reached",
         "Wait a minute. A new account (Tier 0) may send 3 requests a minute, one at a time."),
        (status == 429 or status >= 500, "The endpoint sent an error", "Try again later."),
        (status == 200 or not said, "The endpoint sent an error, not a reply",
         "Check the base URL, or try again."),
        (True, "The endpoint sent an error", "Correct what the message names."),
    ) if row[0])  # fmt: skip
    return KimiError(what + where + said, advice, status)
