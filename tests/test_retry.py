"""Retries: how often, how long, and what is said about each. No test waits: the clock is a fake."""

import time
from email.utils import formatdate
from types import SimpleNamespace

import httpcore2
import httpx
import openai
import pytest
from conftest import CHAT, KEY, MODEL, URL, said, status

from tools.endpoint import Settings, list_models, make_client

TODAY = 1_795_600_000.0


@pytest.fixture
def clock(monkeypatch):
    """A clock that only `sleep` and requests move on."""
    def sleep(seconds):
        clock.slept.append(seconds)
        clock.now += seconds

    clock = SimpleNamespace(now=0.0, slept=[], sleep=sleep)
    monkeypatch.setattr(time, "sleep", clock.sleep)
    monkeypatch.setattr(time, "monotonic", lambda: clock.now)
    monkeypatch.setattr(time, "time", lambda: TODAY)
    return clock


def ask(client):
    return client.chat.completions.create(model=MODEL, messages=[])


def limited(**headers):
    return httpx.Response(429, json={"error": "request reached max rpm"}, headers=headers)


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ({}, 22), ({"retry-after": "7"}, 7), ({"retry-after": "1.5"}, 1.5),
        ({"retry-after": "90"}, 90), ({"retry-after": formatdate(TODAY + 9, usegmt=True)}, 9),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5), ({"retry-after-ms": "60000"}, 60),
        *[({"retry-after": odd}, 22) for odd in ("0", "-1", "nan", "soon", "1.2.3", "inf")],
        ({"retry-after": formatdate(TODAY - 9, usegmt=True)}, 22), ({"retry-after-ms": "x"}, 22),
    ],
)  # fmt: skip
def test_a_rate_limit_is_waited_for(http, client, clock, capsys, headers, wait):
    http.post(CHAT).mock(side_effect=[limited(**headers), said()])
    assert ask(client).choices and clock.slept == [wait]
    notice = capsys.readouterr().err
    assert notice == f"engine.test answered 429 (rate limit): waiting {wait:.0f} s; retry 1 of 4.\n"


def test_a_rate_limit_that_does_not_end(http, client, clock, capsys):
    route = http.post(CHAT).mock(return_value=limited())
    with pytest.raises(openai.RateLimitError):
        ask(client)
    assert route.call_count == 5 and sum(clock.slept) > 60  # a minute and a little more
    assert capsys.readouterr().err.count("\n") == 4  # the last attempt is followed by no retry


@pytest.mark.parametrize(
    "response",
    [
        *[status(code, "x", "exceeded_current_quota_error") for code in (429, 403)],
        *[status(429, words) for words in ("TPD limit", "9 daily", "refreshed in the next cycle")],
        *[httpx.Response(code, headers={"retry-after": "300"}) for code in (429, 503)],
        *[status(code, **{"x-should-retry": "false"}) for code in (429, 500)],
        *[status(code) for code in (400, 401, 404, 501)],
    ],
)
def test_what_another_try_cannot_help(http, client, clock, capsys, response):
    route = http.post(CHAT).mock(return_value=response)
    with pytest.raises(openai.APIStatusError):
        ask(client)
    assert route.call_count == 1 and clock.slept == [] and capsys.readouterr().err == ""


@pytest.mark.parametrize("code", [408, 409, 500, 502, 529])
def test_other_retries_are_announced(http, client, clock, capsys, code):
    http.post(CHAT).mock(side_effect=[httpx.Response(code), httpx.Response(code), said()])
    assert ask(client).choices and clock.slept == [0.5, 1]
    notices = [f"engine.test answered {code}; retry {n} of 4." for n in (1, 2)]
    assert capsys.readouterr().err.splitlines() == notices


def test_waits_and_failures_in_turn(http, clock):
    """A redirect is no retry and takes no key along; to wait for a limit is not to fail."""
    http.post(CHAT).respond(307, headers={"location": "https://elsewhere.test/"})
    overloaded, lost = limited(**{"retry-after": "5"}), httpcore2.RemoteProtocolError("x")
    elsewhere = http.post("https://elsewhere.test/")
    elsewhere.mock(side_effect=[limited(), overloaded, limited(), lost, said()])
    notices = []
    with make_client(Settings(KEY, URL), on_retry=notices.append) as client:
        assert ask(client).choices and "authorization" not in elsewhere.calls[0].request.headers
    answered = "engine.test answered 429 (rate limit): waiting"
    waits = [f"{answered} {s} s; retry {n} of 4." for n, s in ((1, 22), (2, 5), (3, 22))]
    assert notices == [*waits, "No connection to engine.test, or its reply was cut; retry 4 of 4."]


@pytest.mark.parametrize(
    ("error", "timeout", "ask", "calls"),
    [
        # A refused connection or an unknown host will hardly be there in a second.
        (httpcore2.ConnectError, "", ask, 2), (httpcore2.ConnectError, "", list_models, 2),
        (httpcore2.RemoteProtocolError, "", ask, 5), (httpcore2.ReadError, "", list_models, 5),
        (httpcore2.ConnectTimeout, "connect", ask, 4),
        (httpcore2.ReadTimeout, "read", list_models, 4), (httpcore2.ReadTimeout, "read", ask, 1),
    ],
)  # fmt: skip
def test_an_address_that_never_answers(http, client, clock, capsys, error, timeout, ask, calls):
    """It is reported within a minute; a reply is waited for up to ten minutes, but only once."""
    def answer(request):
        clock.now += request.extensions["timeout"].get(timeout, 0)
        raise error("x")

    http.route(host="engine.test").mock(side_effect=answer)
    with pytest.raises(openai.APIConnectionError):
        ask(client)
    assert len(http.calls) == calls and (clock.now < 60 if calls > 1 else clock.now == 600)
    assert capsys.readouterr().err.count("No connection to engine.test") == calls - 1


def test_a_body_that_breaks_off_is_a_retry_like_any_other(http, client, clock, capsys):
    def body(seconds):
        yield b"{"
        clock.now += seconds
        raise httpcore2.ReadTimeout("x")

    cut = [httpx.Response(200, content=body(seconds)) for seconds in (1, 600)]
    route = http.post(CHAT).mock(side_effect=cut)
    with pytest.raises(openai.APITimeoutError):
        ask(client)
    assert route.call_count == 2  # not again after ten minutes
    assert capsys.readouterr().err.startswith("No connection to engine.test, or its reply was cut;")


def test_an_error_whose_body_breaks_off_is_tried_again(http, client, clock, capsys):
    def body():
        yield b"{"
        raise httpcore2.ReadError("x")

    http.post(CHAT).mock(side_effect=[httpx.Response(503, content=body()), said()])
    with client.chat.completions.create(model=MODEL, messages=[], stream=True) as stream:
        assert stream.response.status_code == 200
    assert capsys.readouterr().err.count("; retry 1 of 4.") == 1
