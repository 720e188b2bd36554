"""Requests to `/v1/messages`, checked field by field against its rules, and replies from it."""

import json

import pytest
from conftest import MODEL, call

from tools import TOOLS
from tools.anthropic_format import request_temperature, to_message, to_request
from tools.errors import SettingError

A = call("calculate", '{"expression": "1"}', "a")
B = call("get_weather", '{"city": "Paris"}', "b")
USER = {"role": "user", "content": "?"}
BRIEF = {"role": "system", "content": "Be brief."}
THOUGHT = {"type": "thinking", "thinking": "Hm.", "signature": "s=="}


def result(call_id, content='{"result": 1}'):
    return {"role": "tool", "tool_call_id": call_id, "name": "x", "content": content}


def assistant(*calls, content="", **more):
    return {"role": "assistant", "content": content, "tool_calls": list(calls), **more}


KEYS = {
    "text": {"text"}, "thinking": {"thinking"}, "tool_use": {"id", "name", "input"},
    "tool_result": {"tool_use_id", "content"}, "redacted_thinking": {"data"},
}  # fmt: skip


def check_rules(body):
    """What a strict endpoint insists on."""
    assert set(body) <= {"model", "max_tokens", "system", "messages", "tools", "tool_choice"}
    assert isinstance(body["model"], str) and isinstance(body["max_tokens"], int)
    assert isinstance(body.get("system", "x"), str) and body.get("system", "x")
    assert body["messages"], "no messages"
    for n, turn in enumerate(body["messages"]):
        assert set(turn) == {"role", "content"} and turn["content"], "an empty turn"
        assert turn["role"] == ("user", "assistant")[n % 2], "roles do not alternate"
        before = body["messages"][n - 1]["content"] if n else []
        for block in turn["content"]:
            assert set(block) - {"type", "is_error", "signature"} == KEYS[block["type"]]
            assert "is_error" not in block or json.loads(block["content"])["error"]
            assert block.get("text", "x").strip(), "an empty text"
            assert block.get("thinking", "").strip() or block["type"] != "thinking"
            if block["type"] == "tool_use":
                assert turn["role"] == "assistant" and isinstance(block["input"], dict)
        uses = [block["id"] for block in before if block["type"] == "tool_use"]
        results = [b["tool_use_id"] for b in turn["content"] if b["type"] == "tool_result"]
        assert results == uses, "results must follow their calls, all of them"
        kinds = [block["type"] in ("tool_result", "thinking") for block in turn["content"]]
        assert kinds == sorted(kinds, reverse=True), "results and thinking come first"
    json.dumps(body, allow_nan=False)


AFTER_A = [result("a"), USER]
CONVERSATIONS = {
    "question": [USER],
    "system": [BRIEF, USER], "developer": [{**BRIEF, "role": "developer"}, USER],
    "two system messages": [BRIEF, USER, BRIEF], "empty system": [{**BRIEF, "content": " "}, USER],
    "call": [USER, assistant(A, content="Let me see."), result("a")],
    "parallel": [USER, assistant(A, B), result("a"), result("b")],
    "two turns": [USER, assistant(A), result("a"), assistant(B), result("b"), USER],
    "users in a row": [USER, USER, assistant(content="c"), assistant(content="d")],
    "empty texts": [USER, assistant(content=""), {**USER, "content": " "}, USER],
    "content is null": [USER, assistant(A, content=None), *AFTER_A],
    "list content": [{**USER, "content": [{"type": "text", "text": "a"}, {"type": "text"}]}],
    "thinking": [USER, assistant(A, content="x", reasoning_content="Hm."), *AFTER_A],
    "blocks of thinking": [USER, assistant(A, thinking_blocks=[THOUGHT]), *AFTER_A],
    "no thought": [USER, assistant(A, reasoning_content=""), *AFTER_A],
    "only a space": [USER, assistant(A, reasoning_content=" "), *AFTER_A],
    "broken arguments": [USER, assistant(call(arguments="{oops", call_id="a")), *AFTER_A],
    "a null error": [USER, assistant(A), result("a", '{"error": null}')],
    "empty result": [USER, assistant(A), result("a", "")],
}  # fmt: skip


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_every_request_keeps_the_rules(name):
    messages = json.loads(json.dumps(CONVERSATIONS[name]))
    check_rules(to_request(messages, TOOLS, MODEL, 100))
    assert messages == CONVERSATIONS[name]  # the caller's history is not rewritten


def test_a_request_word_for_word():
    error, asked = '{"error": "no"}', assistant(A, B, content="See.", reasoning_content="Hm.")
    messages = [BRIEF, BRIEF, USER, asked, result("a"), result("b", error), USER]
    tools = [TOOLS[0], {"function": {"name": "now"}}, {"type": "web_search", "name": "search"}]
    function = TOOLS[0]["function"]
    schema = {"description": function["description"], "input_schema": function["parameters"]}
    question = {"type": "text", "text": "?"}
    uses = [
        {"type": "thinking", "thinking": "Hm."}, {"type": "text", "text": "See."},
        {"type": "tool_use", "id": "a", "name": "calculate", "input": {"expression": "1"}},
        {"type": "tool_use", "id": "b", "name": "get_weather", "input": {"city": "Paris"}},
    ]  # fmt: skip
    results = [
        {"type": "tool_result", "tool_use_id": "a", "content": '{"result": 1}'},
        {"type": "tool_result", "tool_use_id": "b", "content": error, "is_error": True},
    ]
    now = {"name": "now", "description": "", "input_schema": {"type": "object"}}
    assert to_request(messages, tools, MODEL, 100, 0.3) == {
        "model": MODEL, "max_tokens": 100, "temperature": 0.5, "system": "Be brief.\n\nBe brief.",
        "tools": [{"name": "get_weather", **schema}, now, tools[2]],
        "tool_choice": {"type": "auto"},
        "messages": [
            {"role": "user", "content": [question]}, {"role": "assistant", "content": uses},
            {"role": "user", "content": [*results, question]},
        ],
    }  # fmt: skip
    body = to_request([USER], None)
    assert set(body) == {"model", "max_tokens", "messages"} and body["max_tokens"] == 16_000


@pytest.mark.parametrize(("real", "request_"), [(0, 0), (0.3, 0.5), (0.6, 1.0), (0.06, 0.1)])
def test_temperature_is_the_real_one(real, request_):
    assert request_temperature(real) == pytest.approx(request_)


@pytest.mark.parametrize("real", [0.61, 1.0, -0.1, float("nan"), float("inf")])
def test_temperature_that_cannot_be_reached(real):
    with pytest.raises(SettingError, match="from 0 to 0.6"):
        request_temperature(real)


INPUTS = [({"city": "Zürich"}, '{"city": "Zürich"}'), (None, "{}"), ("", "{}"), ({}, "{}"),
          ('{"a": 1}', '{"a": 1}'), ([1], '{"invalid_arguments": [1]}')]  # fmt: skip


@pytest.mark.parametrize(("given", "arguments"), INPUTS)
def test_replies(given, arguments):
    texts = [{"type": "text", "text": text} for text in ("Let me ", "see.", None)]
    use = {"type": "tool_use", "id": "a", "name": "now", "input": given}
    message = to_message({"content": [*texts, use, {"type": "text"}, {"type": "server_tool_use"}]})
    made = [call("now", arguments, "a")]
    assert message == {"role": "assistant", "content": "Let me see.", "tool_calls": made}
