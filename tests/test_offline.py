"""The mock server: any client can use it, at every route, as many at once as there are."""

import json
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx2
import openai
import pytest
from conftest import KEY, MODEL

from tools import TOOLS, endpoint
from tools.kimi_format import render_prompt
from tools.offline import serve
from tools.weather import CITIES

CHAT, A_KEY = "/chat/completions", {"Authorization": "Bearer x"}


def connected(url):
    return openai.OpenAI(api_key=KEY, base_url=url, max_retries=0)


@pytest.fixture(scope="module")
def client():
    with serve() as url, connected(url) as made:
        yield made


def ask(client, *messages, **more):
    messages = [{"role": "user", "content": m} if isinstance(m, str) else m for m in messages]
    return client.chat.completions.create(model="x", messages=messages, **{"tools": TOOLS, **more})


def parts(text):
    return [{"type": "text", "text": part} for part in text.split("|")]


@pytest.mark.parametrize(
    ("question", "calls"),
    [
        ("Tokyo in Fahrenheit", [("get_weather", {"city": "Tokyo", "unit": "fahrenheit"})]),
        ("sqrt(2) × (3 + 4)**9.", [("calculate", {"expression": "sqrt(2) × (3 + 4)**9"})]),
        ("New York and paris, and -3 + 2 too",
         [("get_weather", {"city": "New York"}), ("get_weather", {"city": "paris"}),
          ("calculate", {"expression": "-3 + 2"})]),
        (parts("What is 6 |* 7?"), [("calculate", {"expression": "6 * 7"})]),
        *[(question, []) for question in ("Hello", "I have 3 apples", "A 3-day trip to Atlantis?")],
    ],
)  # fmt: skip
def test_questions_lead_to_calls(client, question, calls):
    choice = ask(client, {"role": "user", "content": question}).choices[0]
    made = [(c.id, json.loads(c.function.arguments)) for c in choice.message.tool_calls or []]
    assert made == [(f"functions.{name}:{n}", values) for n, (name, values) in enumerate(calls)]
    assert choice.finish_reason == ("tool_calls" if calls else "stop")
    assert calls or all(word in choice.message.content for word in ("mock server", *CITIES))


@pytest.mark.parametrize("more", [{"tools": []}, {"tools": TOOLS[:1]}, {"tool_choice": "none"}])
def test_what_is_not_offered_is_not_called(client, more):
    message = ask(client, "What is 6 * 7?", **more).choices[0].message
    assert "mock server" in message.content and not message.tool_calls


def test_answers_are_made_of_the_results(client):
    contents = ("9", "text", '{"error": "No."}', '{"expression": "x", "result": 4}')
    results = [{"role": "tool", "tool_call_id": "a", "content": content} for content in contents]
    answer = ask(client, "6 * 7?", *results).choices[0].message.content
    assert answer == 'The tool returned: 9 The tool returned: text The tool returned: No. x = 4.'


QUESTION = {"role": "user", "content": "Two seats, please."}
SYSTEM, BOOK = {"role": "system", "content": "Be brief."}, {"function": {"name": "book"}}
BODIES = {
    CHAT: {"messages": [SYSTEM, QUESTION], "tools": [BOOK]},
    "/completions": {"prompt": render_prompt([SYSTEM, QUESTION], [BOOK])},
    "/messages": {"system": "Be brief.", "messages": [QUESTION], "tools": [{"name": "book"}]},
}


@pytest.mark.parametrize("path", BODIES)
def test_another_script_on_every_route_whole_and_streamed(path):
    turns, arguments = [], {"seats": 2, "where": "front row"}

    def script(pairs):
        turns.append(pairs)
        call = {"function": {"name": "book", "arguments": arguments}}
        return {"reasoning_content": "Hm.", "content": "I book two seats.", "tool_calls": [call]}

    body, options = BODIES[path], {"cast_to": object, "stream_cls": openai.Stream[object]}
    with serve(script) as url, connected(url) as client:
        whole = client.post(path, body=body, cast_to=object)
        pieces = list(client.post(path, body={**body, "stream": True}, stream=True, **options))
        with pytest.raises(openai.BadRequestError, match="script calls book, which"):
            client.post(path, body={"messages": [QUESTION], "prompt": "Hi"}, cast_to=object)
    assert turns[:2] == [[("system", "Be brief."), ("user", "Two seats, please.")]] * 2
    texts = r'"(?:reasoning_content|content|text|arguments|partial_json)": "((?:[^"\\]|\\.)*)"'
    streamed = "".join(re.findall(texts, json.dumps(pieces))).replace("\\", "")
    for part in ("Hm." if path == CHAT else "", "I book two seats.", json.dumps(arguments)):
        assert part in json.dumps(whole).replace("\\", "") and part in streamed
    assert re.search(r'"(finish|stop)_reason": "\w+".*"usage": {', json.dumps(pieces[-2:]))
    assert "functions.book:0" in json.dumps(whole)
    assert all(isinstance(count, int) and count > 0 for count in whole["usage"].values())


