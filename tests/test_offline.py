"""The mock server: any client can use it, at every route, as many at once as there are."""

import json
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest
from conftest import KEY, MODEL, call

from tools import TOOLS, endpoint
from tools.offline import serve
from tools.weather import CITIES


@pytest.fixture(scope="module")
def base_url():
    with serve() as url:
        yield url


@pytest.fixture
def client(base_url):
    with openai.OpenAI(api_key=KEY, base_url=base_url, max_retries=0) as made:
        yield made


def ask(client, *messages, **more):
    messages = [{"role": "user", "content": m} if isinstance(m, str) else m for m in messages]
    return client.chat.completions.create(
        **{"model": MODEL, "messages": messages, "tools": TOOLS, **more}
    )


def test_models(client):
    assert [model.id for model in client.models.list()] == [MODEL]


@pytest.mark.parametrize(
    ("question", "calls"),
    [
        ("Weather in beijing?", [("get_weather", {"city": "beijing"})]),
        ("Tokyo in Fahrenheit", [("get_weather", {"city": "Tokyo", "unit": "fahrenheit"})]),
        ("What is 6 * 7?", [("calculate", {"expression": "6 * 7"})]),
        ("What is 9**9**9.", [("calculate", {"expression": "9**9**9"})]),
        ("sqrt(2) × (3 + 4) please", [("calculate", {"expression": "sqrt(2) × (3 + 4)"})]),
        ("New York and Paris, and -3 + 2 too",
         [("get_weather", {"city": "New York"}), ("get_weather", {"city": "Paris"}),
          ("calculate", {"expression": "-3 + 2"})]),
    ],
)  # fmt: skip
def test_questions_lead_to_calls(client, question, calls):
    choice = ask(client, question).choices[0]
    assert choice.finish_reason == "tool_calls"
    made = [(c.function.name, json.loads(c.function.arguments)) for c in choice.message.tool_calls]
    assert made == calls
    assert [c.id for c in choice.message.tool_calls] == [
        f"functions.{name}:{n}" for n, (name, _) in enumerate(calls)
    ]


@pytest.mark.parametrize("question", ["Hello", "I have 3 apples", "A 3-day trip?", "Weather in Atlantis?"])
def test_anything_else_says_what_it_can_do(client, question):
    choice = ask(client, question).choices[0]
    assert choice.finish_reason == "stop"
    assert "mock server" in choice.message.content
    assert all(city in choice.message.content for city in CITIES)


def test_content_in_parts(client):
    parts = [{"type": "text", "text": "What is 6 "}, {"type": "text", "text": "* 7?"}]
    made = ask(client, {"role": "user", "content": parts}).choices[0].message.tool_calls[0]
    assert json.loads(made.function.arguments)["expression"].split() == ["6", "*", "7"]


def test_answers_are_made_of_the_results(client):
    contents = ['{"temperature": 9}', "plain text", '{"error": "No such city."}',
                '{"expression": "x", "result": 4711}']  # fmt: skip
    made = {"role": "assistant", "content": "", "tool_calls": [call(call_id=c) for c in "abcd"]}
    results = [
        {"role": "tool", "tool_call_id": call_id, "content": content}
        for call_id, content in zip("cdba", contents, strict=True)
    ]
    answer = ask(client, "6 * 7?", made, *results).choices[0].message.content
    for part in ('{"temperature": 9}', "plain text", "No such city.", "x = 4711."):
        assert part in answer


def test_streamed_piece_by_piece(client):
    chunks = list(ask(client, "Paris and 6 * 7", stream=True))
    fragments = [c.choices[0].delta.tool_calls[0] for c in chunks if c.choices[0].delta.tool_calls]
    assert len(fragments) > 6
    for index, whole in ((0, '{"city": "Paris"}'), (1, '{"expression": "6 * 7"}')):
        parts = [f.function.arguments for f in fragments if f.index == index]
        assert "".join(parts) == whole and len(parts) > 2
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices[0].finish_reason == "tool_calls"
    assert len(list(ask(client, "Hello", stream=True))) > 5


