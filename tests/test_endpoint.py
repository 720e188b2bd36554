"""Settings, the client, the choice of the model."""

import httpcore2
import httpx
import openai
import pytest
from conftest import KEY, MODEL, PAGE, URL, status

from tools import endpoint
from tools.endpoint import (
    DEFAULT_BASE_URL, DEFAULT_MODEL, Settings, choose_model, list_models, make_client,
    read_settings,
)  # fmt: skip
from tools.errors import KimiError, SettingError
from tools.offline import serve

MODELS = f"{URL}/models"


def write_env(text, encoding="utf-8"):
    endpoint.ENV_FILE.write_bytes(text.encode(encoding))


# --- settings ---------------------------------------------------------------------------------


def test_no_key(monkeypatch):
    for value in (None, "", "  ", "''", "your_api_key_here", ' "your_api_key_here" '):
        if value is not None:
            monkeypatch.setenv("MOONSHOT_API_KEY", value)
        with pytest.raises(SettingError) as raised:
            read_settings()
        text = str(raised.value)
        assert text.startswith("Please set your MOONSHOT_API_KEY environment variable\n")
        for hint in ("platform.moonshot.ai", "export MOONSHOT", "$env:MOONSHOT", ".env", "--offline"):
            assert hint in text


def test_flag_then_environment_then_file_then_default(monkeypatch):
    write_env(
        "MOONSHOT_API_KEY=from-the-file\nMOONSHOT_BASE_URL=https://file.test/v1\nMOONSHOT_MODEL=f"
    )
    assert read_settings() == Settings("from-the-file", ".env", "https://file.test/v1", "f", True)
    monkeypatch.setenv("MOONSHOT_API_KEY", KEY)
    monkeypatch.setenv("MOONSHOT_BASE_URL", "https://environment.test/v1")
    monkeypatch.setenv("MOONSHOT_MODEL", "e")
    in_environment = Settings(KEY, "the environment", "https://environment.test/v1", "e", True)
    assert read_settings() == in_environment
    assert read_settings("https://flag.test/v1", "m")[2:] == ("https://flag.test/v1", "m", True)
    assert read_settings(" 'https://flag.test/v1'", '"m"')[2:] == ("https://flag.test/v1", "m", True)
    with pytest.raises(SettingError, match="model from a flag is empty"):
        read_settings(model=" ")
    write_env("")
    for name in ("MOONSHOT_BASE_URL", "MOONSHOT_MODEL"):
        monkeypatch.setenv(name, " ")
    assert read_settings()[2:] == (DEFAULT_BASE_URL, DEFAULT_MODEL, False)


@pytest.mark.parametrize("written", [f"  {KEY} ", f'"{KEY}"', f" '{KEY}' ", f"{KEY}\n"])
def test_a_key_is_cleaned(monkeypatch, written):
    monkeypatch.setenv("MOONSHOT_API_KEY", written)
    assert read_settings().api_key == KEY


def test_a_file_as_windows_writes_it():
    write_env(f"\ufeffMOONSHOT_API_KEY={KEY}\r\n")
    assert read_settings().api_key == KEY
    write_env(f"MOONSHOT_API_KEY={KEY}", "utf-16")
    with pytest.raises(SettingError, match="UTF-8"):
        read_settings()


@pytest.mark.parametrize("key", ["sk-secret\u200b123", "sk secret 1", "sk-sécret", "“sk-secret”"])
def test_a_key_that_cannot_be_sent(monkeypatch, key):
    monkeypatch.setenv("MOONSHOT_API_KEY", key)
    with pytest.raises(SettingError, match="cannot be in a key") as raised:
        read_settings()
    assert "cret" not in str(raised.value)


@pytest.mark.parametrize(
    "url", ["", " ", "localhost:8000/v1", "api.moonshot.ai/v1", "ftp://x/v1", "http://", "https://[::1/v1",
            "http://x:port/v1", "https://a b/v1", KEY, f"https://user:{KEY}"]
)  # fmt: skip
def test_a_base_url_that_is_none(monkeypatch, url):
    monkeypatch.setenv("MOONSHOT_API_KEY", "another-key")
    with pytest.raises(SettingError, match="base URL from a flag.*\n.*https://") as raised:
        read_settings(url)
    assert "cret" not in str(raised.value)  # it could be the key


@pytest.mark.parametrize("user", ["user", "user:password", "user:p@ssword"])
def test_a_user_name_in_the_base_url_is_dropped(monkeypatch, http, user):
    """HTTPX would send it as basic authentication, in place of the key."""
    monkeypatch.setenv("MOONSHOT_API_KEY", KEY)
    settings = read_settings(f"https://{user}@engine.test/v1")
    assert settings.base_url == URL
    route = serve_models(http, MODEL)
    with make_client(settings) as client:
        list_models(client)
    assert route.calls[0].request.headers["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize(
    ("url", "warned"),
    [
        ("http://engine.test/v1", True), ("HTTP://10.0.0.1:8000/v1", True),
        ("http://127.0.0.1.evil.test/v1", True), ("http://evil.test/localhost", True),
        ("http://localhost:8000/v1", False), ("http://127.0.0.1/v1", False),
        ("http://[::1]:80/v1", False), ("http://0.0.0.0:8000/v1", False), ("https://engine.test/v1", False),
    ],
)  # fmt: skip
def test_plain_http_gets_a_warning(monkeypatch, capsys, url, warned):
    monkeypatch.setenv("MOONSHOT_API_KEY", KEY)
    assert read_settings(url).base_url == url
    assert ("unencrypted" in capsys.readouterr().err) is warned


