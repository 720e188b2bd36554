"""The loop and its four ways to ask, over intercepted HTTP under the SDK's real client."""

import itertools
import json
import time

import httpcore2
import httpx
import openai
import pytest
from conftest import (
    CHAT, KEY, MODEL, PAGE, S, SUM, URL, W, WEATHER, call, called, delta, everything_sent,
    marked, reply, route, said, sent, socket_server, sse, streamed,
)  # fmt: skip

from tools import FUNCTIONS, TOOLS, endpoint
from tools.errors import KimiError, explain
from tools.loop import MODES, run_loop
from tools.messages import json_object
from tools.offline import serve
from tools.reply import collect

ANSWER = "It is 42."
RESULT = {"expression": "6 * 7", "result": 42}
BOTH = pytest.mark.parametrize("mode", ["non-streaming", "streaming"])
ALL = pytest.mark.parametrize("mode", MODES)


class Heard:
    """Runs the loop and records its callbacks."""

    def __init__(self):
        self.text, self.tools, self.replies = [], [], []

    def run(self, client, mode="non-streaming", messages=None, **options):
        self.messages = messages if messages is not None else [{"role": "user", "content": "?"}]
        callbacks = {
            "on_text": self.text.append,
            "on_tool": lambda call, result: self.tools.append((call, result)),
            "on_reply": self.replies.append,
        }
        return run_loop(client, MODEL, self.messages, mode, **callbacks, **options)

    def fails(self, client, mode, hint, **options):
        """Run the loop; check that it ends with this message and leaves the history alone."""
        with pytest.raises(Exception) as raised:
            self.run(client, mode, **options)
        assert hint in explain(raised.value) and explain(raised.value).startswith("Error: ")
        assert self.messages == [{"role": "user", "content": "?"}] and self.tools == []


@pytest.fixture
def heard():
    return Heard()


def fragment(arguments=None, name=None, **fields):
    """A piece of a streamed call."""
    function = {"name": name, "arguments": arguments}
    return {**fields, "function": {k: v for k, v in function.items() if v is not None}}


def stream_call(*fragments, usage=None):
    chunks = [delta(tool_calls=[each]) for each in fragments]
    return sse(*chunks, delta("tool_calls"), *([usage] if usage else []))


# --- the loop itself ------------------------------------------------------------------------


@ALL
def test_a_whole_conversation(http, client, heard, mode):
    posted = route(http, mode, reply(mode, "Let me see.", SUM), reply(mode, ANSWER))
    assert heard.run(client, mode) == ANSWER
    assert "".join(heard.text) == "Let me see." + ANSWER
    assert heard.tools == [(SUM, RESULT)]
    assert heard.messages == [
        {"role": "user", "content": "?"},
        {"role": "assistant", "content": "Let me see.", "tool_calls": [SUM]},
        {"role": "tool", "tool_call_id": SUM["id"], "name": "calculate", "content": json.dumps(RESULT)},
        {"role": "assistant", "content": ANSWER},
    ]
    reasons = {"manual": ["stop", "stop"], "anthropic": ["tool_use", "end_turn"]}
    assert [r.finish_reason for r in heard.replies] == reasons.get(mode, ["tool_calls", "stop"])
    assert [r.parsed_from_text for r in heard.replies] == [mode == "manual", False]
    assert heard.replies[0].usage
    body, headers = sent(posted), posted.calls[-1].request.headers
    assert headers["authorization"] == f"Bearer {KEY}" and KEY not in json.dumps(body)
    if mode == "manual":
        prompt = body.pop("prompt")
        assert prompt.startswith("<|im_system|>tool_declare<|im_middle|>[{")
        assert prompt.endswith(
            f"Let me see.{marked(SUM)}<|im_end|><|im_system|>calculate<|im_middle|>## Return of "
            f"{SUM['id']}\n{json.dumps(RESULT)}<|im_end|><|im_assistant|>assistant<|im_middle|>"
        )
        rest = {"max_tokens": 4096, "stop": ["<|im_end|>"], "skip_special_tokens": False}
        assert body == {"model": MODEL, **rest}
    elif mode == "anthropic":
        assert headers["anthropic-version"] == "2023-06-01"
        use = {"type": "tool_use", "id": SUM["id"], "name": "calculate", "input": json.loads(S)}
        assert body["messages"][1]["content"] == [{"type": "text", "text": "Let me see."}, use]
        assert set(body) == {"model", "messages", "max_tokens", "tools", "tool_choice"}
        assert body["max_tokens"] == 16_000
    else:
        rest = {"tools": TOOLS, "tool_choice": "auto"}
        rest |= {"stream": True} if mode == "streaming" else {}
        assert body == {"model": MODEL, "messages": heard.messages[:3], **rest}


