"""Settings, the client, the choice of the model."""

import os
from itertools import product

import httpcore2
import pytest
from conftest import KEY, MODEL, PAGE, URL, status
from httpx import Response

from tools import endpoint
from tools.endpoint import Settings, choose_model, connect, list_models, make_client, read_settings
from tools.errors import KimiError, SettingError
from tools.offline import serve


def write_env(text, encoding="utf-8"):
    endpoint.ENV_FILE.write_text(text, encoding)


@pytest.mark.parametrize("value", ["", "  ", "''", "your_api_key_here", ' "sk-..." '])
def test_no_key(monkeypatch, value):
    monkeypatch.setenv("MOONSHOT_API_KEY", value)
    with pytest.raises(SettingError) as raised:
        connect()
    assert str(raised.value).startswith("Please set your MOONSHOT_API_KEY environment variable\n")
    for hint in ("moonshot.ai", "1 dollar", "moonshot.cn", "export ", "$env:", ".env", "--offline"):
        assert hint in str(raised.value)


def test_flag_then_environment_then_file_then_default(monkeypatch):
    write_env("MOONSHOT_API_KEY=file\nMOONSHOT_BASE_URL=https://file/v1\nMOONSHOT_MODEL=f")
    assert read_settings() == ("file", "https://file/v1", "f", ".env", True)
    for name, value in {"API_KEY": KEY, "BASE_URL": "https://there/v1", "MODEL": "e"}.items():
        monkeypatch.setenv(f"MOONSHOT_{name}", value)
    assert read_settings() == (KEY, "https://there/v1", "e", "the environment", True)
    assert read_settings(f" '{URL}'", '"m"') == (KEY, URL, "m", "the environment", True)
    with pytest.raises(SettingError, match="--model is empty"):
        read_settings(model=" ")
    write_env("")
    for name in ("MOONSHOT_BASE_URL", "MOONSHOT_MODEL"):
        monkeypatch.setenv(name, " ")
    assert read_settings() == (KEY, endpoint.DEFAULT_BASE_URL, MODEL, "the environment", False)


@pytest.mark.parametrize("written", [KEY, f'"{KEY}"', f" '{KEY}'\n", f"{KEY}\r\n"])
def test_keys_as_shells_and_windows_write_them(monkeypatch, written):
    write_env(f"\ufeffMOONSHOT_API_KEY={KEY}")
    assert read_settings().api_key == KEY
    monkeypatch.setenv("MOONSHOT_API_KEY", written)
    assert read_settings().api_key == KEY
    assert "secret" not in f"{read_settings()} {[read_settings()]!r}"  # printed settings
    monkeypatch.delenv("MOONSHOT_API_KEY")
    write_env(f"MOONSHOT_API_KEY={KEY}", "utf-16")
    with pytest.raises(SettingError, match="UTF-8"):
        read_settings()


NO_KEY = ["sk-secret\u200b123", "sk secret 1", "sk-sécret", "“sk-secret”"]
NO_ADDRESS = ["", " ", "localhost:8000/v1", "api.moonshot.ai/v1", "ftp://x/v1", "http://", KEY]
NO_ADDRESS += ["http://x:port/v1", "http://x:99999/v1", "https://a b/v1", "https://[::1/v1"]
# HTTPX would send a user name as basic authentication, in place of the key.
NO_ADDRESS += [f"https://user:{KEY}", "https://user@x.test/v1", "https://user:secret@x.test/v1"]


@pytest.mark.parametrize(("key", "url"), [*product(NO_KEY, [URL]), *product(["key"], NO_ADDRESS)])
def test_a_key_and_an_address_that_are_none(monkeypatch, key, url):
    monkeypatch.setenv("MOONSHOT_API_KEY", key)
    what = "a character that no key has" if url == URL else "--base-url is not.*\n.*https://"
    with pytest.raises(SettingError, match=what) as raised:
        read_settings(url)
    assert "cret" not in str(raised.value)  # the address, too, could be the key


NOT_SAFE = "http://engine.test/v1 HTTP://10.0.0.1:80/v1 http://127.0.0.1.test/v1 http://a/localhost"
SAFE = f"http://localhost:80/v1 http://127.0.0.1/v1 {URL} http://[::1]:80/v1 http://0.0.0.0:80/v1"


@pytest.mark.parametrize("url", [*NOT_SAFE.split(), *SAFE.split()])
def test_plain_http_gets_a_warning(monkeypatch, capsys, url):
    monkeypatch.setenv("MOONSHOT_API_KEY", KEY)
    assert read_settings(url).base_url == url
    assert ("unencrypted" in capsys.readouterr().err) is (url in NOT_SAFE.split())


def test_a_client_and_a_model_for_a_program(http, capsys, monkeypatch):
    monkeypatch.setenv("OPENAI_ORG_ID", "x")  # the scripts drop it; for a program, it stays
    write_env(f"MOONSHOT_API_KEY={KEY}\nMOONSHOT_BASE_URL={URL}")
    http.get(f"{URL}/models").respond(json={"data": [{"id": "kimi-k2.6"}]})
    client, model = connect()
    with client:
        assert (client.api_key, str(client.base_url), model) == (KEY, f"{URL}/", "kimi-k2.6")
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.count("\n") == 1 and "MOONSHOT_MODEL" in shown.err
    assert os.environ["OPENAI_ORG_ID"] == "x" and "MOONSHOT_API_KEY" not in os.environ


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_a_proxy_is_not_asked_for_this_machine(monkeypatch, host):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with serve() as url, make_client(Settings(KEY, url.replace("127.0.0.1", host))) as client:
        assert list_models(client)[0]["id"] == MODEL


