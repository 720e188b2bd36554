"""Readable error messages: what happened, then what to do.

The facts about Moonshot's platform are from platform.moonshot.ai/docs, the rest from the engines.
"""

import re
from typing import Any

# Words that mean the account has no credit left, so that waiting does not help.
NO_BALANCE = r"current_quota|insufficient_quota|\bbalance\b"


class KimiError(Exception):
    """An error whose text is for the user."""


class SettingError(KimiError):
    """A missing or wrong setting, so that nothing can be sent."""


COULD_NOT_START = (SettingError, ImportError)  # a script ends with exit status 2
_keys: set[str] = set()


def hide(key: str) -> None:
    """Let `mask` replace this key, unless it is short: then it is only a word like "none"."""
    if len(key) > 8:
        _keys.add(key)


def mask(text: str) -> str:
    """`text` with "sk-..." in place of every key in use, and of what looks like a key."""
    for key in _keys:
        text = text.replace(key, "sk-...")
    return re.sub(r"\bsk-[\w-]{16,}", "sk-...", text)


def quote(words: Any) -> str:
    """A server's message as `: "…"`, in one line, masked and cut; "" if it is none, or a page."""
    if isinstance(words, dict):
        words = words.get("message") or words.get("detail") or words.get("error") or words
    text = "".join(filter(str.isprintable, " ".join(str(words or "").split())))
    # Mask also parts of a key, and before the text is cut.
    parts = [re.escape(key[i : i + 6]) for key in _keys for i in range(len(key) - 5)]
    text = re.sub("|".join([r"\bsk-[^\s\"']{5,}", *parts]), "sk-...", mask(text))
    if not text or re.search(r"<(!doctype|html|body)", text, re.I):
        return ""
    return f': "{text[:300]}…"' if len(text) > 300 else f': "{text}"'


_KEY_REFUSED = "The endpoint did not accept the key"
_NETWORK = "Check the base URL, the network and any proxy."

# (what to look for, what happened, what to do): the first row that fits is taken. The pattern is
# matched with a line "STATUS ADDRESS TYPE CODE WORDS KEY", where KEY is the beginning of the key;
# if no endpoint answered, the classes of the exception and of its cause stand for STATUS.
_TABLE = (
    (r"\S*ImportError.*socks|\S*ValueError.*proxy.*socks",
     "ALL_PROXY or another variable names a SOCKS proxy, which needs another package",
     "Run python -m pip install socksio (with socks5:// in ALL_PROXY), or unset ALL_PROXY."),
    (r"\S*ImportError", "A package is missing",
     "Install what is needed: python -m pip install -r requirements.txt"),
    (r"\S*InvalidURL|\S*ValueError.*proxy", "An address is not valid",
     "Check the base URL, HTTP_PROXY, HTTPS_PROXY and ALL_PROXY."),
    (r"\S*JSONDecodeError|\S*AttributeError\S* .*'str' object has no attribute 'choices'",
     "The endpoint answered with a page instead of JSON (a proxy? a login page?)",
     "Check the base URL: most end in /v1."),
    (r"\S*ConnectTimeout|\S*Timeout\S* \S*/models ", "No reply from {host} in time", _NETWORK),
    (r"\S*Timeout", "No reply from {host} in time",
     "Try --mode streaming, where a long reply arrives piece by piece, or try again later."),
    (r"\S*APIConnectionError.*CERTIFICATE_VERIFY_FAILED", "The certificate of {host} was refused",
     "Check the base URL. Behind a company's proxy, set SSL_CERT_FILE to its root certificate."),
    (r"\S*(RemoteProtocolError|ReadError)",
     "The connection to {host} was lost, so the reply or stream was cut",
     "Check the base URL and the network. If they are right, run it again."),
    (r"\S*(APIConnectionError|TransportError)", "The connection to {host} failed", _NETWORK),
    ("(401 (?!api.kimi.com)|400 .*no_db_connection).* sk-kimi-",
     "The endpoint did not accept the key, which belongs to a Kimi Code membership",
     "It works only at https://api.kimi.com/coding/v1 (model kimi-for-coding). "
     "For a platform key,\ngo to https://platform.moonshot.ai"),
    ("401 api.moonshot.(ai|cn)", _KEY_REFUSED,
     "Check MOONSHOT_API_KEY. A key of platform.moonshot.{other}, whose keys are separate, needs\n"
     "MOONSHOT_BASE_URL=https://api.moonshot.{other}/v1"),
    ("401 |400 .*no_db_connection", _KEY_REFUSED, "Check MOONSHOT_API_KEY and the base URL."),
    (f"402 |(403|429) .*({NO_BALANCE})|403 .*quota", "The account has no balance left",
     "Top up the account; waiting will not help."),
    ("403 ", "The key has no access to this", "Check the account, or choose another --model."),
    (r"404 (api.moonshot.(ai|cn)/v1/completions|\S+(?<!/chat)/completions (?!.*model))",
     "This endpoint has no /completions: manual mode is for engines that you host yourself",
     "Choose another --mode, or run vLLM, SGLang or llama.cpp."),
    (r"404 \S+ .*model", "Model not found",
     "Set one that is served, with --model or MOONSHOT_MODEL=..."),
    (r"404 \S+/messages", "This endpoint has no route /messages", "Choose another --mode."),
    ("404 ", "Nothing is served there", "Check the base URL (most end in /v1) and the model."),
    ("429 (?!.*overloaded)", "The rate limit is reached",
     "Wait a minute. A new account (Tier 0) may send 3 requests a minute, one at a time."),
    ("400 .*(content_filter|high risk)", "The content filter refused the request", "Rephrase it."),
    (r"5\d\d |429 ", "The endpoint sent an error", "Wait, and try again later."),
    (r"\d", "The endpoint sent an error", "Change what it names."),
    (r"\S*APIError", "The endpoint broke off the reply", "Try again later."),
    ("", "Unexpected {name}",
     "The reply may have an unusual form; quick_test.py may show it. --offline tests the package."),
)  # fmt: skip


def explain(error: BaseException) -> str:
    """The message for an exception: what happened, then what to do. It never contains the key."""
    if isinstance(error, KimiError):
        return mask(str(error))
    # The SDK's exceptions have these attributes (HTTPX's begin with "_"), others have none.
    known = vars(error)
    request = known.get("request") or known.get("_request")
    host, address, key = "the endpoint", "-", ""
    if request is not None:
        host = request.url.netloc.decode()  # with the port, if it is an unusual one
        address = host + request.url.path
        key = request.headers.get("authorization", "").removeprefix("Bearer ")
        hide(key)
    status = known.get("status_code")
    classes = [each.__name__ for e in (error, error.__cause__) for each in type(e).__mro__]
    said = quote(known.get("body") or ("" if status else error.__cause__ or error))
    begin, kind = status or ".".join(classes), f"{known.get('type')} {known.get('code')}"
    line = f"{begin} {address} {kind} {said} {key[:8]}"
    what, advice = next(row[1:] for row in _TABLE if re.match(row[0], line, re.I))
    where = f" ({status} from {address})" if status else ""
    # Leave out what means something only to a programmer.
    said = re.sub(r"\[SSL: \w+\] | \(_ssl\.c:\d+\)|: \"(Expecting value|'str' object).*", "", said)
    other = "cn" if host.endswith(".ai") else "ai"
    text = f"Error: {what}{{said}}.\n{advice}"
    return mask(text.format(host=host, name=classes[0], other=other, said=where + said))