@ALL
def test_limits_reach_the_request(http, client, heard, mode):
    posted = route(http, mode, reply(mode, ANSWER))
    heard.run(client, mode, temperature=0.3, max_tokens=7)
    body = sent(posted)
    assert body["temperature"] == (0.5 if mode == "anthropic" else 0.3)
    chat = mode in ("streaming", "non-streaming")
    assert body["max_completion_tokens" if chat else "max_tokens"] == 7
    assert ("max_tokens" in body) is not chat


def test_no_request_has_a_null_field(http, client, heard):
    posted = route(http, "non-streaming", said())
    by_hand = call(arguments=json.loads(S))
    messages = [
        {"role": "user", "content": "?", "name": None},
        {"role": "assistant", "content": None, "tool_calls": [by_hand], "refusal": None},
        {"role": "tool", "tool_call_id": SUM["id"], "content": "42"},
    ]
    heard.run(client, messages=messages)
    assert "null" not in posted.calls[0].request.content.decode()
    assert all("content" in message for message in sent(posted)["messages"])
    assert sent(posted)["messages"][1]["tool_calls"] == [SUM]
    assert messages[1]["refusal"] is None  # the caller's history is not rewritten


def test_only_four_fields_of_a_reply_are_kept(http, client, heard):
    odd = called(SUM, reasoning_content="Hm.", refusal=None, audio=None, annotations=[], x=1)
    route(http, "non-streaming", odd, said(reasoning_content=""))
    heard.run(client)
    kept = {"role": "assistant", "content": "", "reasoning_content": "Hm.", "tool_calls": [SUM]}
    assert heard.messages[1] == kept
    assert heard.messages[3]["reasoning_content"] == ""


@BOTH
@pytest.mark.parametrize("text", ['{"expression": ', "[1]", "not json", '"x"', '{"x": NaN}', '{"x": 1e999}'])
def test_broken_arguments_go_back_as_an_object(http, client, heard, text, mode):
    posted = route(http, mode, reply(mode, "", call(arguments=text)), reply(mode, ANSWER))
    assert heard.run(client, mode) == ANSWER
    assert "JSON object" in heard.tools[0][1]["error"]
    assert heard.tools[0][0]["function"]["arguments"] == text
    went_back = sent(posted)["messages"][1]["tool_calls"][0]["function"]["arguments"]
    assert json.loads(went_back) == {"invalid_arguments": text}


@pytest.mark.parametrize("empty", ["", None, " "])
def test_empty_arguments_are_an_empty_object(http, client, heard, empty):
    posted = route(http, "non-streaming", called(call(arguments=empty)), said())
    heard.run(client)
    assert "needs the parameter" in heard.tools[0][1]["error"]
    assert sent(posted)["messages"][1]["tool_calls"][0]["function"]["arguments"] == "{}"


def test_every_id_names_the_function_and_counts_over_the_conversation(http, client, heard):
    posted = route(
        http, "non-streaming",
        called(call(call_id=""), call(call_id="a"), call("get_weather", "{}", "a")),
        called(call("functions.calculate:0", call_id=None), call(call_id="functions.calculate:0")),
        said(),
    )  # fmt: skip
    heard.run(client)
    messages = sent(posted)["messages"]
    names = ["calculate", "calculate", "get_weather", "calculate", "calculate"]
    ids = [f"functions.{name}:{number}" for number, name in enumerate(names)]
    assert [c["id"] for message in messages for c in message.get("tool_calls", [])] == ids
    assert [m["tool_call_id"] for m in messages if m["role"] == "tool"] == ids
    assert [(c["id"], c["function"]["name"]) for c, _ in heard.tools] == list(zip(ids, names))
    assert [c["id"] for each in heard.replies[:2] for c in each.message["tool_calls"]] == ids


def test_no_id_is_given_twice_in_a_history_that_lost_its_beginning(http, client, heard):
    route(http, "non-streaming", called(call(call_id="x")), said())
    old = {"role": "assistant", "content": "", "tool_calls": [call(call_id="functions.calculate:1")]}
    result = {"role": "tool", "tool_call_id": "functions.calculate:1", "content": "1"}
    heard.run(client, messages=[old, result, {"role": "user", "content": "?"}])
    assert heard.tools[0][0]["id"] == "functions.calculate:2"


