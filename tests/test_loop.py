"""The loop and its four ways to ask, over intercepted HTTP under the SDK's real client."""

import itertools
import json
import time

import httpcore2
import httpx
import openai
import pytest
from conftest import (
    CHAT, KEY, MODEL, PAGE, SUM, USAGE, WEATHER, S, W, call, called, delta, marked, reply, route,
    said, sent, sse,
)  # fmt: skip
from openai.types.chat import ChatCompletionMessage

from tools import FUNCTIONS, TOOLS
from tools.errors import KimiError, explain
from tools.loop import MODES, run_loop
from tools.offline import serve
from tools.reply import collect

ANSWER = "It is 42."
RESULT = {"expression": "6 * 7", "result": 42}
SUM_RESULT = {"role": "tool", "tool_call_id": SUM["id"], "name": "calculate"}
SUM_RESULT["content"] = json.dumps(RESULT)
QUESTION = {"role": "user", "content": "?"}
STREAM = {"non-streaming": {}, "streaming": {"stream": True}}
BOTH = pytest.mark.parametrize("mode", STREAM)
ALL = pytest.mark.parametrize("mode", MODES)


class Heard:
    """Runs the loop and records its callbacks."""

    def __init__(self):
        self.text, self.tools, self.replies = [], [], []

    def run(self, client, mode="non-streaming", messages=None, **options):
        self.messages = [QUESTION] if messages is None else messages
        return run_loop(
            client, MODEL, self.messages, mode, on_text=self.text.append,
            on_tool=lambda *made: self.tools.append(made), on_reply=self.replies.append, **options,
        )  # fmt: skip

    def fails(self, client, mode, hint, **options):
        """Run the loop; check that it ends with this message and leaves the history alone."""
        with pytest.raises((KimiError, openai.OpenAIError)) as raised:
            self.run(client, mode, **options)
        assert hint in explain(raised.value) and explain(raised.value).startswith("Error: ")
        assert self.messages == [QUESTION] and self.tools == []


@pytest.fixture
def heard():
    return Heard()


@ALL
def test_a_whole_conversation(http, client, heard, mode):
    first = reply(mode, "Let me see.", SUM, audio=None, annotations="")  # which nobody needs
    posted = route(http, mode, first, reply(mode, ANSWER))
    assert heard.run(client, mode) == ANSWER
    assert "".join(heard.text) == "Let me see." + ANSWER
    assert heard.tools == [(SUM, RESULT)]
    asked = [QUESTION, {"role": "assistant", "content": "Let me see.", "tool_calls": [SUM]}]
    assert heard.messages == [*asked, SUM_RESULT, {"role": "assistant", "content": ANSWER}]
    reasons = {"manual": ["stop", "stop"], "anthropic": ["tool_use", "end_turn"]}
    assert [r.finish_reason for r in heard.replies] == reasons.get(mode, ["tool_calls", "stop"])
    assert [r.parsed_from_text for r in heard.replies] == [mode == "manual", False]
    assert [r.usage for r in heard.replies] == [USAGE, USAGE]  # OpenAI's names in every mode
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
        rest = {"tools": TOOLS, "tool_choice": "auto", **STREAM[mode]}
        assert body == {"model": MODEL, "messages": heard.messages[:3], **rest}


@ALL
def test_options_reach_the_request_and_extra_body_wins(http, client, heard, mode):
    answer = reply(mode, ANSWER)
    posted = route(http, mode, answer, answer, reply(mode, "", SUM), answer)
    for real, converted in ((0, 0), (0.3, 0.5)):
        heard.run(client, mode, tools=None, temperature=real, max_tokens=7)
        assert sent(posted)["temperature"] == (converted if mode == "anthropic" else real)
    limit = "max_tokens" if mode in ("manual", "anthropic") else "max_completion_tokens"
    assert sent(posted)[limit] == 7 and not sent(posted).keys() & {"tools", "tool_choice"}
    extra = {
        "model": "other", "temperature": 1, limit: 9, "tool_choice": "none", "stop": ["x"],
        "skip_special_tokens": True, "thinking": {"type": "enabled"}, "stream_options": {"a": 1},
    }  # fmt: skip
    heard.run(client, mode, temperature=0.3, max_tokens=7, extra_body=extra)
    assert all(extra.items() <= sent(posted, n).items() for n in (2, 3))