def test_wrong_route_and_no_key(base_url):
    key = {"Authorization": "Bearer x"}
    for path, body, headers, code in (
        ("/nothing", None, key, 404), ("/nothing", b"{}", key, 404),
        ("/chat/completions", None, key, 404), ("/models", None, {}, 401),
        ("/chat/completions", b"{}", {"Authorization": "Bearer "}, 401),
    ):  # fmt: skip
        request = urllib.request.Request(base_url + path, body, headers)
        with pytest.raises(urllib.error.HTTPError) as raised, opened(request):
            pass
        with raised.value:
            assert raised.value.code == code
            message = json.load(raised.value)["error"]["message"]
        assert message == ("Invalid Authentication" if code == 401 else f"Nothing is served at /v1{path}")


def opened(request):
    return urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request)


@pytest.mark.parametrize("body", [b"", b"nonsense", b"{}", b'{"messages": null}'])
def test_a_request_without_messages(base_url, body):
    request = urllib.request.Request(base_url + "/chat/completions?x=1", body, {"x-api-key": KEY})
    with opened(request) as response:
        assert "mock server" in json.load(response)["choices"][0]["message"]["content"]


def test_anthropic_turns_as_other_clients_write_them(client):
    """Content that is a string, and a result whose content is a list of text blocks."""
    use = {"type": "tool_use", "id": "a", "name": "calculate", "input": {"expression": "6 * 7"}}
    part = {"type": "text", "text": '{"expression": "6 * 7", "result": 42}'}
    result = {"type": "tool_result", "tool_use_id": "a", "content": [part]}
    turns = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "What is 6 * 7?"},
        {"role": "assistant", "content": [use]},
        {"role": "user", "content": [result]},
    ]
    body = {"model": MODEL, "max_tokens": 9, "messages": turns}
    reply = client.post("/messages", body=body, cast_to=object)
    assert reply["content"] == [{"type": "text", "text": "6 * 7 = 42."}]
    assert reply["role"] == "assistant" and reply["stop_reason"] == "end_turn"


def test_sixty_clients_at_once(base_url):
    ready = threading.Barrier(60)

    def one(number):
        with openai.OpenAI(api_key=KEY, base_url=base_url, max_retries=0) as client:
            ready.wait()
            return ask(client, f"What is {number} * 2?").choices[0].message.tool_calls[0]

    with ThreadPoolExecutor(60) as pool:
        calls = list(pool.map(one, range(60)))
    assert [json.loads(c.function.arguments)["expression"] for c in calls] == [
        f"{number} * 2" for number in range(60)
    ]


@pytest.mark.parametrize("question", ["(" * 20_000, "1+(" * 20_000, "- " * 20_000])
def test_a_hostile_question_costs_milliseconds(client, question):
    start = time.process_time()
    ask(client, question)
    assert time.process_time() - start < 0.5


def test_it_ends_with_its_block():
    with serve() as url:
        pass
    with openai.OpenAI(api_key=KEY, base_url=url, max_retries=0) as client:
        with pytest.raises(openai.APIConnectionError):
            client.models.list()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows sends Ctrl-C to a whole console")
def test_as_a_program(project, monkeypatch):
    command = [sys.executable, "-m", "tools.offline"]
    with subprocess.Popen(command, cwd=project, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert "not Kimi-K2" in server.stdout.readline()
            assert server.stdout.readline().startswith("# PowerShell")
            exports = [server.stdout.readline().split() for _ in range(2)]
            assert [word for word, _ in exports] == ["export", "export"]
            exported = dict(assignment.split("=") for _, assignment in exports)
            monkeypatch.setenv("MOONSHOT_API_KEY", exported["MOONSHOT_API_KEY"])
            monkeypatch.setenv("MOONSHOT_BASE_URL", exported["MOONSHOT_BASE_URL"])
            with endpoint.make_client(endpoint.read_settings()) as client:
                assert endpoint.list_models(client)[0]["id"] == MODEL
        finally:
            server.send_signal(signal.SIGINT)
        assert server.wait(5) == 0
