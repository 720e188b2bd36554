"""A sentence for whatever goes wrong: what happened, then what to do."""

import ssl

import httpcore2
import httpx
import openai
import pytest
from conftest import KEY, URL, status

from tools.endpoint import DEFAULT_BASE_URL, Settings, make_client
from tools.errors import KimiError, explain, hide, mask, quote


def failure(http, client, response, path="/models", method="get"):
    """What `explain` makes of a request that ends like this."""
    how = "side_effect" if isinstance(response, Exception) else "return_value"
    http.route(method=method, url=f"{client.base_url}{path[1:]}").mock(**{how: response})
    with pytest.raises(openai.APIError) as raised:
        getattr(client, method)(path, cast_to=object)
    return explain(raised.value)


@pytest.mark.parametrize(
    ("response", "what", "todo"),
    [
        (status(400, "exceeded model token limit"), "sent an error (400", "Change what it names"),
        (status(400, "invalid temperature: only 1 is allowed"), "invalid temperature", "Change"),
        (status(400, "considered high risk", "content_filter"), "content filter refused", "Rephrase"),
        (status(401, "Invalid Authentication"), "did not accept the key (401", "MOONSHOT_API_KEY"),
        (status(403, "not open", "permission_denied_error"), "no access", "--model"),
        (status(404, "Not found the model x"), "Model not found (404", "MOONSHOT_MODEL"),
        (httpx.Response(404, json={"detail": "Not Found"}), "Nothing is served there", "/v1"),
        (httpx.Response(404, html="<html>nginx</html>"), "Nothing is served there", "base URL"),
        (status(429, "request reached max rpm", "rate_limit_reached_error"), "rate limit", "Tier 0"),
        (status(429, "Too many requests"), "rate limit", "3 requests a minute"),
        (status(429, "check your account balance", "exceeded_current_quota_error"),
         "no balance", "Top up"),
        (status(403, "check your account balance", "exceeded_current_quota_error"),
         "no balance", "Top up"),
        (status(403, "You exceeded your quota"), "no balance", "Top up"),
        (status(402, "Insufficient credit"), "no balance", "Top up"),
        (status(429, "Too many requests at the load balancer"), "rate limit", "Wait"),
        (status(400, {"x": "odd words"}), "odd words", "Change what it names"),
        (status(400, "No connected db.", "no_db_connection"), "did not accept the key", "MOONSHOT_API_KEY"),
        (httpx.Response(400, json={"error": {"message": "x", "code": "no_db_connection"}}),
         "did not accept the key (400", "MOONSHOT_API_KEY"),
        (status(500, "ImportError: 401 404 model Timeout"), "sent an error (500", "try again later"),
        (status(429, "overloaded", "engine_overloaded_error"), "sent an error (429", "try again later"),
        (status(500, "oops", "server_error"), 'sent an error (500 from engine.test/v1/models): "oops"',
         "try again later"),
        (httpx.Response(502, html="<!DOCTYPE html><title>Bad gateway</title>"), "(502", "try again later"),
        (status(418, "I am a teapot"), 'I am a teapot"', "Change what it names"),
    ],
)  # fmt: skip
def test_statuses(http, client, response, what, todo):
    text = failure(http, client, response)
    assert what in text.splitlines()[0] and todo in text.splitlines()[1]
    assert text.startswith("Error: ") and len(text.splitlines()) == 2
    assert "<" not in text and KEY not in text and "nginx" not in text


@pytest.mark.parametrize(
    ("url", "code", "membership"),
    [
        (DEFAULT_BASE_URL, 401, True), ("https://api.moonshot.cn/v1", 401, True), (URL, 401, True),
        ("https://api.kimi.com/coding/v1", 401, False), (DEFAULT_BASE_URL, 403, False),
    ],
)  # fmt: skip
def test_a_key_of_a_kimi_code_membership(http, url, code, membership):
    with make_client(Settings("sk-kimi-secret-0123456789", "", url)) as client:
        text = failure(http, client, status(code, "Invalid Authentication"))
    assert ("Kimi Code membership" in text) is membership
    assert ("https://api.kimi.com/coding/v1" in text) is membership
    assert ("https://platform.moonshot.ai" in text) is membership and "secret" not in text


def test_what_the_server_said_is_quoted(http, client):
    assert '"exactly these words"' in failure(http, client, status(400, "exactly\n these words"))
    assert len(failure(http, client, status(400, "x" * 5000))) < 500


@pytest.mark.parametrize("word", [KEY, KEY[:-3], f"key={KEY}.", "sk-somebody-elses-key", "sk-some***body"])
def test_no_key_is_repeated(http, client, word):
    text = failure(http, client, status(401, f"Incorrect API key provided: {word}"))
    assert "secret" not in text and "body" not in text and "sk-..." in text


