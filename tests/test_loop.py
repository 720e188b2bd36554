"""The loop and its four ways to ask, over intercepted HTTP under the SDK's real client."""

from __future__ import annotations

import itertools
import json
import re
import time

import httpcore2
import httpx
import openai
import pytest
from conftest import (
    CHAT,
    KEY,
    MODEL,
    URL,
    call,
    called,
    delta,
    everything_sent,
    said,
    sent,
    socket_server,
    sse,
    streamed,
)  # fmt: skip

from tools import FUNCTIONS, TOOLS, endpoint, json_object
from tools.errors import KimiError, explain
from tools.loop import MODES, run_loop
from tools.offline import serve
from tools.reply import collect

SUM = call(arguments='{"expression": "6 * 7"}')
ANSWER = "It is 42."


class Heard:
    """Records every callback of run_loop."""

    def __init__(self):
        self.text, self.tools, self.replies = [], [], []

    def run(self, client, mode="non-streaming", messages=None, **options):
        self.messages = messages if messages is not None else [{"role": "user", "content": "?"}]
        return run_loop(
            client,
            MODEL,
            self.messages,
            mode,
            on_text=self.text.append,
            on_tool=lambda call, result: self.tools.append((call, result)),
            on_reply=self.replies.append,
            **options,
        )


@pytest.fixture
def heard():
    return Heard()


def chat(http, *responses):
    return http.post(CHAT).mock(side_effect=list(responses))


def stream_call(*fragments, reason="tool_calls", **rest):
    return sse(*[delta(tool_calls=[fragment]) for fragment in fragments], delta(reason), **rest)


def fragment(arguments=None, name=None, **fields):
    function = {"name": name, "arguments": arguments}
    return {**fields, "function": {k: v for k, v in function.items() if v is not None}}


# --- the loop itself ------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["non-streaming", "streaming"])
def test_a_whole_conversation(http, client, heard, mode):
    first = called(SUM, content="Let me see.")
    if mode == "streaming":
        first = sse(delta(content="Let me "), delta(content="see."), delta(tool_calls=[SUM]), delta("tool_calls"))
    route = chat(http, first, streamed() if mode == "streaming" else said())
    assert heard.run(client, mode) == ANSWER
    assert "".join(heard.text) == "Let me see." + ANSWER
    assert heard.tools == [(SUM, {"expression": "6 * 7", "result": 42})]
    assert heard.messages == [
        {"role": "user", "content": "?"},
        {"role": "assistant", "content": "Let me see.", "tool_calls": [SUM]},
        {
            "role": "tool",
            "tool_call_id": "functions.calculate:0",
            "name": "calculate",
            "content": '{"expression": "6 * 7", "result": 42}',
        },
        {"role": "assistant", "content": ANSWER},
    ]
    assert sent(route) == {
        "model": MODEL,
        "messages": heard.messages[:3],
        "tools": TOOLS,
        "tool_choice": "auto",
        "max_completion_tokens": 4096,
        **({"stream": True} if mode == "streaming" else {}),
    }
    assert [reply.finish_reason for reply in heard.replies] == ["tool_calls", "stop"]
    assert not any(reply.parsed_from_text or reply.truncated for reply in heard.replies)


def test_limits_are_sent_only_if_asked_for(http, client, heard):
    route = chat(http, said())
    heard.run(client, temperature=0.3, max_tokens=7)
    assert sent(route)["temperature"] == 0.3
    assert sent(route)["max_completion_tokens"] == 7
    assert "max_tokens" not in sent(route) and "stream_options" not in sent(route)


def test_callbacks_may_be_left_out(http, client):
    chat(http, called(SUM), said())
    assert run_loop(client, MODEL, [{"role": "user", "content": "?"}]) == ANSWER


def test_follow_up_in_the_same_history(http, client, heard):
    route = chat(http, said("One."), said("Two."))
    heard.run(client)
    heard.messages.append({"role": "user", "content": "And?"})
    assert heard.run(client, messages=heard.messages) == "Two."
    assert [m["content"] for m in sent(route)["messages"]] == ["?", "One.", "And?"]


def test_no_request_has_a_null_field(http, client, heard):
    route = chat(http, said())
    messages = [
        {"role": "user", "content": "?", "name": None},
        {"role": "assistant", "content": None, "tool_calls": [SUM], "refusal": None},
        {"role": "tool", "tool_call_id": SUM["id"], "content": "42"},
    ]
    heard.run(client, messages=messages)
    assert "null" not in route.calls[0].request.content.decode()
    assert all("content" in message for message in sent(route)["messages"])
    assert messages[1]["refusal"] is None  # the caller's history is not rewritten