@pytest.mark.parametrize("reply", [1 / 3, {"tool_calls": [{}]}, {"tool_calls": 5}, None])
def test_a_script_that_fails_is_named(reply):
    with serve(lambda turns: reply) as url, connected(url) as client:
        with pytest.raises(openai.BadRequestError, match="script failed.*Error"):
            ask(client, "?")
    with connected(url) as client, pytest.raises(openai.APIConnectionError):
        ask(client, "?")  # it ended with its block


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "code", "words"),
    [
        ("GET", CHAT, b"", A_KEY, 404, "Nothing is served at /v1/chat/completions"),
        ("GET", "/models", b"", {}, 401, "Invalid Authentication"),
        ("POST", CHAT, b"{}", {"Authorization": "Bearer"}, 401, "Invalid Authentication"),
        ("POST", CHAT, iter([b'{"messages"', b": null}"]), A_KEY, 200, "mock server"),  # in chunks
        *[("POST", path, body, A_KEY, 400, "request") for path in BODIES
          for body in (b"", b"nonsense", b"[1]", b'{"messages": [1]}', b'{"prompt": ["a", "b"]}')],
        *[("POST", CHAT, json.dumps(body).encode(), A_KEY, 400, "n=1 and tool_choice")
          for body in ({"n": 2}, {"tool_choice": "required"}, {"tool_choice": {"type": "tool"}})],
        ("POST", f"{CHAT}?x=1", b'{"messages": null}', {"x-api-key": "x"}, 200, "mock server"),
    ],
)  # fmt: skip
def test_requests_of_other_clients(client, method, path, body, headers, code, words):
    response = httpx2.request(method, f"{client.base_url}{path[1:]}", content=body, headers=headers)
    assert response.status_code == code and words in response.text


def test_anthropic_turns_as_other_clients_write_them(client):
    use = {"type": "tool_use", "id": "a", "name": "calculate", "input": {"expression": "6 * 7"}}
    content = parts('{"expression": "6 * 7", "result": 42}')
    result = [{"type": "tool_result", "tool_use_id": "a", "content": content}]
    turns = [QUESTION, {"role": "assistant", "content": [use]}, {"role": "user", "content": result}]
    reply = client.post("/messages", body={"messages": turns}, cast_to=object)
    assert reply["content"] == parts("6 * 7 = 42.") and reply["stop_reason"] == "end_turn"
    raw = client.post("/messages", body={"messages": turns, "stream": True}, cast_to=str)
    assert re.findall("^event: message_(.*)$", raw, re.M) == ["start", "delta", "stop"]


def test_sixty_clients_at_once(client):
    ready = threading.Barrier(60)

    def one(number):
        with connected(client.base_url) as another:
            ready.wait()
            return ask(another, f"What is {number} * 2?").to_json()

    with ThreadPoolExecutor(60) as pool:
        for number, message in enumerate(pool.map(one, range(60))):
            assert f'"{number} * 2\\"' in message


HOSTILE = ("(", "1+(", "- ", "<|im_end|>", "<|im_middle|>", "<|im_system|>tool_declare<|im_mi")


@pytest.mark.parametrize("size", [7_000, 1_000_000])
@pytest.mark.parametrize("text", HOSTILE)
def test_no_prompt_takes_more_than_milliseconds(client, text, size):
    text *= size // len(text)
    start = time.process_time()
    assert client.completions.create(model="x", prompt=text).choices[0].text
    assert ask(client, text).choices[0].message
    assert time.process_time() - start < 0.5


@pytest.mark.skipif(sys.platform == "win32", reason="Windows sends Ctrl-C to a whole console")
def test_as_a_program(project, monkeypatch):
    command = [sys.executable, "-m", "tools.offline"]
    with subprocess.Popen(command, cwd=project, stdout=subprocess.PIPE, text=True) as server:
        try:
            lines = [server.stdout.readline().split() for _ in range(4)]
            assert "not" in lines[0] and [line[0] for line in lines[2:]] == ["export", "export"]
            for _, assignment in lines[2:]:
                monkeypatch.setenv(*assignment.split("="))
            client, model = endpoint.connect()
            with client:
                assert model == MODEL
        finally:
            server.send_signal(signal.SIGINT)
        assert server.wait(5) == 0
