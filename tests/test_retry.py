"""Retries: how often, how long, and what is said about each. No test waits: the clock is a fake."""

import threading
import time

import httpcore2
import httpx
import openai
import pytest
from conftest import CHAT, MODEL, URL, said, status

from tools.endpoint import list_models, retry_hooks
from tools.errors import explain


class Clock:
    """A clock that only `sleep` and requests move on."""

    def __init__(self):
        self.now, self.slept = 0.0, []

    def sleep(self, seconds):
        self.slept.append(round(seconds, 3))
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(time, "sleep", clock.sleep)
    monkeypatch.setattr(time, "monotonic", lambda: clock.now)
    return clock


def ask(client):
    return client.chat.completions.create(model=MODEL, messages=[])


def limited(**headers):
    error = {"error": {"message": "request reached max rpm", "type": "rate_limit_reached_error"}}
    return httpx.Response(429, json=error, headers=headers)


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ({}, 22), ({"retry-after": "7"}, 7), ({"retry-after": "1.5"}, 1.5),
        ({"retry-after": "0"}, 22), ({"retry-after": "-1"}, 22), ({"retry-after": "nan"}, 22),
        ({"retry-after": "Sun, 22 Nov 2026 21:00:00 GMT"}, 22), ({"retry-after": "soon"}, 22),
        ({"retry-after": "90"}, 60),
    ],
)  # fmt: skip
def test_a_rate_limit_is_waited_for(http, client, clock, capsys, headers, wait):
    http.post(CHAT).mock(side_effect=[limited(**headers), said()])
    assert ask(client).choices
    assert clock.slept == [wait]
    notice = capsys.readouterr().err
    assert notice == f"engine.test answered 429 (rate limit): waiting {wait:.0f} s; retry 1 of 4.\n"


def test_a_connection_that_is_lost_after_a_rate_limit(http, client, clock, capsys):
    """The waits for the limit are no time without a reply."""
    lost = httpcore2.RemoteProtocolError("Server disconnected")
    http.post(CHAT).mock(side_effect=[limited(), limited(), limited(), lost, said()])
    assert ask(client).choices
    assert capsys.readouterr().err.endswith("No complete reply from engine.test; retry 4 of 4.\n")


def test_a_rate_limit_that_does_not_end(http, client, clock, capsys):
    route = http.post(CHAT).mock(return_value=limited())
    with pytest.raises(openai.RateLimitError):
        ask(client)
    assert route.call_count == 5 and sum(clock.slept) > 60  # a minute and a little more
    assert capsys.readouterr().err.count("\n") == 4  # the last attempt is followed by no retry


@pytest.mark.parametrize("code", [429, 403])
def test_an_account_without_balance_is_not_retried(http, client, clock, capsys, code):
    balance = status(code, "check your account balance", "exceeded_current_quota_error")
    route = http.post(CHAT).mock(return_value=balance)
    with pytest.raises(openai.APIStatusError) as raised:
        ask(client)
    assert route.call_count == 1 and clock.slept == [] and capsys.readouterr().err == ""
    assert "Top up" in explain(raised.value)


@pytest.mark.parametrize(
    ("code", "header", "value"),
    [(429, "retry-after", "300"), (503, "retry-after", "300"), (500, "x-should-retry", "false")],
)
def test_what_is_not_retried_is_not_announced(http, client, clock, capsys, code, header, value):
    route = http.post(CHAT).mock(return_value=httpx.Response(code, headers={header: value}))
    with pytest.raises(openai.APIStatusError):
        ask(client)
    assert route.call_count == 1 and clock.slept == [] and capsys.readouterr().err == ""


@pytest.mark.parametrize("code", [408, 409, 500, 502, 529])
def test_other_retries_are_announced(http, client, clock, capsys, code):
    http.post(CHAT).mock(side_effect=[status(code), status(code), said()])
    assert ask(client).choices
    notices = [f"engine.test answered {code}; retry {n} of 4." for n in (1, 2)]
    assert capsys.readouterr().err.splitlines() == notices