@pytest.mark.parametrize("stop", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_turn_leaves_a_history_that_can_go_on(http, client, stop):
    def interrupt(call, result):
        raise stop

    posted = route(http, "non-streaming", called(SUM, WEATHER), said())
    messages = [{"role": "user", "content": "?"}]
    with pytest.raises(stop):
        run_loop(client, MODEL, messages, on_tool=interrupt)
    assert [m["role"] for m in messages] == ["user", "assistant", "tool", "tool"]
    assert json.loads(messages[2]["content"])["result"] == 42
    assert "error" in json.loads(messages[3]["content"])
    assert run_loop(client, MODEL, messages) == ANSWER
    ids = [c["id"] for c in sent(posted)["messages"][1]["tool_calls"]]
    assert [m["tool_call_id"] for m in sent(posted)["messages"][2:]] == ids


def test_tools_that_the_caller_brings(http, client, heard):
    mine = [{"type": "function", "function": {"name": "now", "parameters": None}}]
    posted = route(http, "non-streaming", called(call("now", "")), said(), said())
    heard.run(client, tools=mine, functions={"now": lambda: {"time": "noon"}})
    assert sent(posted)["tools"] == mine and heard.tools[0][1] == {"time": "noon"}
    heard.run(client, tools=[])
    assert "tools" not in sent(posted) and "tool_choice" not in sent(posted)


def test_an_escaped_lone_surrogate_in_arguments_does_not_go_back(http, client, heard):
    posted = route(http, "non-streaming", called(call(arguments='{"expression": "\\ud83d"}')), said())
    heard.run(client)
    text = sent(posted)["messages"][1]["tool_calls"][0]["function"]["arguments"]
    assert json.loads(text) == {"expression": "\ufffd"}


def test_halves_of_emoji_do_not_break_the_next_request(http, client, heard):
    functions = {**FUNCTIONS, "get_weather": lambda city: {"echo": city}}
    first = sse(
        'data: {"choices":[{"delta":{"content":"\\ud83d"}}]}\n\n',
        'data: {"choices":[{"delta":{"content":"\\ude00 \\ud83d"}}]}\n\n',
        delta("tool_calls", tool_calls=[call("get_weather", '{"city": "\\ud83d"}', "x")]),
    )
    posted = route(http, "streaming", first, streamed())
    heard.run(client, "streaming", functions=functions)
    assert sent(posted)["messages"][1]["content"] == "😀 \ufffd"
    assert "\ufffd" in sent(posted)["messages"][2]["content"]


def test_a_model_that_calls_for_ever_is_stopped(http, client, heard):
    posted = http.post(CHAT).mock(side_effect=lambda request: called(call(call_id="")))
    with pytest.raises(KimiError, match="still calling tools after 10 requests"):
        heard.run(client)
    assert posted.call_count == 10
    with pytest.raises(KimiError, match="after 2 requests"):
        heard.run(client, max_turns=2)


# --- replies that cannot be used --------------------------------------------------------------


def body(**fields):
    return httpx.Response(200, json=fields)


BAD = {
    "no choices": (body(object="chat.completion", choices=[]), "an error, not a reply"),
    "null choices": (body(choices=None), "an error, not a reply"),
    "odd choices": (body(choices=["x"]), "Unexpected"),
    "odd calls": (said("", tool_calls=[1]), "Unexpected"),
    "an odd function": (said("", tool_calls=[{"function": "x"}]), "Unexpected"),
    "LM Studio without /v1": (
        body(error="Unexpected endpoint or method. (POST /chat/completions)"), "base URL"),
    "a status in the body": (body(code=401, msg="token expired"), 'not accept the key: "token expired"'),
    "a number": (httpx.Response(200, json=7), "Unexpected"),
    "error in a 200": (body(error={"message": "out of order", "type": "x"}), "out of order"),
    "error text in a 200": (body(error="overload"), "overload"),
    "error object": (body(object="error", message="out of order"), "out of order"),
    "page": (PAGE, "page instead of JSON"),
    "broken JSON": (httpx.Response(200, headers={"content-type": "application/json"}, content=b"{"),
                    "page instead of JSON"),
    "JSON list": (httpx.Response(200, json=[1]), "Unexpected"),
    "null message": (body(choices=[{"message": None, "finish_reason": "stop"}]), "empty"),
    "blank": (said(" \n "), "empty reply"),
    "only thoughts": (said("", reasoning_content="Hm."), "empty reply"),
    "tool_calls with none": (said("", "tool_calls"), "empty reply"),
    "tool_calls is []": (said("", tool_calls=[]), "empty reply"),
}  # fmt: skip


@BOTH
@pytest.mark.parametrize("case", BAD)
def test_unusable_replies(http, client, heard, case, mode):
    response, hint = BAD[case]
    route(http, mode, response)
    heard.fails(client, mode, hint)


@ALL
@pytest.mark.parametrize(
    ("content", "calls", "reason", "hint"),
    [
        ("It is", [], "length", "output limit"), ("It is", [SUM], "length", "output limit"),
        ("It is", [], "content_filter", "content filter"), ("", [], None, "empty reply"),
        ("It is", [], "sensitive", "content filter"), ("No, sir.", [], "refusal", 'refused to answer (refusal): "No, sir."'),
        ("It is", [], "model_context_window_exceeded", "does not fit"), ("It is", [], "pause_turn", "paused"),
        ("It is", [], "error", "broke off the reply (error)"),
        ("It is", [SUM], "abort", "broke off the reply (abort)"),
        ("", [call("", call_id="0")], None, "Error: Tool call parsing failed"),
    ],
)  # fmt: skip
def test_replies_that_are_no_answer(http, client, heard, mode, content, calls, reason, hint):
    reason = "max_tokens" if (mode, reason) == ("anthropic", "length") else reason
    route(http, mode, reply(mode, content, *calls, reason=reason))
    heard.fails(client, mode, hint)


def test_a_temperature_that_anthropic_mode_cannot_reach(http, client, heard):
    heard.fails(client, "anthropic", "0.6", temperature=0.61)
    assert not http.calls


STREAMS = {
    "cut": (sse(delta(content="It"), done=False), "stream was cut"),
    "empty": (sse(done=False), "stream was cut"),
    "only [DONE]": (sse(), "empty reply"),
    "cut in a call": (sse(delta(tool_calls=[{**SUM, "index": 0}]), done=False), "stream was cut"),
    "a status in an event": (sse({"code": 401, "msg": "token expired"}), "token expired"),
    "error event": (sse(delta(content="It"), {"error": {"message": "GPU on fire"}}), "GPU on fire"),
    "named error event": (
        sse('event: error\ndata: {"error": {"message": "GPU on fire"}}\n\n'), "GPU on fire"),
    "error as text": (sse({"error": "overload"}), "overload"),
    "broken event": (sse("data: {\n\n"), "page instead of JSON"),
    "page": (PAGE, "page instead of JSON"),
}  # fmt: skip


@pytest.mark.parametrize("case", STREAMS)
def test_unusable_streams(http, client, heard, case):
    response, hint = STREAMS[case]
    route(http, "streaming", response)
    heard.fails(client, "streaming", hint)


def test_a_connection_that_breaks_in_the_middle_of_a_stream(heard):
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: 9999\r\n\r\n"
    data = f"data: {json.dumps(delta(content='It'))}\n\n".encode()
    with socket_server(head + data) as url:
        with endpoint.make_client(endpoint.Settings(KEY, url)) as client:
            heard.fails(client, "streaming", "stream was cut")
    assert heard.text == ["It"]


class Stream(httpx.SyncByteStream):
    """A body that is made while it is read."""

    def __init__(self, generator):
        self.generator = generator

    def __iter__(self):
        yield from self.generator


def served(generator):
    headers = {"content-type": "text/event-stream"}
    return httpx.Response(200, headers=headers, stream=Stream(generator))


def test_a_timeout_in_a_stream_is_a_timeout(http, client, heard):
    def slow():
        yield b"data: {}\n\n"
        raise httpcore2.ReadTimeout("slow")

    route(http, "streaming", served(slow()))
    heard.fails(client, "streaming", "in time")


@pytest.mark.parametrize("response", [PAGE, body(content=None)])
def test_unusable_replies_of_anthropics_route(http, client, heard, response):
    route(http, "anthropic", response)
    heard.fails(client, "anthropic", "page instead of JSON" if response is PAGE else "empty reply")


def test_errors_of_anthropics_route_are_explained(http, client, heard):
    error = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    http.post(f"{URL}/messages").mock(return_value=httpx.Response(529, json=error))
    heard.fails(client, "anthropic", '"Overloaded"')


@BOTH
def test_finish_reasons_do_not_decide(http, client, heard, mode):
    route(http, mode, reply(mode, "", SUM, reason="stop"), reply(mode, ANSWER, reason="tool_calls"))
    assert heard.run(client, mode) == ANSWER


# --- streaming: what engines really send --------------------------------------------------------


@pytest.mark.parametrize(
    "chunk",
    [
        {"choices": []}, {"choices": None, "usage": None}, {"object": "ping"},
        {"choices": [{"delta": {}, "index": 0}]}, {"choices": [{"delta": None}]}, {"choices": [{}]},
        {"choices": [{"delta": {"content": None, "tool_calls": None, "role": None}}]},
        {"choices": [{"delta": {"content": "", "tool_calls": [], "reasoning_content": None}}]},
        ": keep-alive\n\n", "event: ping\ndata: {}\n\n", "retry: 3\n", "\r\n",
    ],
)  # fmt: skip
def test_chunks_without_news(http, client, heard, chunk):
    news = [delta(content="It is "), delta(content="42."), delta("stop")]
    for place in range(4):
        route(http, "streaming", sse(*news[:place], chunk, *news[place:]))
        assert heard.run(client, "streaming") == ANSWER


def test_usage_wherever_it_comes(http, client, heard):
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    last = delta("stop")
    last["choices"][0]["usage"] = usage
    after = [delta("stop"), {"choices": [], "usage": usage}]
    for events in (after, [last], [{**delta("stop"), "usage": usage}]):
        route(http, "streaming", sse(delta(content="x"), *events))
        heard.run(client, "streaming")
        assert heard.replies[-1].usage == usage


def cut(text, size):
    return [text[i : i + size] for i in range(0, len(text), size)]


NESTED = '{"a": {"b": {}}, "c": [{"d": 1}, {"e": 2}]}'
FIRST, SECOND = {"index": 0, "id": SUM["id"]}, {"index": 1, "id": "w"}
TWO = [(SUM["id"], "calculate", S), ("functions.get_weather:1", "get_weather", W)]
# name: (the fragments, the calls that they are)
FRAGMENTS = {
    "interleaved": (
        [fragment("", "calculate", **FIRST), fragment("", "get_weather", **SECOND)]
        + [fragment(part, index=index)
           for pair in itertools.zip_longest(cut(S, 3), cut(W, 3), fillvalue="")
           for index, part in enumerate(pair)],
        TWO),
    "name and id repeated": (
        [fragment(part, "calculate", **FIRST) for part in cut(S, 1)]
        + [fragment(part, "get_weather", **SECOND) for part in cut(W, 1)],
        TWO),
    "no index": (
        [fragment("", "calculate", id=SUM["id"]), *map(fragment, cut(S, 4)),
         fragment("", "get_weather", id="w"), *map(fragment, cut(W, 4))],
        TWO),
    "id, name and arguments one by one": (
        [FIRST, fragment(None, "calculate", index=0), fragment(S, index=0)], TWO[:1]),
    "name repeated in objects in objects": (
        [fragment(part, "calculate", index=0) for part in ["", *cut(NESTED, 1)]],
        [(SUM["id"], "calculate", NESTED)]),
    "every index is 0": ([{**SUM, "index": 0}, {**WEATHER, "index": 0}], TWO),
    "every index is 0, no id": (
        [fragment(S, "calculate", index=0), fragment(W, "get_weather", index=0, id="")], TWO),
    "every index is 0, one tool": (
        [{**SUM, "index": 0}, {**SUM, "index": 0, "id": "again"}],
        [TWO[0], ("functions.calculate:1", "calculate", S)]),
    "no id": (
        [fragment("", "calculate", index=0, id=None)]
        + [fragment(part, index=0, id="") for part in cut(S, 5)],
        TWO[:1]),
    "arguments as an object": ([fragment(json.loads(S), "calculate", **FIRST)], TWO[:1]),
    "a new id in every fragment": (
        [fragment("", "calculate", index=0, id="a"), fragment(S[:9], index=0, id="b"),
         fragment(S[9:], index=0, id="c")], TWO[:1]),
    "one tool twice, index 0, no ids": (
        [fragment(S, "calculate", index=0), fragment(S, "calculate", index=0)],
        [TWO[0], ("functions.calculate:1", "calculate", S)]),
    "id and name repeated in an empty last fragment": (
        [fragment(S, "calculate", **FIRST), fragment("", "calculate", **FIRST)], TWO[:1]),
    "a function that is null": (
        [fragment(S[:9], "calculate", **FIRST), {"index": 0, "function": None},
         fragment(S[9:], index=0)], TWO[:1]),
    "an empty fragment": ([{"function": None}, fragment(S, "calculate", id=SUM["id"])], TWO[:1]),
}  # fmt: skip


@pytest.mark.parametrize("case", FRAGMENTS)
def test_calls_are_put_together(http, client, heard, case):
    fragments, expected = FRAGMENTS[case]
    route(http, "streaming", stream_call(*fragments), streamed())
    heard.run(client, "streaming")
    calls = [(c["id"], c["function"]["name"], c["function"]["arguments"]) for c, _ in heard.tools]
    assert calls == expected
    assert all(json_object(arguments) for _, _, arguments in calls)


def test_in_a_whole_reply_every_element_is_a_call(http, client, heard):
    again = [{**SUM, "index": 0, "id": None}] * 2
    route(http, "non-streaming", called(*again), said())
    heard.run(client)
    assert [result for _, result in heard.tools] == [RESULT, RESULT]


def labelled(kind, response):
    return httpx.Response(200, headers={"content-type": kind}, content=response.content)


WORDS = [delta(content="It is "), delta(content="42.")]
BODIES = {
    "events labelled as JSON": labelled("application/json", sse(*WORDS, delta("stop"))),
    "an object labelled as a stream": labelled("text/event-stream", said()),
    "an object labelled as text": labelled("text/plain", said()),
    "an object without a finish reason": said(reason=None),
    "[DONE] without a finish reason": sse(*WORDS),
    "a message after the deltas": sse(*WORDS, {"choices": [{"message": {"content": ANSWER}, "finish_reason": "stop"}]}),
    "only a message": sse({"choices": [{"message": {"content": ANSWER}, "finish_reason": "stop"}]}),
    "a list of parts": said([{"type": "text", "text": "It is "}, {"text": "42."}, {"type": "image_url"}]),
    "parts in a delta": sse(delta(content=[{"type": "text", "text": ANSWER}])),
    "a refusal": said(None, refusal=ANSWER),
    "an event in several lines": sse('data: {"choices": [{"delta":\ndata: {"content": "It is 42."}}]}\n\n'),
    "carriage returns": labelled("x", httpx.Response(200, content=sse(*WORDS).content.replace(b"\n", b"\r\n"))),
    "an unknown finish reason": sse(*WORDS, delta("eos_token")),
}  # fmt: skip


@BOTH
@pytest.mark.parametrize("case", BODIES)
def test_a_body_is_what_its_first_characters_say(http, client, heard, mode, case):
    route(http, mode, BODIES[case])
    assert heard.run(client, mode) == "".join(heard.text) == ANSWER


def test_several_fragments_in_one_chunk(http, client, heard):
    route(http, "streaming", sse(delta("stop", tool_calls=[SUM, WEATHER])), streamed())
    heard.run(client, "streaming")
    assert [c["function"]["name"] for c, _ in heard.tools] == ["calculate", "get_weather"]


def test_text_is_shown_the_moment_it_arrives(http, client, heard):
    def words():
        for n, word in enumerate(["one ", "two ", "three"]):
            assert len(heard.text) == n, "the word before was not shown yet"
            yield f"data: {json.dumps(delta(content=word))}\n\n".encode()
        yield f"data: {json.dumps(delta('stop'))}\n\n".encode()

    route(http, "streaming", served(words()))
    heard.run(client, "streaming")
    assert heard.text == ["one ", "two ", "three"]


def test_a_server_that_does_not_stream_is_understood(http, client, heard):
    route(http, "streaming", called(SUM), said())
    assert heard.run(client, "streaming") == ANSWER


def test_collecting_is_linear():
    def seconds(count):
        arguments = json.dumps({"expression": "1" * count * 4})
        chunks = [delta(tool_calls=[fragment(p, "calculate", index=0)]) for p in cut(arguments, 4)]
        start = time.process_time()
        collected = collect([*chunks, delta("tool_calls")])
        assert collected.message["tool_calls"][0]["function"]["arguments"] == arguments
        return time.process_time() - start

    small = min(seconds(20_000) for _ in range(3))
    assert seconds(160_000) < 16 * small + 0.05


# --- thinking, and markers in the text ------------------------------------------------------------


@BOTH
def test_thinking_goes_back_under_one_name_and_is_not_shown(http, client, heard, mode):
    route(
        http, mode, reply(mode, "", SUM, reasoning="Hm."),
        reply(mode, ANSWER, reasoning="", reasoning_content="x"),
    )  # fmt: skip
    heard.run(client, mode)
    assert [m.get("reasoning_content") for m in heard.messages] == [None, "Hm.", None, "x"]
    assert "".join(heard.text) == ANSWER


@pytest.mark.parametrize("mode", ["non-streaming", "streaming", "anthropic"])
def test_markers_are_parsed_and_never_shown(http, client, heard, mode):
    first = reply(mode, f"Let me see.{marked(SUM)}")
    posted = route(http, mode, first, reply(mode, ANSWER))
    assert heard.run(client, mode) == ANSWER
    assert "".join(heard.text) == "Let me see." + ANSWER
    assert heard.messages[1] == {"role": "assistant", "content": "Let me see.", "tool_calls": [SUM]}
    assert heard.tools == [(SUM, RESULT)]
    assert [each.parsed_from_text for each in heard.replies] == [True, False]
    assert "<|" not in json.dumps(sent(posted))


@BOTH
@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_markers_in_the_thinking_are_calls_too(http, client, heard, mode, field):
    first = reply(mode, "", **{field: f" Let me see.{marked(SUM)}\n"})
    posted = route(http, mode, first, reply(mode, ANSWER))
    assert heard.run(client, mode) == ANSWER
    assert heard.tools == [(SUM, RESULT)] and heard.replies[0].parsed_from_text
    went_back = sent(posted)["messages"][1]
    assert went_back["reasoning_content"] == " Let me see.\n"  # as it came, but for the markers
    assert went_back["tool_calls"] == [SUM] and went_back.get(field) == " Let me see.\n"
    assert "<|" not in json.dumps(sent(posted)) and "".join(heard.text) == ANSWER


@BOTH
def test_structured_calls_then_content_then_thinking(http, client, heard, mode):
    content, thought = marked(call(arguments='{"expression": "7 * 8"}')), marked(SUM)
    for calls in ([WEATHER], []):
        first = reply(mode, content, *calls, reasoning_content=thought)
        route(http, mode, first, reply(mode, ANSWER))
        heard.run(client, mode)
        assert heard.replies[-2].parsed_from_text is not bool(calls)
    results = [result.get("city") or result["result"] for _, result in heard.tools]
    assert results == ["Paris", 56] and "<|" not in "".join(heard.text)


@pytest.mark.parametrize("mode", ["non-streaming", "streaming", "manual"])
@pytest.mark.parametrize("reason", ["stop", "length"])
@pytest.mark.parametrize("text", [marked(SUM)[:-60], marked(SUM).replace(SUM["id"], "0").replace(S, "{")])
def test_truncated_or_nameless_calls_are_not_run(http, client, heard, mode, reason, text):
    route(http, mode, reply(mode, text, reason=reason))
    heard.fails(client, mode, "Error: Tool call parsing failed")


def test_what_looks_like_a_marker_is_shown_in_the_end(http, client, heard):
    route(http, "streaming", sse(delta("stop", content="a <| b <|tool")))
    assert heard.run(client, "streaming") == "".join(heard.text) == "a <| b <|tool"


PARIS = {**WEATHER, "id": "functions.get_weather:1"}
QUOTED = {
    "in the middle": (f"The page says {marked(SUM)}, but I will not.", None, []),
    "a quoted one, then a real one": (f"It says {marked(SUM)}. So: {marked(PARIS)}\n", None, ["Paris"]),
    "in the thinking": ("No, I will not.", marked(SUM), []),
    "in the middle of the thinking": ("", f"I could {marked(SUM)}, but no: {marked(PARIS)}", ["Paris"]),
}


@BOTH
@pytest.mark.parametrize("case", QUOTED)
def test_a_call_that_is_only_quoted_is_not_run(http, client, heard, mode, case):
    content, thought, results = QUOTED[case]
    thinking = {"reasoning_content": thought} if thought else {}
    route(http, mode, reply(mode, content, **thinking), reply(mode, ANSWER))
    heard.run(client, mode)
    assert [result["city"] for _, result in heard.tools] == results
    assert "<|" not in "".join(heard.text)


CUT = [({"max_tokens": 7}, 7, MODES), ({"extra_body": {"max_tokens": 7}}, 7, MODES),
       ({}, 4096, ["manual"]), ({}, 16_000, ["anthropic"])]  # fmt: skip


@pytest.mark.parametrize(
    ("options", "tokens", "mode"), [(o, t, mode) for o, t, modes in CUT for mode in modes]
)
def test_a_reply_that_used_up_its_limit_was_cut(http, client, heard, options, tokens, mode):
    """vLLM up to 0.32 then says tool_calls and fills in {}."""
    response = reply(mode, "", call("now", "{}", "functions.now:0"))
    if mode == "streaming":
        usage = {"choices": [], "usage": {"completion_tokens": tokens}}
        response = stream_call(call("now", "{}"), usage=usage)
    else:
        names = {"input_tokens": 1, "output_tokens": tokens, "completion_tokens": tokens}
        response = httpx.Response(200, json={**response.json(), "usage": names})
    route(http, mode, response)
    now = [{"type": "function", "function": {"name": "now"}}]
    heard.fails(client, mode, f"limit of {tokens} tokens", tools=now, functions={"now": dict}, **options)


@ALL
def test_extra_body_is_merged_into_every_request_and_wins(http, client, heard, mode):
    posted = route(http, mode, reply(mode, "", SUM), reply(mode, ANSWER))
    extra = {"reasoning_effort": "low", "model": "another", "max_tokens": 99}
    heard.run(client, mode, extra_body=extra)
    assert [{name: sent(posted, n)[name] for name in extra} for n in (0, 1)] == [extra, extra]


@BOTH
@pytest.mark.parametrize("thought", ["Hm.", ""])
@pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])
def test_once_there_was_reasoning_every_call_has_some(http, client, heard, mode, thought, field):
    replies = [reply(mode, "", SUM, **{field: thought}), reply(mode, "", SUM), reply(mode, ANSWER)]
    posted = route(http, mode, *replies)
    heard.run(client, mode)
    first, second = [m for m in sent(posted)["messages"] if m["role"] == "assistant"]
    assert [m["reasoning_content"] for m in (first, second)] == [thought or " ", " "]
    assert first.get(field) == (thought if field == "reasoning" else thought or " ")
    posted = route(http, "anthropic", reply("anthropic", ANSWER))
    heard.run(client, "anthropic", [*heard.messages, {"role": "user", "content": "?"}])
    kinds = [b["type"] for turn in sent(posted)["messages"] for b in turn["content"]]
    assert kinds.count("thinking") == bool(thought)