CIRCLE = {"role": "user"}
CIRCLE["content"] = CIRCLE
MISTAKES = [
    ({"mode": "x"}, "no mode 'x'"), ({"functions": {}}, "describes 'get_weather'"),
    ({"mode": "anthropic", "temperature": 0.61}, "from 0 to 0.6"),
    ({"messages": ["Hi"]}, "dict with a role"), ({"messages": [object()]}, "dict with a role"),
    ({"messages": [{"role": "assistant", "tool_calls": [{}]}]}, "dict with a role"),
    ({"messages": [{"role": "tool"}], "mode": "anthropic"}, "tool_call_id"),
    ({"messages": [CIRCLE]}, "dict with a role"), ({"messages": (QUESTION,)}, "not a list"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "hint"), MISTAKES)
def test_a_callers_mistake_is_said_before_anything_is_sent(http, client, heard, options, hint):
    with pytest.raises(KimiError, match=hint):
        heard.run(client, **options)
    assert not http.calls


@ALL
def test_a_history_from_elsewhere_is_sent_in_any_mode(http, client, heard, mode):
    """Calls by hand and of the SDK, null fields, and an answer that is still to come."""
    posted = route(http, mode, reply(mode, ANSWER))
    of_the_sdk = ChatCompletionMessage(role="assistant", content=None, tool_calls=[WEATHER])
    by_hand = {"role": "assistant", "refusal": None, "reasoning": "Hm."}
    by_hand["tool_calls"] = [call(arguments=json.loads(S))]
    error = {"role": "tool", "tool_call_id": "w", "content": '{"error": "no"}'}
    system = {"role": "system", "content": [{"type": "text", "text": "Be brief."}]}
    asked = {**QUESTION, "name": "Zoë"}
    history = [system, asked, by_hand, SUM_RESULT, of_the_sdk, error]
    assert heard.run(client, mode, list(history)) == ANSWER
    assert heard.messages == [*history, {"role": "assistant", "content": ANSWER}]
    assert by_hand["tool_calls"] == [call(arguments=json.loads(S))] and "refusal" in by_hand
    request = posted.calls[0].request.content.decode()
    assert all(word in request for word in ("Be brief.", "Paris", "6 * 7", "42"))
    if mode in STREAM:
        rest = {"role": "assistant", "content": ""}
        first = {**rest, "reasoning": "Hm.", "reasoning_content": "Hm.", "tool_calls": [SUM]}
        second = {**rest, "reasoning_content": " ", "tool_calls": [WEATHER]}
        assert sent(posted)["messages"] == [system, asked, first, SUM_RESULT, second, error]


ARGUMENTS = [
    *[(text, {"invalid_arguments": text})
      for text in ('{"expression": ', "[1]", "x", '"x"', '{"x": NaN}', '{"x": 1e999}')],
    ("", {}), (None, {}), (" ", {}), ('{"a": "1\n2"}', {"a": "1\n2"}),
    (json.dumps(S), json.loads(S)), ('{"expression": "\\ud83d"}', {"expression": "\ufffd"}),
]  # fmt: skip


@BOTH
@pytest.mark.parametrize(("text", "went_back"), ARGUMENTS)
def test_arguments_go_back_as_strict_json(http, client, heard, mode, text, went_back):
    posted = route(http, mode, reply(mode, "", call(arguments=text)), reply(mode, ANSWER))
    assert heard.run(client, mode) == ANSWER
    assert heard.tools[0][0]["function"]["arguments"] == (text or "")
    assert ("JSON object" in str(heard.tools[0][1])) is ("invalid_arguments" in went_back)
    arguments = sent(posted)["messages"][1]["tool_calls"][0]["function"]["arguments"]
    assert json.loads(arguments) == went_back


TO_WEATHER = ("functionsget_weather5", "functions_get_weather_1", "functions.get_weather:0")
NAMES = [  # (as the model wrote it, in the history, as it goes back)
    *[(name, "get_weather", "get_weather") for name in TO_WEATHER], ("7up", "7up", "_7up"),
    ("no such tool!", "no such tool!", "no_such_tool_"), ("größe", "größe", "gr__e"),
    ("x" * 300, "x" * 300, "x" * 64), ("$web_search", "$web_search", "$web_search"),
]  # fmt: skip


