"""A sentence for whatever goes wrong: what happened, then what to do."""

from urllib.parse import urlsplit

import httpcore2
import openai
import pytest
from conftest import KEY, URL, status
from httpx import Response

from tools.endpoint import DEFAULT_BASE_URL, Settings, make_client
from tools.errors import KimiError, explain, mask, quote

CN, CODE_COM = "https://api.moonshot.cn/v1", "https://api.kimi.com/coding/v1"
CODE_AI, CODE_KEY = "https://api.kimi.ai/coding/v1", "sk-kimi-secret-0123456789"
NO_MODEL, NO_ROUTE = "Not found the model x or Permission denied", "url.not_found"
NEXT_CYCLE = "Your quota will be refreshed in the next cycle"
REFUSED = "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: Hostname mismatch (_ssl.c:1)"


def failure(http, response, url=URL, path="/chat/completions", key=KEY):
    """What `explain` makes of a request that ends like this: one line each for what and advice."""
    how = "side_effect" if isinstance(response, Exception) else "return_value"
    http.post(f"{url}{path}").mock(**{how: response})
    with make_client(Settings(key, url)) as client, pytest.raises(openai.APIError) as raised:
        client.post(path, cast_to=object)
    text = explain(raised.value)
    what, _, advice = text.partition("\n")
    assert what.startswith("Error: ") and what.endswith(".") and advice
    assert "secret" not in text and "<" not in text and "nginx" not in text
    return what, advice


@pytest.mark.parametrize(
    ("response", "what", "todo"),
    [
        ((400, "invalid temperature: x"), '"invalid temperature: x".', "Correct what the"),
        ((400, "odd\n words"), '"odd words"', "message names"),
        ((400, "considered high risk"), "content filter refused", "Rephrase"),
        ((400, "x is not a valid moonshot flavored json schema, details: y"),
         "schema of one of your tools (400", "each property needs a type"),
        ((401, "Invalid Authentication"), "did not accept the key (401", "and the base URL"),
        ((400, "x", "no_db_connection"), "did not accept the key (400", "MOONSHOT_API_KEY"),
        (Response(400, json={"error": {"message": "x", "code": "no_db_connection"}}),
         "did not accept the key (400", "MOONSHOT_API_KEY"),
        ((402, "Insufficient credit"), "no balance", "Top up"),
        ((403, "not open"), "may not use this model", "MOONSHOT_MODEL"),
        ((403, "x", "exceeded_current_quota_error"), "no balance", "Top up"),
        ((403, "You exceeded your quota"), "no balance", "waiting will not help"),
        ((429, "check your account balance"), "no balance", "Top up"),
        ((429, "request reached max rpm"), "rate limit", "Tier 0"),
        ((429, "Too many requests at the load balancer"), "rate limit", "3 requests a minute"),
        ((429, "request reached organization TPD rate limit"), "limit per day", "tomorrow"),
        ((429, "100 requests per day"), "limit per day", "tomorrow"),
        ((429, "The engine is currently overloaded"), "sent an error (429", "Try again later"),
        ((500, "ImportError: 401 404 model Timeout"), "sent an error (500", "Try again later"),
        ((500, "oops"), '(500 from engine.test/v1/chat/completions): "oops"', "Try again later"),
        (Response(502, html="<!DOCTYPE html><title>Bad</title>"), "(502", "Try again later"),
        # 404 and 410: the model, or the address?
        ((404, NO_MODEL), "Model not found (404", "MOONSHOT_MODEL"),
        ((404, "No endpoints found matching your data policy"), "Model not found", "MOONSHOT_M"),
        ((404, "No allowed providers are available"), "Model not found", "MOONSHOT_MODEL"),
        (Response(404, json={"detail": "Function x: Not found"}), "Model not found", "MOONSHOT_"),
        ((410, "It has reached its end of life"), "Model not found (410", "MOONSHOT_MODEL"),
        (Response(404, json={"detail": "Not Found"}), "no API at this address", "/v1"),
        (Response(404, html="<html>nginx: no model</html>"), "no API at this address", "base URL"),
    ],
)  # fmt: skip
def test_statuses(http, response, what, todo):
    response = status(*response) if isinstance(response, tuple) else response
    headline, advice = failure(http, response)
    assert what in headline and todo in advice
    assert "moonshot." not in advice and "kimi." not in advice  # elsewhere, no platform is named