def test_only_four_fields_of_a_reply_are_kept(http, client, heard):
    chat(
        http,
        called(SUM, reasoning_content="Hm.", refusal=None, audio=None, annotations=[], x=1),
        said(reasoning_content=""),
    )
    heard.run(client)
    assert heard.messages[1] == {
        "role": "assistant",
        "content": "",
        "reasoning_content": "Hm.",
        "tool_calls": [SUM],
    }
    assert heard.messages[3]["reasoning_content"] == ""


@pytest.mark.parametrize("text", ['{"expression": ', "[1]", "not json", '"x"', '{"x": NaN}', '{"x": 1e999}'])
@pytest.mark.parametrize("mode", ["non-streaming", "streaming"])
def test_broken_arguments_go_back_as_an_object(http, client, heard, text, mode):
    broken = call(arguments=text)
    first = called(broken) if mode == "non-streaming" else stream_call({**broken, "index": 0})
    route = chat(http, first, said() if mode == "non-streaming" else streamed())
    assert heard.run(client, mode) == ANSWER
    assert "JSON object" in heard.tools[0][1]["error"]
    assert heard.tools[0][0]["function"]["arguments"] == text
    went_back = sent(route)["messages"][1]["tool_calls"][0]["function"]["arguments"]
    assert json.loads(went_back) == {"invalid_arguments": text}


def test_every_id_names_the_function_and_counts_over_the_conversation(http, client, heard):
    route = chat(
        http,
        called(call(call_id=""), call(call_id="a"), call("get_weather", "{}", "a")),
        called(call(call_id=None), call(call_id="functions.calculate:0")),
        said(),
    )
    heard.run(client)
    messages = sent(route)["messages"]
    ids = [c["id"] for message in messages for c in message.get("tool_calls", [])]
    assert ids == [
        "functions.calculate:0", "functions.calculate:1", "functions.get_weather:2",
        "functions.calculate:3", "functions.calculate:4",
    ]  # fmt: skip
    assert [m["tool_call_id"] for m in messages if m["role"] == "tool"] == ids
    assert [c["id"] for c, _ in heard.tools] == ids
    assert [c["id"] for reply in heard.replies[:2] for c in reply.message["tool_calls"]] == ids


def test_no_id_is_given_twice_in_a_history_that_lost_its_beginning(http, client, heard):
    chat(http, called(call(call_id="x")), said())
    old = {"role": "assistant", "content": "", "tool_calls": [call(call_id="functions.calculate:1")]}
    result = {"role": "tool", "tool_call_id": "functions.calculate:1", "content": "1"}
    heard.run(client, messages=[old, result, {"role": "user", "content": "?"}])
    assert heard.tools[0][0]["id"] == "functions.calculate:2"


def test_a_whole_id_as_name_means_its_function(http, client, heard):
    chat(http, called(call("functions.calculate:0")), said())
    heard.run(client)
    assert heard.messages[1]["tool_calls"] == [SUM]
    assert heard.tools[0][1]["result"] == 42


def test_empty_arguments_are_an_empty_object(http, client, heard):
    for empty in ("", None, " "):
        route = chat(http, called(call(arguments=empty)), said())
        heard.run(client)
        assert "needs the parameter" in heard.tools[-1][1]["error"]
        assert sent(route)["messages"][1]["tool_calls"][0]["function"]["arguments"] == "{}"