@BOTH
@pytest.mark.parametrize(("written", "in_history", "went_back"), NAMES)
def test_which_tool_is_meant(http, client, heard, mode, written, in_history, went_back):
    posted = route(http, mode, reply(mode, "", call(written, W)), reply(mode, ANSWER))
    others = {"type": "builtin_function", "function": {"name": "$web_search"}}, {"type": "x"}
    functions = {**FUNCTIONS, "$web_search": lambda **query: query}
    heard.run(client, mode, tools=[*TOOLS, *others], functions=functions)
    assert ("city" in heard.tools[0][1]) is (in_history in ("get_weather", "$web_search"))
    for messages, name in ((heard.messages, in_history), (sent(posted)["messages"], went_back)):
        assert messages[1]["tool_calls"][0]["function"]["name"] == messages[2]["name"] == name
    assert sent(posted)["tools"] == [*TOOLS, *others]


def test_every_id_names_the_function_and_counts_over_the_conversation(http, client, heard):
    posted = route(
        http, "non-streaming",
        called(call(call_id="a"), call("get_weather", "{}", "a")),
        called(call("functions.calculate:0", call_id=None), call(call_id="functions.calculate:0")),
        said(), called(SUM, SUM), said(),
    )  # fmt: skip
    heard.run(client)
    messages = sent(posted)["messages"]
    names = ["calculate", "get_weather", "calculate", "calculate"]
    ids = [f"functions.{name}:{number}" for number, name in enumerate(names)]
    assert [c["id"] for message in messages for c in message.get("tool_calls", [])] == ids
    assert [m["tool_call_id"] for m in messages if m["role"] == "tool"] == ids
    assert [(c["id"], c["function"]["name"]) for c, _ in heard.tools] == list(zip(ids, names))
    heard.run(client, messages=messages[4:])  # it has lost the calls 0 and 1, but has 2 and 3
    assert [c["id"][-2:] for c, _ in heard.tools[-2:]] == [":4", ":5"]


@BOTH
@pytest.mark.parametrize("place", ["on_text", "on_reply", "on_tool"])
@pytest.mark.parametrize("kind", [KeyboardInterrupt, TypeError])
def test_what_a_callback_raises_passes_and_the_history_can_go_on(http, client, mode, place, kind):
    def stop(*arguments):
        raise error

    error, messages = kind("mine"), [QUESTION]
    first = reply(mode, "Let me see.", SUM, WEATHER)
    posted = route(http, mode, first, reply(mode, ANSWER))
    with pytest.raises(kind) as raised:
        run_loop(client, MODEL, messages, mode, **{place: stop})
    assert raised.value is error
    results = [json.loads(m["content"]) for m in messages if m["role"] == "tool"]
    assert [list(result)[-1] for result in results] == ["result", "error"] * (place == "on_tool")
    assert run_loop(client, MODEL, messages, mode) == ANSWER
    went = sent(posted)["messages"]
    calls = [c["id"] for m in went for c in m.get("tool_calls", [])]
    assert [m["tool_call_id"] for m in went if m["role"] == "tool"] == calls


def test_halves_of_emoji_do_not_break_the_next_request(http, client, heard):
    functions = {**FUNCTIONS, "get_weather": lambda city: city}
    calls = [call("get_weather", '{"city": "\\ud83d"}', "x")]
    pieces = delta(content="\ud83d"), delta(content="\ude00 \ud83d"), delta("x", tool_calls=calls)
    posted = route(http, "streaming", sse(*pieces), said())
    heard.run(client, "streaming", functions=functions)
    assert sent(posted)["messages"][1]["content"] == "😀 \ufffd" == heard.messages[1]["content"]
    assert "\ufffd" in sent(posted)["messages"][2]["content"]


def test_a_model_that_calls_for_ever_is_stopped(http, client, heard):
    posted = http.post(CHAT).mock(side_effect=lambda request: called(call(call_id="")))
    with pytest.raises(KimiError, match="still calling tools after 10 requests"):
        heard.run(client)
    assert posted.call_count == 10
    with pytest.raises(KimiError, match="after 2 requests"):
        heard.run(client, max_turns=2)


def body(**fields):
    return httpx.Response(200, json=fields)


def labelled(label, text):
    return httpx.Response(200, headers={"content-type": label}, content=text)