ADDRESS = "HTTP_PROXY, HTTPS_PROXY, ALL_PROXY or NO_PROXY is not valid.*\n.*unset it"


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("SSL_CERT_FILE", "/a.pem", "SSL_CERT_FILE=/a.pem cannot be .*\n.*unset SSL_CERT_FILE"),
        ("SSL_CERT_FILE", __file__, "cannot be read .*\n.*unset SSL_CERT_FILE"),
        ("SSLKEYLOGFILE", "/a/log", "SSLKEYLOGFILE=/a/log cannot .*\n.*unset SSLKEYLOGFILE"),
        *[("ALL_PROXY", f"{socks}://x:9", "ALL_P.*\n.*socksio") for socks in ("socks", "socks5")],
        ("HTTPS_PROXY", "http://x:port", ADDRESS), ("HTTP_PROXY", "ftp://x", ADDRESS),
    ],
)  # fmt: skip
def test_a_variable_that_makes_the_client_fail(monkeypatch, variable, value, said):
    uncached = httpcore2.default_ssl_context.__wrapped__  # see conftest.py
    monkeypatch.setattr(httpcore2, "default_ssl_context", uncached)
    monkeypatch.setenv("SSL_CERT_DIR", ".")  # only with this does httpx2 look at SSLKEYLOGFILE
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingError, match=said):
        make_client(Settings(KEY, URL))


def dated(*names):
    return [{"id": name, "created": created} for created, name in enumerate(names)]


TODAY = ["kimi-k3", "kimi-k2.7-code", "kimi-k2.7-code-highspeed", "kimi-k2.6"]
TOMORROW = ["kimi-k3.1-pro-highspeed", "kimi-k3.1-pro", "kimi-k3"]


@pytest.mark.parametrize(
    ("served", "expected"),
    [
        (["x"], "x"), ([MODEL, "a"], MODEL), (["kimi-k2", "KIMI-K2-INSTRUCT"], "KIMI-K2-INSTRUCT"),
        *[(served, "kimi-k2.6") for served in (TODAY, TODAY[::-1], dated(*TODAY))],
        *[(served, "kimi-k3") for served in (TOMORROW, TOMORROW[::-1], dated(*TOMORROW[::-1]))],
        (dated("kimi-k2.6", "kimi-k2.5", "x"), "kimi-k2.5"),  # of the shortest, the newest
        (["kimi-k2.5", "kimi-k2.6", "kimi-k2.4"], "kimi-k2.6"),  # without a date, the highest
        (["a-long-owner/kimi-k2.6", "x/kimi-k2.6:free"], "a-long-owner/kimi-k2.6"),
        (dated("moonshot-v1", "kimi-latest", "Kimi-K3", "moonshot-v2"), "Kimi-K3"),
        ([{"id": "kimi-k2-a", "created": None}, {"id": "kimi-k2-b", "created": "5"}], "kimi-k2-b"),
    ],
)  # fmt: skip
def test_the_closest_model(http, client, served, expected):
    data = [each if isinstance(each, dict) else {"id": each} for each in served]
    http.get(f"{URL}/models").respond(json={"data": data})
    model, remark = choose_model(Settings(KEY, URL), list_models(client))
    how = f"({MODEL} is not served here; --model or MOONSHOT_MODEL chooses another)"
    assert (model, remark) == (expected, how if expected != MODEL else "")


@pytest.mark.parametrize(
    ("served", "model", "named"),
    [("kimi-k2.5", "KIMI-K2.5", True), ("kimi-k2", MODEL, True), ("a, b", MODEL, False)],
)
def test_a_model_that_is_named_or_not_close_is_not_replaced(served, model, named):
    said = f"^Error: Model not found: {model} is not served here. Served: {served}.\n.*--model"
    with pytest.raises(KimiError, match=said):
        choose_model(Settings(KEY, URL, model, named=named), dated(*served.split(", ")[::-1]))


@pytest.mark.parametrize(
    "response",
    [
        PAGE, Response(200, text="ok"), Response(200, json={"data": None}), Response(200, json=[]),
        Response(200, content=b"{", headers={"content-type": "application/json"}),
        Response(200, json={"error": "broken"}), *map(status, (400, 404, 405, 500, 501)),
        Response(200, json=[{"id": "x"}, {"name": "b"}, {"id": None}, "c", None]),
    ],
)  # fmt: skip
def test_without_a_list_of_models_or_with_a_bare_one(http, client, response):
    http.get(f"{URL}/models").mock(return_value=response)
    served = list_models(client)
    assert served == ([{"id": "x"}] if '"id"' in response.text else None)
    assert choose_model(Settings(KEY, URL, "x", named=True), served) == ("x", "")
    assert served or choose_model(Settings(KEY, URL), served) == (MODEL, "")