@pytest.mark.parametrize(("end", "other"), [("ai", "cn"), ("cn", "ai")])
def test_the_other_platform(http, end, other):
    with make_client(Settings(KEY, "", f"https://api.moonshot.{end}/v1")) as client:
        text = failure(http, client, status(401, "Invalid Authentication"))
    assert text.splitlines()[-1] == f"MOONSHOT_BASE_URL=https://api.moonshot.{other}/v1"
    assert {call.request.url.host for call in http.calls} == {f"api.moonshot.{end}"}


def test_elsewhere_no_platform_is_named(http, client):
    assert "moonshot." not in failure(http, client, status(401, "Invalid Authentication"))


@pytest.mark.parametrize(
    ("error", "what", "todo"),
    [
        (httpcore2.ConnectError("[Errno 111] Connection refused"), "refused", "base URL"),
        (httpcore2.ConnectError("[Errno -2] Name or service not known"), "not known", "network"),
        *[(httpcore2.ConnectError(f"[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: {why} (_ssl.c:1006)"),
           f'certificate of engine.test was refused: "certificate verify failed: {why}".', "SSL_CERT_FILE")
          for why in ("self-signed certificate", "certificate has expired", "Hostname mismatch")],
        (httpcore2.ReadTimeout("x"), "No reply from engine.test in time", "network"),
        (httpcore2.ConnectTimeout("x"), "in time", "network"),
        (httpcore2.RemoteProtocolError("Server disconnected"), "disconnected", "network"),
        (httpcore2.ProxyError("407 Proxy Authentication Required"), "407", "proxy"),
    ],
)  # fmt: skip
def test_connections(http, client, error, what, todo):
    text = failure(http, client, error)
    assert what in text.splitlines()[0] and todo in text.splitlines()[1]
    assert len(text.splitlines()) == 2 and KEY not in text


@pytest.mark.parametrize(
    ("path", "todo"), [("/models", "base URL"), ("/chat/completions", "--mode streaming")]
)
def test_a_read_timeout(http, client, path, todo):
    text = failure(http, client, httpcore2.ReadTimeout("timed out"), path, "post")
    assert "No reply from engine.test in time" in text and todo in text.splitlines()[1]


@pytest.mark.parametrize(
    ("variable", "value", "todo"),
    [
        ("ALL_PROXY", "socks5://127.0.0.1:9", "pip install socksio"),
        ("ALL_PROXY", "socks://127.0.0.1:9", "pip install socksio"),
        ("HTTPS_PROXY", "http://x:port", "HTTPS_PROXY"), ("HTTPS_PROXY", "ftp://x", "HTTPS_PROXY"),
    ],
)
def test_a_proxy_that_cannot_be_used(monkeypatch, variable, value, todo):
    monkeypatch.setenv(variable, value)
    with pytest.raises(Exception) as raised:
        make_client(Settings(KEY, "", URL))
    text = explain(raised.value)
    assert todo in text and variable in text and "requirements.txt" not in text


def test_manual_mode_on_the_hosted_platform(http, client):
    text = failure(http, client, status(404, "url not found"), "/completions", "post")
    assert "manual mode is for engines that you host yourself" in text
    missing = status(404, "The model `x` does not exist.")
    assert "Model not found" in failure(http, client, missing, "/completions", "post")
    assert "Model not found" in failure(http, client, missing, "/chat/completions", "post")
    text = failure(http, client, status(404, "url not found"), "/messages", "post")
    assert "no route /messages" in text and "--mode" in text
    with make_client(Settings(KEY, "", DEFAULT_BASE_URL)) as hosted:
        text = failure(http, hosted, status(404, "no such model or url"), "/completions", "post")
    assert "manual mode" in text


def test_anything_else_is_a_sentence_too():
    for error in (RuntimeError("x"), KeyError("y"), UnicodeEncodeError("utf-8", "\ud800", 0, 1, "z"),
                  ssl.SSLError("w"), openai.OpenAIError("v"), Exception()):
        text = explain(error)
        assert text.startswith(f"Error: Unexpected {type(error).__name__}")
        assert len(text.splitlines()) == 2 and "--offline" in text  # fmt: skip


def test_our_own_errors_are_their_text(client):
    assert explain(KimiError("Error: This.\nDo that.")) == "Error: This.\nDo that."
    assert explain(KimiError(f"with {KEY}")) == "with sk-..."


def test_a_bug_is_not_blamed_on_the_base_url():
    for error in (AttributeError("x"), ValueError("404 model"), TypeError("Timeout")):
        assert "base URL" not in explain(error)


@pytest.mark.parametrize("padding", [0, 280, 290, 299, 300])
@pytest.mark.parametrize("shown", ["another-form-of-key", "another-f***key", "form-of-key", "anot\x1bher-form"])
def test_a_key_and_its_parts_are_masked_before_the_words_are_cut(padding, shown):
    hide("another-form-of-key")
    text = quote("x" * padding + shown + "y" * 50)
    assert "anoth" not in text and "form-" not in text


def test_mask():
    assert mask("none of them, sk-learn, sk-...") == "none of them, sk-learn, sk-..."
    hide("none")  # a word that engines without keys are given
    assert mask("none of them, sk-0123456789abcdef!") == "none of them, sk-...!"