PIECES = [delta(content="It is "), delta(content="42."), delta("stop")]
STOP = {"delta": {}, "finish_reason": "stop"}
REPEATED = {"choices": [{"delta": {}, "message": {"content": ANSWER}, "finish_reason": "stop"}]}
PARTS = [{"type": "text", "text": "It is "}, {"type": "text", "text": "42."}]
NO_NEWS = [
    {"choices": []}, {"choices": None, "usage": None}, {"object": "ping"},
    {"choices": [{"delta": {}, "index": 0}]}, {"choices": [{"delta": None}]}, {"choices": [{}]},
    {"choices": [{"delta": {"content": None, "tool_calls": None, "role": None}}]},
    {"choices": [{"delta": {"content": "", "tool_calls": [], "reasoning_content": None}}]},
    ": keep-alive\n\n", "event: ping\ndata: {}\n\n", "retry: 3\n", "\r\n",
]  # fmt: skip
NO_COUNTS = ["many", [1], None, *({"completion_tokens": n} for n in ("9", None, 9.5))]
UNDERSTOOD = {
    "whole": said(), "no [DONE]": sse(*PIECES, done=False), "[DONE] is enough": sse(*PIECES[:2]),
    "events labelled as JSON": sse(*PIECES, headers={"content-type": "application/json"}),
    "events labelled as text": sse(*PIECES, headers={"content-type": "text/plain"}),
    "JSON labelled as events": labelled(
        "text/event-stream", "\ufeff" + json.dumps(said().json(), indent=1)),
    "CRLF and no space": labelled(
        "x", b"\r\n" + sse(*PIECES).content.replace(b"\n", b"\r\n").replace(b"data: ", b"data:")),
    "an event in two lines": sse(*PIECES[:2], 'data: {"choices":\ndata: []}\n\n'),
    "an event that is no JSON": sse("data: ping\n\n", *PIECES),
    "cut after the finish reason": sse(*PIECES, 'data: {"choi', done=False),
    "no finish reason": said(ANSWER, None), "a list of parts": said(PARTS),
    "a message after the deltas": sse(*PIECES[:2], REPEATED), "only a message": sse(REPEATED),
    "parts in a delta": sse(delta(content=PARTS), PIECES[2]), "refusal": said(None, refusal=ANSWER),
    "refusal in deltas": sse(delta(refusal="It is "), delta(refusal="42."), PIECES[2]),
    "completion texts": sse(*[{"choices": [{"text": text}]} for text in ("It is ", "42.")]),
    **{f"{field}: first": sse(f"{field}: 1\n", *PIECES) for field in ("event", "id", "retry", "")},
    "cut after the finish reason": sse(*PIECES, "data: {", done=False),
    "no news": sse(*NO_NEWS, PIECES[0], *NO_NEWS, *PIECES[1:], *NO_NEWS),
    **{f"the reason {each}": said(ANSWER, each) for each in ("eos", "stop_sequence", "tool_calls")},
    "counted in the choice": sse(*PIECES[:2], {"choices": [{**STOP, "usage": USAGE}]}),
    "counted beside it": sse(*PIECES[:2], {"choices": [STOP], "usage": USAGE}),
    "counted after it": sse(*PIECES, {"choices": [], "usage": USAGE}),
    **{f"usage is {each}": said(usage=each) for each in NO_COUNTS},
}  # fmt: skip


@ALL
@pytest.mark.parametrize("case", UNDERSTOOD)
def test_bodies_that_are_understood(http, client, heard, case, mode):
    route(http, mode, UNDERSTOOD[case])
    assert heard.run(client, mode, max_tokens=9) == "".join(heard.text) == ANSWER
    assert "counted" not in case or heard.replies[0].usage == USAGE