def test_thinking_goes_back_with_its_signature_and_only_to_anthropics_route(http, client, heard):
    blocks = [{"type": "thinking", "thinking": "", "signature": "s"}, {"type": "thinking", "signature": "t"},
              {"type": "redacted_thinking", "data": "x"}]  # fmt: skip
    use = {"type": "tool_use", "id": "x", "name": "calculate", "input": json.loads(S)}
    usage = {"input_tokens": 3, "output_tokens": 4}
    first = httpx.Response(200, json={"content": [*blocks, use], "stop_reason": "tool_use", "usage": usage})
    posted = route(http, "anthropic", first, reply("anthropic", ANSWER))
    heard.run(client, "anthropic")
    assert sent(posted)["messages"][1]["content"][:3] == blocks
    assert heard.replies[0].usage == {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
    chat = route(http, "non-streaming", said())
    heard.run(client, messages=[*heard.messages, {"role": "user", "content": "?"}])
    assert "thinking_blocks" not in json.dumps(sent(chat))


def test_the_sdks_own_objects_can_be_in_the_history(http, client, heard):
    posted = route(http, "non-streaming", called(SUM), said())
    message = client.chat.completions.create(model=MODEL, messages=[]).choices[0].message
    result = {"role": "tool", "tool_call_id": SUM["id"], "content": "42"}
    by_hand = {"role": "assistant", "content": None, "tool_calls": message.tool_calls}
    for made in (message, by_hand):
        route(http, "non-streaming", said())
        heard.run(client, messages=[{"role": "user", "content": "?"}, made, result])
        assert sent(posted)["messages"][1]["tool_calls"] == [SUM]


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        ({"functions": {}}, "functions does not have it"), ({"mode": "x"}, "no mode 'x'"),
        ({"tools": [{"type": "function", "function": {"name": "pay"}}]}, "'pay'"),
        ({"messages": ["Hi"]}, "no message"), ({"messages": [{"content": "Hi"}], "mode": "manual"}, "Unexpected"),
    ],
)  # fmt: skip
def test_a_mistake_of_the_caller_is_said_before_anything_is_sent(http, client, options, hint):
    with pytest.raises(KimiError, match=hint):
        run_loop(client, MODEL, **{"messages": [{"role": "user", "content": "?"}], **options})
    assert not http.calls


