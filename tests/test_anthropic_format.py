"""Requests to `/v1/messages`, turn by turn and word for word, and replies from it."""

import copy

import pytest
from conftest import MODEL, call

from tools import TOOLS
from tools.anthropic_format import request_temperature, to_message, to_request
from tools.errors import SettingError

A = call("calculate", '{"expression": "1"}', "a")
B = call("get_weather", '{"city": "Paris"}', "b")
USER = {"role": "user", "content": "?"}
BRIEF = {"role": "system", "content": "Be brief."}


def result(call_id, content='{"result": 1}'):
    return {"role": "tool", "tool_call_id": call_id, "name": "x", "content": content}


def assistant(*calls, content="", **more):
    return {"role": "assistant", "content": content, "tool_calls": list(calls), **more}


CONVERSATIONS = {  # (messages, the types of the blocks of each turn)
    "system last": ([USER, BRIEF], ["text"]),
    "developer": ([{**BRIEF, "role": "developer"}, USER], ["text"]),
    "empty system": ([{**BRIEF, "content": " "}, USER], ["text"]),
    "list content": ([{**USER, "content": [{"type": "text", "text": "a"}, {}]}], ["text"]),
    "in a row": ([USER, USER, *[assistant(content="c")] * 2], ["text text", "text text"]),
    "empty texts": ([USER, assistant(), {**USER, "content": " "}, USER], ["text text"]),
    "two turns": ([USER, assistant(A), result("a"), assistant(B), result("b")],
                  ["text", "tool_use", "tool_result", "tool_use", "tool_result"]),
    "thinking": ([USER, assistant(A, content="x", reasoning_content="Hm.", thinking_blocks=[
        {"type": "redacted_thinking", "data": "x"}]), result("a")],
                 ["text", "redacted_thinking text tool_use", "tool_result"]),
    "content is null": ([USER, assistant(A, content=None), result("a", None)],
                        ["text", "tool_use", "tool_result"]),
}  # fmt: skip


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_turns_alternate_and_no_text_is_empty(name):
    messages, kinds = copy.deepcopy(CONVERSATIONS[name])
    body = to_request(messages, TOOLS, MODEL, 100)
    turns = body["messages"]
    assert [" ".join(block["type"] for block in turn["content"]) for turn in turns] == kinds
    assert [turn["role"] for turn in turns] == (["user", "assistant"] * 3)[: len(turns)]
    system = "Be brief." if name in ("system last", "developer") else None
    assert body.get("system") == system
    assert messages == CONVERSATIONS[name][0]  # the caller's history is not rewritten


def test_a_request_word_for_word():
    error, no_error = '{"error": "no"}', '{"error": null}'
    broken = call("get_weather", "{oops", "b")
    asked = assistant(A, broken, content="See.", reasoning_content="Hm.")
    messages = [BRIEF, BRIEF, USER, asked, result("a", no_error), result("b", error), USER]
    tools = [TOOLS[0], {"function": {"name": "now"}}, {"type": "web_search", "name": "search"}]
    function = TOOLS[0]["function"]
    schema = {"description": function["description"], "input_schema": function["parameters"]}
    question = {"type": "text", "text": "?"}
    uses = [
        {"type": "thinking", "thinking": "Hm."}, {"type": "text", "text": "See."},
        {"type": "tool_use", "id": "a", "name": "calculate", "input": {"expression": "1"}},
        {"type": "tool_use", "id": "b", "name": "get_weather",
         "input": {"invalid_arguments": "{oops"}},
    ]  # fmt: skip
    results = [
        {"type": "tool_result", "tool_use_id": "a", "content": no_error},
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


def test_temperature_is_the_effective_one():
    for real, sent in ((0, 0), (0.06, 0.1), (0.6, 1)):
        assert request_temperature(real) == pytest.approx(sent)
    for real in (0.61, -0.1, float("nan"), float("inf")):
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