EXPIRED = {"code": 401, "msg": "token expired"}
LM_STUDIO = "Unexpected endpoint or method. (POST /chat/completions)"
NO_JSON, CUT, EMPTY = "page instead of JSON", "stream was cut", "empty reply"
BAD = {
    "no choices": (body(object="chat.completion", choices=[]), "an error, not a reply"),
    "null choices": (body(choices=None), "an error, not a reply"),
    "LM Studio without /v1": (body(error=LM_STUDIO), "base URL"),
    "a status in the body": (body(**EXPIRED), 'not accept the key: "token expired"'),
    "a status in an event": (sse(EXPIRED), 'not accept the key: "token expired"'),
    "error in a 200": (body(error={"message": "out of order", "type": "x"}), "out of order"),
    "error text in a 200": (body(error="overload"), "overload"),
    "error object": (sse(PIECES[0], {"object": "error", "message": "on fire"}), "on fire"),
    "another object": (sse({"x": 1}, done=False), "an error, not a reply"),
    "error event": (sse(delta(content="It"), {"error": {"message": "on fire"}}), "on fire"),
    "named error event": (sse('event: error\ndata: {"error": "on fire"}\n\n'), "on fire"),
    "page": (PAGE, NO_JSON), "broken JSON": (labelled("application/json", "{"), "broken JSON"),
    "no UTF-8": (labelled("text/event-stream", b"\xff\xfe"), NO_JSON),
    "no UTF-8 as JSON": (labelled("application/json", b"\x80"), NO_JSON),
    "words": (labelled("text/plain", "upstream error"), 'not a reply: "upstream error"'),
    "broken event": (sse("data: {\n\n"), "broken JSON"), "cut": (sse(PIECES[0], done=False), CUT),
    "words after some text": (sse(PIECES[0], {"detail": "boom"}), '"boom"'),
    "a limit, then a stop": (sse(PIECES[0], delta("length"), delta("stop")), "output limit"),
    "a code after some text": (sse(PIECES[0], {"code": 503, "message": "boom"}), '"boom"'),
    "a code in the error": (body(error={"code": 401, "message": "x"}), "did not accept the key"),
    "money": (body(error={"message": "check your account balance"}), "no balance"),
    "cut in a call": (sse(delta(tool_calls=[SUM]), done=False), CUT),
    "nothing": (labelled("text/event-stream", ""), CUT), "only [DONE]": (sse(), EMPTY),
    "null message": (body(choices=[{"message": None, "finish_reason": "stop"}]), EMPTY),
    "blank": (said(" \n "), EMPTY), "no blocks": (reply("anthropic", ""), EMPTY),
    "only thoughts": (said("", reasoning_content="Hm."), EMPTY),
    "tool_calls with none": (said("", "tool_calls", tool_calls=[]), EMPTY),
}  # fmt: skip


@ALL
@pytest.mark.parametrize("case", BAD)
def test_unusable_replies(http, client, heard, case, mode):
    route(http, mode, BAD[case][0])
    heard.fails(client, mode, BAD[case][1])


def mutants(value):
    """A JSON value with each of its parts, and the whole, in turn replaced by something odd."""
    yield from (None, True, 7, "x", [7], {"x": 7}, [{"x": [7]}])
    parts = range(len(value)) if isinstance(value, list) else value
    for part in parts if isinstance(value, (list, dict)) else ():
        for mutant in mutants(value[part]):
            copy = value.copy()
            copy[part] = mutant
            yield copy


@pytest.mark.parametrize("mode", [*MODES, "streaming in events"])
def test_whatever_a_server_sends_no_other_exception_is_raised(http, client, mode):
    mode, _, in_events = mode.partition(" ")
    good = called(SUM, content="x", reasoning="Hm.").json()
    if in_events:
        good = delta("tool_calls", content="x", tool_calls=[{**SUM, "index": 0}], reasoning="Hm.")
    elif mode in ("manual", "anthropic"):
        good = reply(mode, "x", SUM).json()
        good.get("content", []).append({"type": "thinking", "thinking": "Hm.", "signature": "x"})
    for odd in mutants(good):
        messages, response = [QUESTION], sse(odd) if in_events else httpx.Response(200, json=odd)
        route(http, mode, response, reply(mode, ANSWER), reply(mode, ANSWER))
        try:
            assert isinstance(run_loop(client, MODEL, messages, mode), str)
            assert run_loop(client, MODEL, messages, mode) == ANSWER  # the history can go on
        except (KimiError, openai.OpenAIError) as error:
            assert explain(error).startswith("Error: ") and messages == [QUESTION]


@ALL
@pytest.mark.parametrize(
    ("error", "hint"),
    [(httpcore2.ReadTimeout, "in time"), (httpcore2.RemoteProtocolError, "was cut")],
)
def test_text_is_shown_the_moment_it_arrives_until_it_breaks_off(
    http, client, heard, mode, error, hint
):
    def body(request):
        for n, word in enumerate(words):
            assert heard.text == (words[:n] if mode == "streaming" else [])
            yield f"data: {json.dumps(delta(content=word))}\n\n".encode()
        raise error("x")

    words = ["one ", "two ", "three"]
    route(http, mode).mock(side_effect=lambda request: httpx.Response(200, content=body(request)))
    heard.fails(client, mode, hint)
    assert heard.text == (words if mode == "streaming" else [])


