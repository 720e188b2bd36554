"""Requests to `/v1/messages`, checked field by field against its rules, and replies from it."""

import json

import pytest
from conftest import MODEL, call

from tools import TOOLS
from tools.anthropic_format import request_temperature, to_message, to_request
from tools.errors import SettingError

A = call("calculate", '{"expression": "1"}', "a")
B = call("get_weather", '{"city": "Paris"}', "b")


def result(call_id, content='{"result": 1}'):
    return {"role": "tool", "tool_call_id": call_id, "name": "x", "content": content}


def assistant(*calls, content="", **more):
    return {"role": "assistant", "content": content, "tool_calls": list(calls), **more}


def user(content):
    return {"role": "user", "content": content}


def system(content):
    return {"role": "system", "content": content}


FIELDS = {"model", "max_tokens", "system", "messages", "tools", "tool_choice", "temperature"}
KEYS = {
    "text": {"text"}, "thinking": {"thinking"}, "tool_use": {"id", "name", "input"},
    "tool_result": {"tool_use_id", "content"},
}  # fmt: skip


def check_rules(body):
    """What a strict endpoint insists on."""
    assert set(body) <= FIELDS
    assert isinstance(body["model"], str) and isinstance(body["max_tokens"], int)
    assert isinstance(body.get("system", "x"), str) and body.get("system", "x")
    assert body["messages"], "no messages"
    for n, turn in enumerate(body["messages"]):
        assert set(turn) == {"role", "content"}
        assert turn["role"] == ("user", "assistant")[n % 2], "roles do not alternate"
        assert turn["content"], "an empty turn"
        before = body["messages"][n - 1]["content"] if n else []
        for block in turn["content"]:
            assert set(block) - {"type", "is_error"} == KEYS[block["type"]]
            assert "is_error" not in block or json.loads(block["content"])["error"]
            if block["type"] in ("text", "thinking"):
                assert block[block["type"]].strip(), "an empty block"
            if block["type"] == "tool_use":
                assert turn["role"] == "assistant" and isinstance(block["input"], dict)
        uses = [block["id"] for block in before if block["type"] == "tool_use"]
        results = [b["tool_use_id"] for b in turn["content"] if b["type"] == "tool_result"]
        assert results == uses, "results must follow their calls, all of them, in order"
        kinds = [block["type"] for block in turn["content"]]
        assert kinds == sorted(kinds, key=lambda kind: kind not in ("tool_result", "thinking"))
    json.dumps(body, allow_nan=False)


CONVERSATIONS = {
    "question": [user("Hi")],
    "system": [system("Be brief."), user("Hi")],
    "developer": [{"role": "developer", "content": "Be brief."}, user("Hi")],
    "two system messages": [system("One."), user("Hi"), system("Two.")],
    "call": [user("?"), assistant(A), result("a")],
    "text before the call": [user("?"), assistant(A, content="Let me see."), result("a")],
    "parallel": [user("?"), assistant(A, B), result("a"), result("b")],
    "a follow-up right after the results": [user("?"), assistant(A), result("a"), user("And?")],
    "two turns": [user("?"), assistant(A), result("a"), assistant(B), result("b"), user("!")],
    "users in a row": [user("a"), user("b"), assistant(content="c"), assistant(content="d")],
    "empty texts": [user("?"), assistant(content=""), user(" "), user("!")],
    "content is null": [user("?"), {"role": "assistant", "content": None, "tool_calls": [A]}, result("a")],
    "list content": [user([{"type": "text", "text": "a"}, {"type": "text", "text": ""}])],
    "thinking": [user("?"), assistant(A, content="x", reasoning_content="Hm."), result("a")],
    "no thought": [user("?"), assistant(A, reasoning_content=""), result("a")],
    "broken arguments": [user("?"), assistant(call(arguments="{oops", call_id="a")), result("a")],
    "listed arguments": [user("?"), assistant(call(arguments="[1]", call_id="a")), result("a")],
    "no arguments": [user("?"), assistant(call(arguments="", call_id="a")), result("a")],
    "a null error": [user("?"), assistant(A), result("a", '{"error": null}')],
    "empty result": [user("?"), assistant(A), result("a", "")],
}  # fmt: skip


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_every_request_keeps_the_rules(name):
    messages = json.loads(json.dumps(CONVERSATIONS[name]))
    body = to_request(messages, TOOLS, MODEL, 100)
    check_rules(body)
    assert messages == CONVERSATIONS[name]  # the caller's history is not rewritten