@ALL
def test_what_a_callback_raises_is_not_changed(http, client, mode):
    def fail(*_):
        raise TypeError("mine")

    for callback in ("on_text", "on_reply", "on_tool"):
        route(http, mode, reply(mode, "Let me see.", SUM))
        with pytest.raises(TypeError, match="mine"):
            run_loop(client, MODEL, [{"role": "user", "content": "?"}], mode, **{callback: fail})


@pytest.mark.parametrize(
    ("written", "kept", "sent_back"),
    [
        ("functions.get_weather:0", "get_weather", "get_weather"),
        ("functionsget_weather5", "get_weather", "get_weather"),
        ("functions_get_weather_1", "get_weather", "get_weather"),
        ("look up!", "look up!", "look_up_"), ("1st", "1st", "_1st"), ("天气", "天气", "__"),
    ],
)  # fmt: skip
def test_which_tool_is_meant(http, client, heard, written, kept, sent_back):
    posted = route(http, "non-streaming", called(call(written, W)), said())
    heard.run(client)
    assert heard.messages[1]["tool_calls"][0]["function"]["name"] == heard.messages[2]["name"] == kept
    back = sent(posted)["messages"]
    assert [back[1]["tool_calls"][0]["function"]["name"], back[2]["name"]] == [sent_back] * 2
    assert ("error" in heard.tools[0][1]) is (kept != "get_weather")