def test_a_connection_lost_after_the_finish_reason_has_done_its_work(http, client, heard):
    def body():
        yield sse(*PIECES, done=False).content
        raise httpcore2.RemoteProtocolError("x")

    route(http, "streaming", httpx.Response(200, content=body()))
    assert heard.run(client, "streaming") == ANSWER


ENDINGS = {
    "length": "output limit", "max_tokens": "output limit", "MAX_TOKENS": "output limit",
    "content_filter": "content filter", "sensitive": "content filter", "pause_turn": "paused",
    "refusal": "refused to answer (refusal)", "model_context_window_exceeded": "context window",
    "error": "broke off", "abort": "(abort)", "insufficient_system_resource": "broke off",
}  # fmt: skip


@ALL
@pytest.mark.parametrize("calls", [[], [SUM]])
@pytest.mark.parametrize("reason", ENDINGS)
def test_reasons_that_are_no_normal_end(http, client, heard, mode, calls, reason):
    route(http, mode, reply(mode, "It is", *calls, reason=reason))
    heard.fails(client, mode, ENDINGS[reason] + (': "It is"' if reason == "refusal" else ""))


EXTRA = [{"extra_body": {name: 7}} for name in ("max_tokens", "max_completion_tokens")]


@ALL
@pytest.mark.parametrize("options", [{}, {"max_tokens": 7}, *EXTRA, {"max_tokens": 9, **EXTRA[0]}])
def test_a_reply_that_used_up_its_limit_was_cut(http, client, heard, mode, options):
    """vLLM up to 0.32 says "tool_calls" and fills in {}: enough for a tool without parameters."""
    ran, mine = [], {"tools": [{"function": {"name": "ping"}}], **options}
    mine["functions"] = {"ping": lambda: ran.append(1)}
    limit = 7 if options else {"manual": 4096, "anthropic": 16_000}.get(mode)
    for tokens, is_cut in ((limit, True), (limit - 1, False)) if limit else ((10**6, False),):
        usage = {"prompt_tokens": 1, "completion_tokens": tokens}
        ping = reply(mode, "", call("ping", "{}", "functions.ping:0"), usage=usage)
        posted = route(http, mode, ping, reply(mode, ANSWER))
        if is_cut:
            heard.fails(client, mode, f"output limit of {limit} tokens", **mine)
            assert mode not in STREAM or 9 not in sent(posted).values()  # not a second limit
        else:
            assert ran == [] and heard.run(client, mode, **mine) == ANSWER and ran == [1]


def fragment(index=None, call_id=None, name=None, arguments=None):
    """A piece of a streamed call."""
    return {"index": index, "id": call_id, "function": {"name": name, "arguments": arguments}}