def test_a_redirect_is_no_retry(http, client, clock, capsys):
    there = httpx.Response(307, headers={"location": f"{URL}/there"})
    http.post(CHAT).mock(return_value=there)
    http.post(f"{URL}/there").mock(side_effect=[limited(), limited(), limited(), status(500), said()])
    assert ask(client).choices
    notices = capsys.readouterr().err.splitlines()
    assert [notice.split(" answered ")[1][:3] for notice in notices] == ["429"] * 3 + ["500"]


@pytest.mark.parametrize("error", [httpcore2.ReadTimeout, httpcore2.ConnectError])
def test_requests_without_a_reply(http, client, clock, capsys, error):
    http.post(CHAT).mock(side_effect=[error("x"), status(500), error("x"), said()])
    assert ask(client).choices
    assert capsys.readouterr().err.splitlines() == [
        "No complete reply from engine.test; retry 1 of 4.",
        "engine.test answered 500; retry 2 of 4.",
        "No complete reply from engine.test; retry 3 of 4.",
    ]


def test_a_wait_that_an_overloaded_server_asks_for_is_named(http, client, clock, capsys):
    http.post(CHAT).mock(side_effect=[httpx.Response(503, headers={"retry-after": "5"}), said()])
    assert ask(client).choices and clock.slept == [5]
    assert ": waiting 5 s; retry 1 of 4." in capsys.readouterr().err


class Broken(httpx.SyncByteStream):
    """A body that takes its time and breaks off."""

    def __init__(self, clock, seconds):
        self.clock, self.seconds = clock, seconds

    def __iter__(self):
        yield b"{"
        self.clock.now += self.seconds
        raise httpcore2.ReadTimeout("x")


def test_a_body_that_breaks_off_is_a_retry_like_any_other(http, client, clock, capsys):
    headers = {"content-type": "application/json"}
    broken = [httpx.Response(200, headers=headers, stream=Broken(clock, s)) for s in (1, 600)]
    route = http.post(CHAT).mock(side_effect=broken)
    with pytest.raises(openai.APITimeoutError):
        ask(client)
    assert route.call_count == 2  # not again after ten minutes
    assert capsys.readouterr().err == "No complete reply from engine.test; retry 1 of 4.\n"


def slow(clock, seconds):
    def answer(request):
        clock.now += seconds
        raise httpcore2.ReadTimeout("x")

    return answer


def test_a_reply_that_was_waited_for_is_not_asked_for_again(http, client, clock, capsys):
    """Ten minutes of thinking are paid for: no second time."""
    route = http.post(CHAT).mock(side_effect=slow(clock, 600))
    with pytest.raises(openai.APITimeoutError) as raised:
        ask(client)
    assert route.call_count == 1 and clock.now < 610
    assert "--mode streaming" in explain(raised.value)


def test_an_address_that_never_answers_is_reported_within_a_minute(http, client, clock, capsys):
    timeouts = []

    def answer(request):
        timeouts.append(request.extensions["timeout"])
        slow(clock, timeouts[-1]["read"])(request)

    http.get(f"{URL}/models").mock(side_effect=answer)
    with pytest.raises(openai.APITimeoutError) as raised:
        list_models(client)
    assert clock.now < 60 and len(timeouts) > 1 and timeouts[0]["connect"] <= 10
    assert capsys.readouterr().err.startswith("No complete reply from engine.test; retry 1")
    assert "base URL" in explain(raised.value)


def test_threads_do_not_mix_their_requests(capsys):
    """A request that waits in one thread is no reply that is missing in another."""
    (on_request,), (on_response,) = retry_hooks().values()
    request = httpx.Request("GET", URL)
    again = httpx.Request("GET", URL, headers={"x-stainless-retry-count": "1"})

    def fail_and_retry():
        on_request(request)
        on_response(httpx.Response(500, request=request))
        ready.set()
        waiting.wait(5)
        on_request(again)

    ready, waiting = threading.Event(), threading.Event()
    thread = threading.Thread(target=fail_and_retry)
    thread.start()
    ready.wait(5)
    on_request(request)  # of another thread, still without a reply
    waiting.set()
    thread.join()
    assert capsys.readouterr().err == "engine.test answered 500; retry 1 of 4.\n"
