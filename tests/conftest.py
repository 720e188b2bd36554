"""Shared fixtures: no settings from outside, no network but loopback, no waiting."""

import functools
import json
import os
import shutil
import socket
import time
from itertools import zip_longest
from pathlib import Path

import httpcore2
import httpx
import pytest
import respx
from respx.mocks import HTTPCoreMocker

from tools import endpoint

# The SDK sends through httpcore2, which respx does not know yet.
HTTPCoreMocker.add_targets(
    "httpcore2._sync.connection.HTTPConnection",
    "httpcore2._sync.connection_pool.ConnectionPool",
    "httpcore2._sync.http_proxy.HTTPProxy",
)

# Every client loads the system's certificates: 25 ms, several hundred times.
httpcore2.default_ssl_context = functools.cache(httpcore2.default_ssl_context)

ROOT = Path(__file__).parents[1]
KEY = "sk-secret-0123456789-planted-cdef"
URL = "https://engine.test/v1"
CHAT = f"{URL}/chat/completions"
MODEL = "moonshotai/Kimi-K2-Instruct"
USAGE = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
_connect = socket.socket.connect
real_sleep = time.sleep


def _connect_to_loopback(self, address):
    host = address[0] if isinstance(address, tuple) else address
    assert str(host).startswith(("127.", "0.0.0.0")), f"a test wants to connect to {address}"
    return _connect(self, address)


@pytest.fixture(scope="session")
def _env_file(tmp_path_factory):
    return tmp_path_factory.mktemp("settings") / ".env"


@pytest.fixture(autouse=True)
def _alone(monkeypatch, _env_file):
    _env_file.unlink(missing_ok=True)
    for name in list(os.environ):
        if name.startswith(("MOONSHOT_", "OPENAI_", "SSL_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setattr(endpoint, "ENV_FILE", _env_file)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    monkeypatch.setattr(socket.socket, "connect", _connect_to_loopback)


@pytest.fixture
def http():
    """Intercepted HTTP under the SDK's real client; requests to this machine pass through."""
    with respx.mock(assert_all_called=False) as router:
        for host in ("127.0.0.1", "0.0.0.0"):
            router.route(host=host).pass_through()
        yield router


@pytest.fixture
def client():
    with endpoint.make_client(endpoint.Settings(KEY, URL)) as made:
        yield made


@pytest.fixture(scope="session")
def project(tmp_path_factory):
    """A copy of the project, in another folder and without a .env."""
    copy = tmp_path_factory.mktemp("another place") / "copy"
    ignored = shutil.ignore_patterns(".git", ".venv", ".env", "__pycache__", ".pytest_cache")
    shutil.copytree(ROOT, copy, ignore=ignored)
    return copy


def call(name="calculate", arguments='{"expression": "6 * 7"}', call_id="functions.calculate:0"):
    function = {"name": name, "arguments": arguments}
    return {"id": call_id, "type": "function", "function": function}


def said(content="It is 42.", reason="stop", usage=USAGE, **message):
    """A chat completion."""
    message = {"role": "assistant", "content": content, **message}
    choices = [{"index": 0, "message": message, "finish_reason": reason}]
    return httpx.Response(200, json={"choices": choices, "usage": usage})


def called(*calls, content=None, reason="tool_calls", **message):
    return said(content, reason, tool_calls=list(calls) or [call()], **message)


def status(code, message="words of the server", kind="x", **headers):
    """An error of the endpoint, to be tried again soon."""
    error = {"error": {"message": message, "type": kind}}
    return httpx.Response(code, json=error, headers={"retry-after-ms": "1", **headers})


SUM = call()
WEATHER = call("get_weather", '{"city": "Paris"}', "w")
S, W = SUM["function"]["arguments"], WEATHER["function"]["arguments"]
PAGE = httpx.Response(200, html="<html><body>Please log in</body></html>")


def marked(*calls):
    """Calls as Kimi-K2 writes them."""
    written = "".join(
        f"<|tool_call_begin|>{each['id']}<|tool_call_argument_begin|>"
        f"{each['function']['arguments']}<|tool_call_end|>"
        for each in calls
    )
    return f"<|tool_calls_section_begin|>{written}<|tool_calls_section_end|>"


def delta(reason=None, **fields):
    return {"choices": [{"index": 0, "delta": fields, "finish_reason": reason}]}


def sse(*events, done=True, headers=None):
    """A stream of server-sent events; strings are sent as they are."""
    events = [*events, "data: [DONE]\n\n"] if done else events
    text = "".join(e if isinstance(e, str) else f"data: {json.dumps(e)}\n\n" for e in events)
    headers = headers or {"content-type": "text/event-stream"}
    return httpx.Response(200, headers=headers, content=text.encode())


def streamed(content="It is 42."):
    return sse(delta(role="assistant", content=""), delta(content=content), delta("stop"))


def reply(mode, content, *calls, reason=None, usage=USAGE, **fields):
    """What the model says, in the form in which a mode gets it; texts are streamed by letters."""
    if mode == "manual":
        text = content + (marked(*calls) if calls else "")
        choice = {"index": 0, "text": text, "finish_reason": reason or "stop"}
        return httpx.Response(200, json={"choices": [choice], "usage": usage})
    if mode == "anthropic":
        blocks = [{"type": "text", "text": content}] if content else []
        for function in [each["function"] for each in calls]:
            arguments = json.loads(function["arguments"])
            use = {"type": "tool_use", "id": "x", "name": function["name"], "input": arguments}
            blocks.append(use)
        reason = reason or ("tool_use" if calls else "end_turn")
        counts = usage["prompt_tokens"], usage["completion_tokens"]
        usage = dict(zip(("input_tokens", "output_tokens"), counts))
        return httpx.Response(200, json={"content": blocks, "stop_reason": reason, "usage": usage})
    reason = reason or ("tool_calls" if calls else "stop")
    if mode == "non-streaming":
        fields |= {"tool_calls": list(calls)} if calls else {}
        return said(content, reason, usage, **fields)
    parts = zip_longest(*[text or [""] for text in fields.values()])
    deltas = [delta(**dict(zip(fields, each))) for each in parts]
    deltas += [delta(content=letter) for letter in content]
    deltas += [delta(tool_calls=[{**each, "index": n}]) for n, each in enumerate(calls)]
    return sse(delta(role="assistant", content=""), *deltas, {**delta(reason), "usage": usage})


def route(http, mode, *responses):
    """Let a mode's route answer with these responses, one after the other."""
    path = {"manual": "completions", "anthropic": "messages"}.get(mode, "chat/completions")
    return http.post(f"{URL}/{path}").mock(side_effect=list(responses))


def sent(route, n=-1):
    """The JSON body of the n-th request to a route."""
    return json.loads(route.calls[n].request.content)


def everything_sent(http):
    return [json.loads(each.request.content) for each in http.calls if each.request.content]