@pytest.mark.parametrize("stop", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_turn_leaves_a_history_that_can_go_on(http, client, stop):
    def interrupt(call, result):
        raise stop

    route = chat(http, called(SUM, WEATHER), said())
    messages = [{"role": "user", "content": "?"}]
    with pytest.raises(stop):
        run_loop(client, MODEL, messages, on_tool=interrupt)
    assert [m["role"] for m in messages] == ["user", "assistant", "tool", "tool"]
    assert json.loads(messages[2]["content"])["result"] == 42
    assert "error" in json.loads(messages[3]["content"])
    assert run_loop(client, MODEL, messages) == ANSWER
    ids = [c["id"] for c in sent(route)["messages"][1]["tool_calls"]]
    assert [m["tool_call_id"] for m in sent(route)["messages"][2:]] == ids


def test_tools_that_the_caller_brings(http, client, heard):
    function = {"name": "now", "parameters": None}
    mine = [{"type": "function", "function": function}]
    route = chat(http, called(call("now", "")), said())
    heard.run(client, tools=mine, functions={"now": lambda: {"time": "noon"}})
    assert sent(route)["tools"] == mine and heard.tools[0][1] == {"time": "noon"}
    route = chat(http, said())
    heard.run(client, tools=[])
    assert "tools" not in sent(route) and "tool_choice" not in sent(route)


def test_tool_errors_go_to_the_model_and_the_conversation_goes_on(http, client, heard):
    calls = [call("get_time", "{}", "1"), call("calculate", '{"expression": "1/0"}', "2")]
    route = chat(http, called(*calls), said())
    assert heard.run(client) == ANSWER
    errors = [json.loads(m["content"])["error"] for m in sent(route)["messages"][2:]]
    assert "no tool" in errors[0] and "Division by zero" in errors[1]


def test_an_escaped_lone_surrogate_in_arguments_does_not_go_back(http, client, heard):
    route = chat(http, called(call(arguments='{"expression": "\\ud83d"}')), said())
    heard.run(client)
    text = sent(route)["messages"][1]["tool_calls"][0]["function"]["arguments"]
    assert json.loads(text) == {"expression": "\ufffd"}


def test_halves_of_emoji_do_not_break_the_next_request(http, client, heard):
    escaped = '{"city": "\\ud83d"}'
    functions = {**FUNCTIONS, "get_weather": lambda city: {"echo": city}}
    route = chat(
        http,
        sse(
            '{"x": 1}\n',  # no field of an event: ignored
            'data: {"choices":[{"delta":{"content":"\\ud83d"}}]}\n\n',
            'data: {"choices":[{"delta":{"content":"\\ude00 \\ud83d"}}]}\n\n',
            delta(tool_calls=[call("get_weather", escaped, "x")]),
            delta("tool_calls"),
        ),
        streamed(),
    )
    heard.run(client, "streaming", functions=functions)
    assert sent(route)["messages"][1]["content"] == "😀 \ufffd"
    assert "\ufffd" in sent(route)["messages"][2]["content"]


def test_a_model_that_calls_for_ever_is_stopped(http, client, heard):
    route = http.post(CHAT).mock(side_effect=lambda request: called(call(call_id="")))
    with pytest.raises(KimiError, match="called tools in 10 turns"):
        heard.run(client)
    assert route.call_count == 10
    with pytest.raises(KimiError, match="in 2 turns"):
        heard.run(client, max_turns=2)


# --- replies that cannot be used --------------------------------------------------------------

PAGE = httpx.Response(200, html="<html><body>Please log in</body></html>")
BAD = {
    "no choices": (httpx.Response(200, json={"object": "chat.completion", "choices": []}), "finish reason"),
    "null choices": (httpx.Response(200, json={"choices": None}), "finish reason"),
    "no finish reason": (said("It is 42.", None), "finish reason"),
    "odd choices": (httpx.Response(200, json={"choices": ["x"]}), "Unexpected"),
    "error in a 200": (
        httpx.Response(200, json={"error": {"message": "out of order", "type": "x"}}), "out of order"),
    "error text in a 200": (httpx.Response(200, json={"error": "overload"}), "overload"),
    "page": (PAGE, "page instead of JSON"),
    "broken JSON": (httpx.Response(200, headers={"content-type": "application/json"}, content=b"{"),
                    "page instead of JSON"),
    "JSON list": (httpx.Response(200, json=[1]), "Unexpected"),
    "null message": (
        httpx.Response(200, json={"choices": [{"message": None, "finish_reason": "stop"}]}), "empty"),
    "empty": (said(""), "empty reply"),
    "blank": (said(" \n "), "empty reply"),
    "only thoughts": (said("", reasoning_content="Hm."), "empty reply"),
    "tool_calls with none": (said("", "tool_calls"), "empty reply"),
    "tool_calls is []": (said("", tool_calls=[]), "empty reply"),
    "length": (said("It is", "length"), "output limit of 4096"),
    "length in a call": (called(SUM, reason="length"), "output limit of 4096"),
    "content filter": (said("It is", "content_filter"), "content filter"),
    "broken off": (said("It is", "error"), "broke off the reply (error)"),
    "broken off in a call": (called(SUM, reason="abort"), "broke off the reply (abort)"),
    "error object": (
        httpx.Response(200, json={"object": "error", "message": "out of order"}), "out of order"),
    "call without a name": (called(call("")), "Error: Tool call parsing failed"),
}  # fmt: skip


@pytest.mark.parametrize("mode", ["non-streaming", "streaming"])
@pytest.mark.parametrize("case", BAD)
def test_unusable_replies(http, client, heard, case, mode):
    response, hint = BAD[case]
    chat(http, response)
    with pytest.raises(Exception) as raised:
        heard.run(client, mode)
    assert hint in explain(raised.value)
    assert explain(raised.value).startswith("Error: ")
    assert heard.messages == [{"role": "user", "content": "?"}] and heard.tools == []


STREAMS = {
    "cut": (sse(delta(content="It"), done=False), "stream was cut"),
    "no finish reason": (sse(delta(content="It")), "stream was cut"),
    "empty": (sse(), "stream was cut"),
    "nothing": (sse(done=False), "stream was cut"),
    "cut in a call": (stream_call({**SUM, "index": 0}, reason=None), "stream was cut"),
    "length": (sse(delta(content="It"), delta("length")), "output limit"),
    "length in a call": (stream_call({**SUM, "index": 0}, reason="length"), "output limit"),
    "filter": (sse(delta(content="It"), delta("content_filter")), "content filter"),
    "error event": (
        sse(delta(content="It"), {"error": {"message": "GPU on fire", "type": "x"}}), "GPU on fire"),
    "named error event": (
        sse('event: error\ndata: {"error": {"message": "GPU on fire"}}\n\n'), "GPU on fire"),
    "error as text": (sse({"error": "overload"}), "broke off the reply"),
    "broken event": (sse("data: {\n\n"), "page instead of JSON"),
    "page": (sse(headers={"content-type": "text/html"}), "page instead of JSON"),
    "nameless": (stream_call(fragment("{}", index=0)), "Tool call parsing failed"),
}  # fmt: skip


@pytest.mark.parametrize("case", STREAMS)
def test_unusable_streams(http, client, heard, case):
    response, hint = STREAMS[case]
    chat(http, response)
    with pytest.raises(Exception) as raised:
        heard.run(client, "streaming")
    assert hint in explain(raised.value)
    assert heard.messages == [{"role": "user", "content": "?"}] and heard.tools == []


def test_a_connection_that_breaks_in_the_middle_of_a_stream(heard):
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: 9999\r\n\r\n"
    data = f"data: {json.dumps(delta(content='It'))}\n\n".encode()
    with socket_server(head + data) as url:
        with endpoint.make_client(endpoint.Settings(KEY, "", url)) as client:
            with pytest.raises(openai.APIConnectionError) as raised:
                heard.run(client, "streaming")
    assert "stream was cut" in explain(raised.value) and heard.text == ["It"]


def test_a_timeout_in_a_stream_is_a_timeout(http, client, heard):
    class Slow(httpx.SyncByteStream):
        def __iter__(self):
            yield b"data: {}\n\n"
            raise httpcore2.ReadTimeout("slow")

    headers = {"content-type": "text/event-stream"}
    chat(http, httpx.Response(200, headers=headers, stream=Slow()))
    with pytest.raises(openai.APITimeoutError) as raised:
        heard.run(client, "streaming")
    assert "in time" in explain(raised.value)


def test_finish_reasons_do_not_decide(http, client, heard):
    chat(http, called(SUM, reason="stop"), said(ANSWER, "tool_calls"))
    assert heard.run(client) == ANSWER
    chat(http, stream_call({**SUM, "index": 0}, reason="stop"), sse(delta("tool_calls", content="x")))
    assert heard.run(client, "streaming") == "x"


# --- streaming: what engines really send --------------------------------------------------------


@pytest.mark.parametrize(
    "chunk",
    [
        {"choices": []},
        {"choices": None, "usage": None},
        {"object": "ping"},
        {"choices": [{"delta": {}, "index": 0}]},
        {"choices": [{"delta": None}]},
        {"choices": [{}]},
        {"choices": [{"delta": {"content": None, "tool_calls": None, "role": None}}]},
        {"choices": [{"delta": {"content": "", "tool_calls": [], "reasoning_content": None}}]},
        ": keep-alive\n\n",
        "event: ping\ndata: {}\n\n",
    ],
)
def test_chunks_without_news(http, client, heard, chunk):
    news = [delta(content="It is "), delta(content="42."), delta("stop")]
    for place in range(4):
        chat(http, sse(*news[:place], chunk, *news[place:]))
        assert heard.run(client, "streaming") == ANSWER


def test_usage_wherever_it_comes(http, client, heard):
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    last = delta("stop")
    last["choices"][0]["usage"] = usage
    for events in (
        [delta("stop"), {"choices": [], "usage": usage}],
        [last],
        [{**delta("stop"), "usage": usage}],
    ):
        chat(http, sse(delta(content="x"), *events))
        heard.run(client, "streaming")
        assert heard.replies[-1].usage == usage
    chat(http, said())
    heard.run(client)
    assert heard.replies[-1].usage["total_tokens"] == 15


WEATHER = call("get_weather", '{"city": "Paris"}', "w")
S, W = SUM["function"]["arguments"], WEATHER["function"]["arguments"]
TWO = [("functions.calculate:0", "calculate", S), ("functions.get_weather:1", "get_weather", W)]


NESTED = '{"a": {"b": {}}, "c": [{"d": 1}, {"e": 2}]}'


def cut(text, size):
    return [text[i : i + size] for i in range(0, len(text), size)]


@pytest.mark.parametrize(
    ("fragments", "expected"),
    [
        pytest.param(
            [
                fragment("", "calculate", index=0, id="functions.calculate:0"),
                fragment("", "get_weather", index=1, id="w"),
                *[
                    fragment(part, index=index)
                    for pair in itertools.zip_longest(cut(S, 3), cut(W, 3), fillvalue="")
                    for index, part in enumerate(pair)
                ],
            ],
            TWO,
            id="interleaved",
        ),
        pytest.param(
            [fragment(p, "calculate", index=0, id="functions.calculate:0") for p in cut(S, 1)]
            + [fragment(p, "get_weather", index=1, id="w") for p in cut(W, 1)],
            TWO,
            id="name and id repeated",
        ),
        pytest.param(
            [
                fragment("", "calculate", id="functions.calculate:0"),
                *[fragment(p) for p in cut(S, 4)],
                fragment("", "get_weather", id="w"),
                *[fragment(p) for p in cut(W, 4)],
            ],
            TWO,
            id="no index",
        ),
        pytest.param(
            [{"index": 0, "id": "functions.calculate:0"}, fragment(None, "calculate", index=0)]
            + [fragment(S, index=0)],
            TWO[:1],
            id="id, name and arguments one by one",
        ),
        pytest.param(
            [fragment("", "calculate", index=0, id="functions.calculate:0")]
            + [fragment(p, "calculate", index=0) for p in ["", *cut(NESTED, 1)]],
            [("functions.calculate:0", "calculate", NESTED)],
            id="name repeated in objects in objects",
        ),
        pytest.param(
            [{**SUM, "index": 0}, {**WEATHER, "index": 0}], TWO, id="every index is 0"
        ),
        pytest.param(
            [fragment(S, "calculate", index=0), fragment(W, "get_weather", index=0, id="")],
            TWO,
            id="every index is 0, no id",
        ),
        pytest.param(
            [{**SUM, "index": 0}, {**SUM, "index": 0, "id": "again"}],
            [TWO[0], ("functions.calculate:1", "calculate", S)],
            id="every index is 0, one tool",
        ),
        pytest.param(
            [
                fragment("", "calculate", index=0, id=None),
                *[fragment(p, index=0, id="") for p in cut(S, 5)],
            ],
            [("functions.calculate:0", "calculate", S)],
            id="no id",
        ),
        pytest.param(
            [fragment(json.loads(S), "calculate", index=0, id="functions.calculate:0")],
            [("functions.calculate:0", "calculate", S)],
            id="arguments as an object",
        ),
        pytest.param(
            [{"function": None}, fragment(S, "calculate", id="functions.calculate:0")],
            TWO[:1],
            id="an empty fragment",
        ),
    ],
)  # fmt: skip
def test_calls_are_put_together(http, client, heard, fragments, expected):
    chat(http, stream_call(*fragments), streamed())
    heard.run(client, "streaming")
    calls = [(c["id"], c["function"]["name"], c["function"]["arguments"]) for c, _ in heard.tools]
    assert calls == expected
    assert all(json_object(arguments) for _, _, arguments in calls)


def test_several_fragments_in_one_chunk(http, client, heard):
    chat(http, sse(delta(tool_calls=[SUM, WEATHER]), delta("stop")), streamed())
    heard.run(client, "streaming")
    assert [c["function"]["name"] for c, _ in heard.tools] == ["calculate", "get_weather"]


def test_reasoning_is_collected_and_goes_back(http, client, heard):
    route = chat(
        http,
        sse(
            delta(reasoning_content="H"),
            delta(reasoning_content="m."),
            delta(tool_calls=[SUM]),
            delta("tool_calls"),
        ),
        streamed(),
    )
    heard.run(client, "streaming")
    assert sent(route)["messages"][1]["reasoning_content"] == "Hm."
    assert "Hm." not in "".join(heard.text)


def test_text_is_shown_the_moment_it_arrives(http, client):
    arrived = []

    class Slow(httpx.SyncByteStream):
        def __iter__(self):
            for n, word in enumerate(["one ", "two ", "three"]):
                assert len(arrived) == n, "the word before was not shown yet"
                yield f"data: {json.dumps(delta(content=word))}\n\n".encode()
            yield f"data: {json.dumps(delta('stop'))}\n\n".encode()

    headers = {"content-type": "text/event-stream"}
    chat(http, httpx.Response(200, headers=headers, stream=Slow()))
    run_loop(client, MODEL, [{"role": "user", "content": "?"}], "streaming", on_text=arrived.append)
    assert arrived == ["one ", "two ", "three"]


def test_a_server_that_does_not_stream_is_understood(http, client, heard):
    chat(http, called(SUM), said())
    assert heard.run(client, "streaming") == ANSWER


def test_collecting_is_linear():
    def seconds(count):
        arguments = json.dumps({"expression": "1" * count * 4})
        chunks = [delta(tool_calls=[fragment(p, "calculate", index=0)]) for p in cut(arguments, 4)]
        start = time.process_time()
        reply = collect([*chunks, delta("tool_calls")])
        assert reply.message["tool_calls"][0]["function"]["arguments"] == arguments
        return time.process_time() - start

    small = min(seconds(20_000) for _ in range(3))
    assert seconds(160_000) < 16 * small + 0.05


# --- markers in the content ---------------------------------------------------------------------

MARKED = (
    "Let me see.<|tool_calls_section_begin|><|tool_call_begin|>functions.calculate:0"
    f"<|tool_call_argument_begin|>{S}<|tool_call_end|><|tool_calls_section_end|>"
)


@pytest.mark.parametrize("mode", ["non-streaming", "streaming", "anthropic"])
def test_markers_are_parsed_and_never_shown(http, client, heard, mode):
    if mode == "streaming":
        first = sse(*[delta(content=c) for c in MARKED], delta("stop"))
        route = chat(http, first, streamed())
    elif mode == "anthropic":
        text = {"content": [{"type": "text", "text": MARKED}], "stop_reason": "end_turn"}
        answer = {"content": [{"type": "text", "text": ANSWER}], "stop_reason": "end_turn"}
        route = http.post(f"{URL}/messages")
        route.side_effect = [httpx.Response(200, json=text), httpx.Response(200, json=answer)]
    else:
        route = chat(http, said(MARKED), said())
    assert heard.run(client, mode) == ANSWER
    assert "".join(heard.text) == "Let me see." + ANSWER
    assert heard.messages[1] == {"role": "assistant", "content": "Let me see.", "tool_calls": [SUM]}
    assert heard.tools[0][1]["result"] == 42
    assert [reply.parsed_from_text for reply in heard.replies] == [True, False]
    assert "<|" not in json.dumps(sent(route))


def thinking(mode, thought, content="", calls=(), field="reasoning_content"):
    """A reply with a thought, cut into single characters where it is streamed."""
    if mode == "non-streaming":
        return said(content, tool_calls=list(calls), **{field: thought})
    parts = [delta(**{field: each}) for each in thought] + [delta(content=c) for c in content]
    return sse(*parts, *[delta(tool_calls=[each]) for each in calls], delta("stop"))


@pytest.mark.parametrize("mode", ["non-streaming", "streaming"])
@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_markers_in_the_thinking_are_calls_too(http, client, heard, mode, field):
    answer = said() if mode == "non-streaming" else streamed()
    route = chat(http, thinking(mode, f" {MARKED}\n", field=field), answer)
    assert heard.run(client, mode) == ANSWER
    assert heard.tools[0][1]["result"] == 42 and heard.replies[0].parsed_from_text
    went_back = sent(route)["messages"][1]
    assert went_back["reasoning_content"] == " Let me see.\n"  # as it came, but for the markers
    assert went_back["tool_calls"] == [SUM] and "reasoning" not in went_back
    assert "<|" not in json.dumps(sent(route)) and "".join(heard.text) == ANSWER


def test_thinking_under_either_name(http, client, heard):
    chat(http, said(reasoning="Hm.", reasoning_content=None), said(reasoning="", reasoning_content="x"))
    heard.run(client)
    heard.run(client, messages=heard.messages)
    assert [m["reasoning_content"] for m in heard.messages[1:]] == ["Hm.", "x"]


@pytest.mark.parametrize("mode", ["non-streaming", "streaming"])
def test_structured_calls_then_content_then_thinking(http, client, heard, mode):
    answer = said() if mode == "non-streaming" else streamed()
    in_content = MARKED.replace("6 * 7", "7 * 8")
    chat(http, thinking(mode, MARKED, in_content, [WEATHER]), answer)
    heard.run(client, mode)
    chat(http, thinking(mode, MARKED, in_content), answer)
    heard.run(client, mode)
    results = [result.get("city") or result["result"] for _, result in heard.tools]
    assert results == ["Paris", 56]


@pytest.mark.parametrize("mode", ["non-streaming", "streaming"])
def test_structured_calls_win(http, client, heard, mode):
    if mode == "streaming":
        first = sse(delta(content=MARKED), delta(tool_calls=[WEATHER]), delta("tool_calls"))
    else:
        first = called(WEATHER, content=MARKED)
    chat(http, first, streamed() if mode == "streaming" else said())
    heard.run(client, mode)
    assert [c["function"]["name"] for c, _ in heard.tools] == ["get_weather"]
    assert not heard.replies[0].parsed_from_text
    assert "<|" not in "".join(heard.text)


@pytest.mark.parametrize("mode", ["non-streaming", "streaming"])
@pytest.mark.parametrize(
    "text", [MARKED[:-60], MARKED.replace("functions.calculate:0", "0").replace(S, "{")]
)
def test_truncated_or_nameless_calls_are_not_executed(http, client, heard, mode, text):
    chat(http, said(text) if mode == "non-streaming" else sse(delta(content=text), delta("stop")))
    with pytest.raises(KimiError, match="Error: Tool call parsing failed"):
        heard.run(client, mode)
    assert heard.tools == []


def test_what_looks_like_a_marker_is_shown_in_the_end(http, client, heard):
    chat(http, sse(delta(content="a <| b <|tool"), delta("stop")))
    assert heard.run(client, "streaming") == "a <| b <|tool"
    assert "".join(heard.text) == "a <| b <|tool"


# --- manual ---------------------------------------------------------------------------------------


def text_completion(text, reason="stop"):
    choice = {"index": 0, "text": text, "finish_reason": reason}
    return httpx.Response(200, json={"choices": [choice], "usage": {"total_tokens": 9}})


def completions(http, *responses):
    return http.post(f"{URL}/completions").mock(side_effect=list(responses))


def test_manual_request_and_reply(http, client, heard):
    route = completions(http, text_completion(MARKED), text_completion(f" {ANSWER}<|im_end|>"))
    assert heard.run(client, "manual", max_tokens=99, temperature=0.6) == ANSWER
    body = sent(route)
    prompt = body.pop("prompt")
    assert body == {
        "model": MODEL,
        "max_tokens": 99,
        "temperature": 0.6,
        "stop": ["<|im_end|>"],
        "skip_special_tokens": False,
    }
    assert prompt.startswith("<|im_system|>tool_declare<|im_middle|>[{")
    assert prompt.endswith(
        f"<|tool_call_begin|>functions.calculate:0<|tool_call_argument_begin|>{S}<|tool_call_end|>"
        "<|tool_calls_section_end|><|im_end|><|im_system|>calculate<|im_middle|>"
        '## Return of functions.calculate:0\n{"expression": "6 * 7", "result": 42}<|im_end|>'
        "<|im_assistant|>assistant<|im_middle|>"
    )
    assert heard.messages[1] == {"role": "assistant", "content": "Let me see.", "tool_calls": [SUM]}
    assert heard.replies[0].parsed_from_text and heard.replies[0].usage == {"total_tokens": 9}


def test_manual_sends_no_temperature_by_itself(http, client, heard):
    route = completions(http, text_completion(ANSWER))
    heard.run(client, "manual")
    assert "temperature" not in sent(route)


@pytest.mark.parametrize(
    ("text", "reason", "hint"),
    [
        (MARKED[:-60], "stop", "Error: Tool call parsing failed"),
        (MARKED[:-60], "length", "Error: Tool call parsing failed"),
        ("It is", "length", "output limit"),
        ("", "stop", "empty reply"),
    ],
)
def test_manual_limits(http, client, heard, text, reason, hint):
    completions(http, text_completion(text, reason))
    with pytest.raises(KimiError, match=hint):
        heard.run(client, "manual")
    assert heard.tools == []


# --- anthropic -----------------------------------------------------------------------------------


def blocks(*content, reason="end_turn"):
    usage = {"input_tokens": 1, "output_tokens": 2}
    body = {"type": "message", "content": list(content), "stop_reason": reason, "usage": usage}
    return httpx.Response(200, json=body)


def test_anthropic_request_and_reply(http, client, heard):
    use = {"type": "tool_use", "id": "t1", "name": "calculate", "input": {"expression": "6 * 7"}}
    route = http.post(f"{URL}/messages").mock(
        side_effect=[
            blocks({"type": "text", "text": "Let me see."}, use, reason="tool_use"),
            blocks({"type": "text", "text": ANSWER}),
        ]
    )
    assert heard.run(client, "anthropic", temperature=0.6) == ANSWER
    request = route.calls[-1].request
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert request.headers["anthropic-version"] == "2023-06-01"
    body = sent(route)
    assert body["temperature"] == 1.0 and body["max_tokens"] == 4096
    use["id"] = "functions.calculate:0"
    assert body["messages"][1]["content"] == [{"type": "text", "text": "Let me see."}, use]
    assert [r.finish_reason for r in heard.replies] == ["tool_use", "end_turn"]
    assert heard.replies[0].usage == {"input_tokens": 1, "output_tokens": 2}


@pytest.mark.parametrize("end", ["ai", "cn"])
def test_anthropic_root_on_moonshot(http, heard, end):
    route = http.post(f"https://api.moonshot.{end}/anthropic/v1/messages").mock(
        return_value=blocks({"type": "text", "text": ANSWER})
    )
    settings = endpoint.Settings(KEY, "", f"https://api.moonshot.{end}/v1")
    with endpoint.make_client(settings) as client:
        assert heard.run(client, "anthropic") == ANSWER
    assert route.called


def test_anthropic_limits(http, client, heard):
    route = http.post(f"{URL}/messages").mock(
        return_value=blocks({"type": "text", "text": "It"}, reason="max_tokens")
    )
    with pytest.raises(KimiError, match="output limit"):
        heard.run(client, "anthropic")
    with pytest.raises(KimiError, match="0.6"):
        heard.run(client, "anthropic", temperature=0.61)
    assert route.call_count == 1  # nothing was sent for a temperature that cannot be reached


@pytest.mark.parametrize("response", [PAGE, httpx.Response(200, json={"content": None})])
def test_anthropic_unusable(http, client, heard, response):
    http.post(f"{URL}/messages").mock(return_value=response)
    with pytest.raises(Exception) as raised:
        heard.run(client, "anthropic")
    assert re.search("page instead of JSON|no finish reason", explain(raised.value))


def test_anthropic_errors_are_explained(http, client, heard):
    error = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    http.post(f"{URL}/messages").mock(return_value=httpx.Response(529, json=error))
    with pytest.raises(openai.APIStatusError) as raised:
        heard.run(client, "anthropic")
    assert '"Overloaded"' in explain(raised.value)


# --- from one mode into another ----------------------------------------------------------------


@pytest.mark.parametrize("pair", list(itertools.product(MODES, MODES)), ids="-".join)
def test_a_conversation_goes_on_in_another_mode(heard, pair):
    with serve() as url, endpoint.make_client(endpoint.Settings(KEY, "", url)) as client:
        messages = [{"role": "user", "content": "Weather in Paris, and what is 6 * 7?"}]
        first = heard.run(client, pair[0], messages)
        assert "Paris" in first and "42" in first
        messages.append({"role": "user", "content": "And in Tokyo, and 7 * 8?"})
        second = heard.run(client, pair[1], messages)
        assert "Tokyo" in second and "56" in second and "Paris" not in second
    ids = [c["id"] for message in messages for c in message.get("tool_calls", [])]
    assert len(ids) == len(set(ids)) == 4
    assert all(isinstance(message["content"], str) for message in messages)


@pytest.mark.parametrize("mode", MODES)
def test_pending_results_are_answered_in_any_mode(http, client, heard, mode):
    """Calls and results are in the history, the answer is still to come."""
    chat(http, streamed() if mode == "streaming" else said())
    completions(http, text_completion(ANSWER))
    http.post(f"{URL}/messages").mock(return_value=blocks({"type": "text", "text": ANSWER}))
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "?"},
        {"role": "assistant", "content": "", "reasoning_content": "Hm.", "tool_calls": [SUM, WEATHER]},
        {"role": "tool", "tool_call_id": SUM["id"], "name": "calculate", "content": '{"result": 42}'},
        {"role": "tool", "tool_call_id": "w", "name": "get_weather", "content": '{"error": "no"}'},
    ]
    history = json.loads(json.dumps(messages))
    assert heard.run(client, mode, messages) == ANSWER
    assert messages == [*history, {"role": "assistant", "content": ANSWER}]
    body = everything_sent(http)[-1]
    text = json.dumps(body)
    assert "42" in text and "Be brief." in text and "Paris" in text
    if mode in ("streaming", "non-streaming"):
        assert body["messages"] == history
    if mode == "anthropic":
        assert [block["type"] for block in body["messages"][1]["content"]] == [
            "thinking", "tool_use", "tool_use",
        ]  # fmt: skip


def test_nothing_here_needs_the_key_but_the_header(http, client, heard):
    route = chat(http, said())
    heard.run(client)
    assert KEY not in route.calls[0].request.content.decode()
    assert re.search(KEY, route.calls[0].request.headers["authorization"])
    assert json_object("{}") == {}