NESTED = '{"a": {"b": {}}, "c": [{"d": 1}, {"e": 2}]}'
A, B, C, G = SUM["id"], "w", "calculate", "get_weather"
ONE = [(A, C, S)]
TWO, TWICE = [*ONE, ("functions.get_weather:1", G, W)], [*ONE, ("functions.calculate:1", C, S)]
# name: (the fragments, the calls that they are)
FRAGMENTS = {
    "interleaved": ([(0, A, C, ""), (1, B, G, ""), (0, None, None, S[:5]), (1, None, None, W[:5]),
                     (0, None, None, S[5:]), (1, None, None, W[5:])], TWO),
    "name, id repeated": ([(0, A, C, part) for part in S] + [(1, B, G, part) for part in W], TWO),
    "no id, an empty end": ([(0, None, C, part) for part in ("", S, "")], ONE),
    "name and id again at the end": (
        [(0, A, C, S), (0, None, None, " "), (0, A, C, " ")], [(A, C, S + "  ")]),
    "twice, with nothing between": (
        [(0, "a", C, S), (0, None, None, ""), (0, "b", C, S)], TWICE),
    "a new id in each": ([(0, "a", C, ""), (0, "b", None, S[:9]), (0, "c", None, S[9:])], ONE),
    "no index": ([(None, A, C, ""), *[(None, None, None, part) for part in S],
                  (None, B, G, ""), *[(None, None, None, part) for part in W]], TWO),
    "one by one": ([(0, A), (0, None, C), (0, None, None, S)], ONE),
    "name repeated in nested objects": (
        [(0, None, C, part) for part in ["", *NESTED]], [(A, C, NESTED)]),
    "every index is 0": ([(0, A, C, S), (0, B, G, W)], TWO),
    "every index is 0, no id": ([(0, None, C, S), (0, "", G, W)], TWO),
    "every index is 0, one tool": ([(0, A, C, S), (0, "again", C, S)], TWICE),
    "every index is 0, one tool, no id": ([(0, None, C, S), (0, None, C, S)], TWICE),
    "blanks after a call": ([(0, A, C, S), *[(0, A, None, "\n")] * 8, (0, B, C, S)],
                            [(A, C, S + "\n" * 8), TWICE[1]]),
    "no id": ([(0, None, C, ""), *[(0, "", None, part) for part in S]], ONE),
    "arguments as an object": ([(0, A, C, json.loads(S))], ONE),
}  # fmt: skip
TWO_CALLS = called(SUM, WEATHER).json()
RESPONSES = {
    **{case: (sse(*[delta(tool_calls=[fragment(*each)]) for each in fragments]), calls)
       for case, (fragments, calls) in FRAGMENTS.items()},
    "null functions": (sse(*[delta(tool_calls=[c]) for c in ({"function": None}, SUM, {})]), ONE),
    "two at once": (sse(delta(tool_calls=[fragment(None, A, C), fragment(None, B, G)]),
                        delta(tool_calls=[fragment(arguments=S), fragment(arguments=W)])), TWO),
    "several in one chunk": (sse(delta("stop", tool_calls=[SUM, WEATHER])), TWO),
    "a message after the deltas": (sse(delta(tool_calls=[SUM, WEATHER]), TWO_CALLS), TWO),
    "whole": (called(SUM, WEATHER), TWO),
    "calls in the text": (called(SUM, content=marked(WEATHER), reasoning=marked(WEATHER)), ONE),
    "whole, every index is 0": (called({**SUM, "index": 0}, {**SUM, "index": 0}), TWICE),
    "whole, no id": (called(fragment(0, None, C, S), fragment(0, None, C, S)), TWICE),
}  # fmt: skip


@BOTH
@pytest.mark.parametrize("case", RESPONSES)
def test_calls_are_put_together(http, client, heard, case, mode):
    route(http, mode, RESPONSES[case][0], reply(mode, ANSWER))
    heard.run(client, mode)
    assert [(c["id"], *c["function"].values()) for c, _ in heard.tools] == RESPONSES[case][1]
    assert not heard.replies[0].parsed_from_text and "<|" not in "".join(heard.text)


def test_many_fragments_of_one_call_take_linear_time():
    parts = ['{"expression": "1"', *[" "] * 40_000, "}"]
    pieces = [delta(tool_calls=[fragment(0, None, C, part)]) for part in parts]
    start = time.process_time()
    assert len(collect([*pieces, delta("stop")]).message["tool_calls"]) == 1
    assert time.process_time() - start < 2  # quadratic would be twelve seconds


THOUGHTS = [  # (what came with each call; what goes back with each call and with the answer)
    ([{}, {}], [None, None, None]), ([{"reasoning_content": ""}, {}], [" ", " ", None]),
    ([{}, {"reasoning": "Hm."}, {}], [" ", "Hm.", " ", None]),
    ([{"reasoning": "", "reasoning_content": "x"}], ["x", None]),
    ([{"reasoning": "Hm.", "reasoning_content": "Hm."}], ["Hm.", None]),
]  # fmt: skip


@BOTH
@pytest.mark.parametrize(("thoughts", "went_back"), THOUGHTS)
def test_once_there_was_a_thought_each_call_has_one(http, client, heard, mode, thoughts, went_back):
    turns = [reply(mode, "", SUM, **thought) for thought in thoughts]
    posted = route(http, mode, *turns, reply(mode, ANSWER), reply(mode, ANSWER))
    assert heard.run(client, mode) == ANSWER
    if thoughts[0] == {}:  # until then, nothing is sent
        assert "reasoning" not in posted.calls[1].request.content.decode()
    heard.run(client, mode, [*heard.messages, QUESTION])
    replies = [m for m in sent(posted)["messages"] if m["role"] == "assistant"]
    assert [m.get("reasoning_content") for m in replies] == went_back
    assert {"reasoning": "Hm."} not in thoughts or replies[1]["reasoning"] == "Hm."
    posted = route(http, "anthropic", reply("anthropic", ANSWER))
    heard.run(client, "anthropic", heard.messages)
    blocks = [block for turn in sent(posted)["messages"] for block in turn["content"]]
    thinking = [block["thinking"] for block in blocks if block["type"] == "thinking"]
    assert thinking == [thought for thought in went_back if thought and thought.strip()]