@pytest.mark.parametrize(
    ("url", "key", "path", "response", "what", "todo"),
    [
        (DEFAULT_BASE_URL, KEY, "/models", (401,), "not accept the key", f"MOONSHOT_BASE_URL={CN}"),
        (CN, KEY, "/models", (401,), "accept the key", f"MOONSHOT_BASE_URL={DEFAULT_BASE_URL}"),
        *[(url, CODE_KEY, "/models", (401,), "a Kimi Code key", address)
          for url in (DEFAULT_BASE_URL, CN, URL)
          for address in (CODE_COM, CODE_AI, "https://platform.moonshot.ai")],
        (DEFAULT_BASE_URL, CODE_KEY, "/models", (403,), "may not use", "Check the account"),
        *[(url, CODE_KEY, "/chat/completions", response, what, todo)
          for url in (CODE_COM, CODE_AI)
          for response, what, todo in (
              ((401,), "accept the key", "separate keys.\nHere 401 can also mean an unknown model"),
              ((402, "x"), "membership could not be verified", "Check the membership"),
              ((403, NEXT_CYCLE), "quota of this period", "Wait"),
              ((429, NEXT_CYCLE), "quota of this period", "Wait"))],
        (URL, KEY, "/completions", (404, NO_ROUTE), "manual mode is for engines", "another mode"),
        (URL, KEY, "/completions", (404, NO_MODEL), "Model not found", "MOONSHOT_MODEL"),
        (CN, KEY, "/completions", (404, "no such model or url"), "manual mode is for", "vLLM"),
        (URL, KEY, "/messages", (404, NO_ROUTE), "no route /messages", "another mode"),
        (URL, KEY, "/messages", (404, NO_MODEL), "Model not found", "MOONSHOT_MODEL"),
    ],
)  # fmt: skip
def test_where_it_was_sent(http, url, key, path, response, what, todo):
    headline, advice = failure(http, status(*response), url, path, key)
    assert what in headline and todo in advice and "Top up" not in advice
    assert {each.request.url.host for each in http.calls} == {urlsplit(url).hostname}


@pytest.mark.parametrize(
    ("error", "what", "todo"),
    [
        (httpcore2.ConnectError("[Errno 111] Connection refused"), "refused", "base URL"),
        (httpcore2.ConnectError(REFUSED),
         'of engine.test was refused: "certificate verify failed: Hostname mismatch".', "SSL_CERT"),
        (httpcore2.ReadTimeout("x"), "No reply from engine.test in time", "mode streaming"),
        (httpcore2.ConnectTimeout("x"), "No reply from engine.test in time", "base URL"),
        (httpcore2.RemoteProtocolError("Server disconnected"), "disconnected", "network"),
        (httpcore2.ProxyError("407 Proxy Authentication Required"), "407", "proxy"),
    ],
)  # fmt: skip
def test_connections(http, error, what, todo):
    headline, advice = failure(http, error)
    assert what in headline and todo in advice
    assert "streaming" not in failure(http, error, path="/models")[1]


@pytest.mark.parametrize("word", [KEY, KEY[:-3], f"key={KEY}.", "sk-some-elses-key", "sk-s***els"])
def test_no_key_is_repeated(http, word):
    headline, _ = failure(http, status(401, f"Incorrect API key provided: {word}"))
    assert "els" not in headline and "sk-..." in headline


@pytest.mark.parametrize("padding", [0, 280, 290, 299, 300])
@pytest.mark.parametrize("shown", ["another-form-of-key", "another-\x1bform-of-key"])
def test_a_key_is_masked_before_the_words_are_cut(padding, shown):
    text = quote("x" * padding + shown + "y" * 500, "another-form-of-key")
    assert "anoth" not in text and "form-" not in text and len(text) < 320


def test_words_that_only_look_like_a_key_stay():
    assert mask("none of them, sk-learn, sk-...", "none") == "none of them, sk-learn, sk-..."
    assert mask("none of them, sk-0123456789abcdef!") == "none of them, sk-...!"


MISLEADING = RuntimeError("x")  # its attributes are not what they are to the SDK
vars(MISLEADING).update(status_code=401, request="x", body="the model")


@pytest.mark.parametrize(
    "error",
    [
        KeyError("y"), ValueError("404 model"), TypeError("Timeout"), MISLEADING, Exception(),
        UnicodeEncodeError("utf-8", "\ud800", 0, 1, "z"), openai.OpenAIError("v"),
    ],
)  # fmt: skip
def test_a_mistake_in_the_program_is_called_that(error):
    what, advice = explain(error).split("\n")
    assert what.startswith(f"Error: Unexpected {type(error).__name__}")
    assert "mistake in the program" in advice and "base URL" not in advice


def test_our_own_errors_are_their_text():
    assert explain(KimiError("This", "Do that.")) == "Error: This.\nDo that."
    assert explain(KimiError(f"with {KEY}", "x")) == "Error: with sk-....\nx"


def test_a_long_wait_that_the_server_names_is_the_advice(http, client):
    limited = status(429, "slow down", **{"retry-after": "3600"})
    http.get(f"{URL}/models").mock(return_value=limited)
    with pytest.raises(openai.RateLimitError) as raised:
        client.models.list()
    assert explain(raised.value).endswith("\nThe server asks to wait 3600 seconds.")