# --- where Anthropic's route is, and from one mode into another -----------------------------------


@pytest.mark.parametrize("end", ["ai", "cn"])
def test_anthropics_route_on_moonshot(http, heard, end):
    posted = http.post(f"https://api.moonshot.{end}/anthropic/v1/messages")
    posted.mock(return_value=reply("anthropic", ANSWER))
    settings = endpoint.Settings(KEY, f"https://api.moonshot.{end}/v1")
    with endpoint.make_client(settings) as client:
        assert heard.run(client, "anthropic") == ANSWER
    assert posted.called


@pytest.mark.parametrize("pair", list(itertools.product(MODES, MODES)), ids="-".join)
def test_a_conversation_goes_on_in_another_mode(heard, pair):
    with serve() as url, openai.OpenAI(api_key=KEY, base_url=url) as client:
        messages = [{"role": "user", "content": "Weather in Paris, and what is 6 * 7?"}]
        first = heard.run(client, pair[0], messages)
        assert "Paris" in first and "42" in first
        messages.append({"role": "user", "content": "And in Tokyo, and 7 * 8?"})
        second = heard.run(client, pair[1], messages)
        assert "Tokyo" in second and "56" in second and "Paris" not in second
    ids = [c["id"] for message in messages for c in message.get("tool_calls", [])]
    assert len(ids) == len(set(ids)) == 4
    assert all(isinstance(message["content"], str) for message in messages)


@ALL
def test_pending_results_are_answered_in_any_mode(http, client, heard, mode):
    """Calls and results are in the history, the answer is still to come."""
    route(http, mode, reply(mode, ANSWER))
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
    assert all(words in json.dumps(body) for words in ("42", "Be brief.", "Paris"))
    if mode in ("streaming", "non-streaming"):
        assert body["messages"] == history
    if mode == "anthropic":
        kinds = [block["type"] for block in body["messages"][1]["content"]]
        assert kinds == ["thinking", "tool_use", "tool_use"]