@pytest.mark.parametrize("end", ["ai", "cn"])
def test_anthropics_thinking_goes_back_unchanged_and_only_there(http, client, heard, end):
    thoughts = {"thinking": "Hm.", "signature": "s"}, {"thinking": "", "signature": ""}, {"x": 1}
    thinking = [{"type": "thinking", **thought} for thought in thoughts]
    thinking.append({"type": "redacted_thinking", "data": "x"})
    first = reply("anthropic", "", SUM).json()
    first["content"] = thinking + first["content"]
    posted = http.post(f"https://api.moonshot.{end}/anthropic/v1/messages")
    posted.mock(side_effect=[body(**first), reply("anthropic", ANSWER)])
    heard.run(client.with_options(base_url=f"https://api.moonshot.{end}/v1"), "anthropic")
    assert sent(posted)["messages"][1]["content"][:-1] == thinking
    for mode in ("non-streaming", "streaming", "manual"):
        posted = route(http, mode, reply(mode, ANSWER))
        run_loop(client, MODEL, heard.messages, mode)
        request = posted.calls[0].request.content.decode()
        assert "signature" not in request and "redacted" not in request
        assert mode == "manual" or sent(posted)["messages"][1]["reasoning_content"] == "Hm."


PAY = call("pay", "{}", "functions.pay:0")
TEXTS = {  # (content, thinking, what is shown, what is run)
    "a call": (f"Let me see.{marked(SUM)}", "", "Let me see.", ["6 * 7"]),
    "quoted": (f"It says {marked(PAY)} there.", "", "It says  there.", []),
    "quoted, then real": (f"It says {marked(PAY)}.{marked(SUM)}", "", "It says .", ["6 * 7"]),
    "thinking of an answer": ("No, I will not.", f"Hm.{marked(PAY)}", "No, I will not.", []),
    "content and thinking": (marked(SUM), f"Hm.{marked(PAY)}", "", ["6 * 7"]),
    "beginnings of a marker": ("a <| b <|tool", "", "a <| b <|tool", []),
}  # fmt: skip


@ALL
@pytest.mark.parametrize("case", TEXTS)
def test_markers_are_parsed_at_the_end_and_never_shown(http, client, heard, mode, case):
    content, thinking, shown, run = TEXTS[case]
    fields = {"reasoning_content": thinking} if thinking else {}
    route(http, mode, reply(mode, content, **fields), reply(mode, ANSWER))
    mine, functions = [*TOOLS, {"function": {"name": "pay"}}], {**FUNCTIONS, "pay": dict}
    answer = heard.run(client, mode, tools=mine, functions=functions)
    assert answer == (ANSWER if run else shown)
    assert "".join(heard.text) == shown + (ANSWER if run else "")
    assert [result.get("expression") for _, result in heard.tools] == run
    assert heard.replies[0].parsed_from_text is bool(run)
    assert "<|tool_call" not in json.dumps(heard.messages)


@BOTH
@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_markers_in_the_thinking_are_calls_too(http, client, heard, mode, field):
    first = reply(mode, "", **{field: f" Not {marked(PAY)}, but{marked(SUM)}\n"})
    posted = route(http, mode, first, reply(mode, ANSWER))
    assert heard.run(client, mode) == ANSWER
    assert heard.tools == [(SUM, RESULT)] and heard.replies[0].parsed_from_text
    assert sent(posted)["messages"][1][field] == " Not , but\n"  # as it came, but for the markers
    assert "<|" not in json.dumps(sent(posted)) and "".join(heard.text) == ANSWER


BROKEN = [marked(SUM)[:-60], marked(SUM).replace(A, "0"), "<|tool_call_begin|>x:0" + marked(SUM)]


@ALL
@pytest.mark.parametrize("reason", [None, "length"])
@pytest.mark.parametrize("text", BROKEN, ids=["truncated", "nameless", "header"])
def test_no_call_of_a_broken_reply_is_run(http, client, heard, mode, reason, text):
    route(http, mode, reply(mode, text, reason=reason))
    heard.fails(client, mode, "Error: Tool call parsing failed")


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