def test_the_client():
    with make_client(Settings(KEY, "", URL)) as client:
        assert client.max_retries == 4
        assert client.timeout.read == 600 and client.timeout.connect == 10
        assert client.api_key == KEY and str(client.base_url) == f"{URL}/"


def test_a_proxy_is_not_asked_for_this_machine(monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with serve() as url:
        for address in (url, url.replace("127.0.0.1", "0.0.0.0")):
            with make_client(Settings(KEY, "", address)) as client:
                assert list_models(client)[0]["id"] == MODEL


@pytest.mark.parametrize("url", [URL, "https://localhost:8443/v1"])
@pytest.mark.parametrize("content", [None, "no certificate"])
def test_certificates_that_cannot_be_read(monkeypatch, tmp_path, content, url):
    uncached = httpcore2.default_ssl_context.__wrapped__  # see conftest.py
    monkeypatch.setattr(httpcore2, "default_ssl_context", uncached)
    file = tmp_path / "root.pem"
    if content:
        file.write_text(content)
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    with pytest.raises(SettingError, match=f"SSL_CERT_FILE={file} cannot be read") as raised:
        make_client(Settings(KEY, "", url))
    assert "unset SSL_CERT_FILE" in str(raised.value)


# --- the model ---------------------------------------------------------------------------------


def serve_models(http, *models):
    data = [m if isinstance(m, dict) else {"id": m, "object": "model"} for m in models]
    return http.get(MODELS).mock(return_value=httpx.Response(200, json={"data": data}))


def chosen(http, client, *models, named=None):
    serve_models(http, *models)
    settings = Settings(KEY, "", URL, named or DEFAULT_MODEL, bool(named))
    return choose_model(settings, list_models(client))


def dated(name, created):
    return {"id": name, "created": created}


@pytest.mark.parametrize(
    ("served", "expected"),
    [
        (["a", DEFAULT_MODEL], DEFAULT_MODEL),
        (["kimi-k2.5", "kimi-k2-instruct"], "kimi-k2-instruct"),
        (["other/KIMI-K2-INSTRUCT", "kimi-k3"], "other/KIMI-K2-INSTRUCT"),
        ([dated("kimi-k2.5", 1), dated("kimi-k2.6", 2), dated("kimi-k3", 3)], "kimi-k2.6"),
        ([dated("kimi-k2.6", 2), dated("kimi-k2.5", 1), dated("x", 9)], "kimi-k2.6"),
        ([dated("Kimi-K3", 3), dated("kimi-latest", 2), dated("moonshot-v1", 9)], "Kimi-K3"),
        ([{"id": "kimi-k2-a", "created": None}, {"id": "kimi-k2-b", "created": 5}], "kimi-k2-b"),
        (["whatever"], "whatever"),
    ],
)
def test_the_closest_model(http, client, served, expected):
    model, remark = chosen(http, client, *served)
    assert model == expected
    assert bool(remark) is (expected != DEFAULT_MODEL)
    if remark:
        assert "--model" in remark and "MOONSHOT_MODEL" in remark and "\n" not in remark


def test_a_named_model_is_used_as_named(http, client):
    assert chosen(http, client, "kimi-k2.5", "x", named="x") == ("x", "")
    for named in ("y", "KIMI-K2.5", DEFAULT_MODEL):
        with pytest.raises(KimiError) as raised:
            chosen(http, client, "kimi-k2.5", "x", named=named)
        text = str(raised.value)
        assert text.startswith("Error: Model not found")
        assert "kimi-k2.5, x" in text and "--model" in text and named in text


def test_no_model_that_is_close(http, client):
    with pytest.raises(KimiError, match="Error: Model not found.*a, b"):
        chosen(http, client, "a", "b")


@pytest.mark.parametrize(
    "response",
    [
        PAGE, httpx.Response(200, text="ok"), httpx.Response(200, json=[]),
        httpx.Response(200, content=b"{", headers={"content-type": "application/json"}),
        httpx.Response(200, json={"data": None}), httpx.Response(200, json={"error": "out of order"}),
        *[status(code) for code in (400, 404, 405, 500, 501)],
    ],
)  # fmt: skip
def test_a_list_that_is_none(http, client, response):
    http.get(MODELS).mock(return_value=response)
    served = list_models(client)
    assert served is None
    assert choose_model(Settings(KEY, "", URL), served) == (DEFAULT_MODEL, "")
    assert choose_model(Settings(KEY, "", URL, "x", True), served) == ("x", "")


@pytest.mark.parametrize("code", [401, 403, 429])
def test_a_list_that_is_refused(http, client, code):
    http.get(MODELS).mock(return_value=status(code))
    with pytest.raises(openai.APIStatusError):
        list_models(client)


def test_a_bare_list_with_odd_entries(http, client):
    data = [{"id": "a"}, {"name": "b"}, {"id": None}, "c", None]
    http.get(MODELS).mock(return_value=httpx.Response(200, json=data))
    assert list_models(client) == [{"id": "a"}]