def test_a_request_word_for_word():
    error = '{"error": "no"}'
    messages = [
        system("One."), system("Two."), user("?"),
        assistant(A, B, content="Let me see.", reasoning_content="Hm."),
        result("a"), result("b", error), user("And?"),
    ]  # fmt: skip
    function = TOOLS[0]["function"]
    schema = {"description": function["description"], "input_schema": function["parameters"]}
    uses = [
        {"type": "thinking", "thinking": "Hm."},
        {"type": "text", "text": "Let me see."},
        {"type": "tool_use", "id": "a", "name": "calculate", "input": {"expression": "1"}},
        {"type": "tool_use", "id": "b", "name": "get_weather", "input": {"city": "Paris"}},
    ]
    results = [
        {"type": "tool_result", "tool_use_id": "a", "content": '{"result": 1}'},
        {"type": "tool_result", "tool_use_id": "b", "content": error, "is_error": True},
        {"type": "text", "text": "And?"},
    ]
    assert to_request(messages, TOOLS[:1], MODEL, 100, 0.3) == {
        "model": MODEL, "max_tokens": 100, "temperature": 0.5, "system": "One.\n\nTwo.",
        "tools": [{"name": "get_weather", **schema}], "tool_choice": {"type": "auto"},
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "?"}]},
            {"role": "assistant", "content": uses},
            {"role": "user", "content": results},
        ],
    }  # fmt: skip


def test_what_is_not_given_is_not_sent():
    body = to_request([user("?")], None)
    assert set(body) == {"model", "max_tokens", "messages"}
    assert body["max_tokens"] == 16_000
    body = to_request([user("?")], [{"function": {"name": "now"}}])
    now = {"name": "now", "description": "", "input_schema": {"type": "object"}}
    assert body["tools"] == [now]


def test_arguments_that_are_no_object():
    cases = {text: {"invalid_arguments": text} for text in ("{oops", "[1]", "null", '{"x": NaN}')}
    for text, expected in (cases | {"{}": {}, "": {}, " ": {}}).items():
        body = to_request([user("?"), assistant(call(arguments=text, call_id="a"))], None)
        assert body["messages"][1]["content"][0]["input"] == expected


@pytest.mark.parametrize(("real", "request_"), [(0, 0), (0.3, 0.5), (0.6, 1.0), (0.06, 0.1)])
def test_temperature_is_the_real_one(real, request_):
    assert request_temperature(real) == pytest.approx(request_)
    assert 0 <= request_temperature(real) <= 1.0
    assert to_request([user("?")], None, temperature=real)["temperature"] == pytest.approx(request_)


@pytest.mark.parametrize("real", [0.61, 1.0, -0.1, float("nan"), float("inf")])
def test_temperature_that_cannot_be_reached(real):
    with pytest.raises(SettingError, match="from 0 to 0.6"):
        request_temperature(real)


def test_to_message():
    blocks = [
        {"type": "thinking", "thinking": "H"},
        {"type": "thinking", "thinking": "m."},
        {"type": "text", "text": "Let me "},
        {"type": "redacted_thinking", "data": "x"},
        {"type": "text", "text": "see."},
        {"type": "tool_use", "id": "a", "name": "get_weather", "input": {"city": "Zürich"}},
        {"type": "tool_use", "id": "b", "name": "now", "input": {}},
        {"type": "server_tool_use", "id": "c"},
    ]
    assert to_message({"content": blocks}) == {
        "role": "assistant",
        "content": "Let me see.",
        "reasoning_content": "Hm.",
        "thinking_blocks": [blocks[0], blocks[1], blocks[3]],
        "tool_calls": [call("get_weather", '{"city": "Zürich"}', "a"), call("now", "{}", "b")],
    }


@pytest.mark.parametrize("content", [None, [], [{"type": "text"}], [{"type": "text", "text": None}]])
def test_to_message_of_odd_replies(content):
    assert to_message({"content": content}) == {"role": "assistant", "content": ""}
    assert to_message({}) == {"role": "assistant", "content": ""}


@pytest.mark.parametrize(
    ("given", "arguments"),
    [(None, "{}"), ("", "{}"), ('{"a": 1}', '{"a": 1}'), ([1], '{"invalid_arguments": [1]}')],
)
def test_input_that_is_no_object(given, arguments):
    use = {"type": "tool_use", "id": "a", "name": "get_weather", "input": given}
    calls = to_message({"content": [use]})["tool_calls"]
    assert calls == [call("get_weather", arguments, "a")]


def test_there_and_back():
    message = assistant(A, B, content="x", reasoning_content="Hm.")
    turn = to_request([user("?"), message], None)["messages"][1]
    thinking = [{"type": "thinking", "thinking": "Hm."}]
    assert to_message(turn) == {**message, "thinking_blocks": thinking}
