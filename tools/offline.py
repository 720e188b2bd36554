"""A mock server in place of the endpoint, so that everything here runs without a key.

Any client on this machine can use it; it serves `/models` and the routes of all modes. It is not a
model but a script: it asks for the weather of each city and the value of each calculation in the
question, and builds an answer from the results. `python -m tools.offline` serves until Ctrl-C.
"""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler
from itertools import takewhile
from socketserver import ThreadingTCPServer
from threading import Event, Thread
from typing import Any

from . import Json, json_object
from .anthropic_format import to_request
from .weather import CITIES

MODEL = {"id": "moonshotai/Kimi-K2-Instruct", "object": "model", "created": 1752192000}
_ABOUT: Json = {"id": "offline", "created": MODEL["created"], "model": MODEL["id"]}
ABILITIES = f"I am a mock server: ask for the weather in {', '.join(CITIES)} or for 12 * (3 + 4)."
_CITY = re.compile("|".join(rf"\b{city}\b" for city in CITIES), re.I)
_FUNC = r"(?:sqrt|abs|round|min|max|floor|ceil|log10|log|exp|sin|cos|tan)\s*\("
_ARITHMETIC = re.compile(rf"(?:[-−(]\s*)*(?:\d|{_FUNC})(?:{_FUNC}|pi|[-+*/%×÷−·^().,\d\s])*")


def next_message(turns: list[tuple[str, str]]) -> Json:
    """The script: the next message, in OpenAI form, of a conversation of (role, text) pairs."""
    last = turns[-1][0] if turns else ""
    texts = [text for _, text in takewhile(lambda turn: turn[0] == last, reversed(turns))][::-1]
    if last == "tool":
        return {"role": "assistant", "content": " ".join(map(_sentence, texts))}
    question = " ".join(texts)[:1000]  # the patterns would be slow on a very long one
    unit = {"unit": "fahrenheit"} if "fahrenheit" in question.lower() else {}
    wanted = [("get_weather", {"city": city, **unit}) for city in _CITY.findall(question)]
    for expression in (found.strip(" .,\n") for found in _ARITHMETIC.findall(question)):
        if re.search(r"\d\s*[-+*/%×÷−·^]+\s*[\w(]|\(", expression):  # not "3 apples", "3-day"
            wanted.append(("calculate", {"expression": expression}))
    if not wanted:
        return {"role": "assistant", "content": ABILITIES}
    calls = []
    for number, (name, arguments) in enumerate(wanted, [role for role, _ in turns].count("tool")):
        function = {"name": name, "arguments": json.dumps(arguments, ensure_ascii=False)}
        calls.append({"id": f"functions.{name}:{number}", "type": "function", "function": function})
    return {"role": "assistant", "content": "", "tool_calls": calls}


def _sentence(content: str) -> str:
    result = json_object(content)
    if {"city", "condition", "temperature", "unit", "humidity"} <= set(result):
        weather = f"{result['condition']}, {result['temperature']} °{result['unit'][0].upper()}"
        return f"{result['city']}: {weather}, {result['humidity']} % humidity."
    if {"expression", "result"} <= set(result):
        return f"{result['expression']} = {result['result']}."
    return f"The tool returned: {result.get('error') or content}"


def _turns(body: Json) -> list[tuple[str, str]]:
    """The conversation in a request of any route, as (role, text) pairs without empty texts."""
    if "prompt" in body:
        pattern = r"<\|im_(\w+)\|>.*?<\|im_middle\|>(## Return of .*?\n)?(.*?)<\|im_end\|>"
        found = re.findall(pattern, body["prompt"], re.S)
        return [("tool" if result else role, text) for role, result, text in found if text]
    turns = []
    for message in body.get("messages") or []:
        content = message.get("content")
        for block in content if isinstance(content, list) else [{"text": content}]:
            text, role = block.get("text"), message["role"]
            if block.get("type") == "tool_result":  # Anthropic's are in user messages
                text, role = block["content"], "tool"
            if isinstance(text, list):
                text = "".join(part["text"] for part in text)
            if text:
                turns.append((role, text))
    return turns


def _chat_reply(message: Json) -> Json:
    reason = "tool_calls" if "tool_calls" in message else "stop"
    choice = {"index": 0, "message": message, "finish_reason": reason}
    return {"object": "chat.completion", "choices": [choice]}


def _text_reply(message: Json) -> Json:
    text = message["content"]
    for call in message.get("tool_calls", []):
        text += f"<|tool_call_begin|>{call['id']}<|tool_call_argument_begin|>"
        text += call["function"]["arguments"] + "<|tool_call_end|>"
    if "tool_calls" in message:
        text = f"<|tool_calls_section_begin|>{text}<|tool_calls_section_end|>"
    choice = {"index": 0, "text": text, "finish_reason": "stop"}
    return {"object": "text_completion", "choices": [choice]}


def _blocks_reply(message: Json) -> Json:
    reason = "tool_use" if "tool_calls" in message else "end_turn"
    return {"type": "message", **to_request([message], None)["messages"][0], "stop_reason": reason}


_ROUTES: dict[str, Callable[[Json], Json]] = {
    "GET /v1/models": lambda message: {"object": "list", "data": [MODEL]},
    "POST /v1/chat/completions": _chat_reply,
    "POST /v1/completions": _text_reply,
    "POST /v1/messages": _blocks_reply,
}


def _events(reply: Json) -> Iterator[str]:
    """A chat reply as server-sent events: the role, then eight characters at a time."""
    message, reason = reply["choices"][0]["message"], reply["choices"][0]["finish_reason"]
    deltas: list[Json] = [{"role": "assistant", "content": ""}]
    deltas += [{"content": part} for part in re.findall("(?s).{1,8}", message["content"])]
    for index, call in enumerate(message.get("tool_calls", [])):
        parts = re.findall("(?s).{1,8}", call["function"]["arguments"])
        begin = {**call, "index": index, "function": {**call["function"], "arguments": ""}}
        rest = [{"index": index, "function": {"arguments": part}} for part in parts]
        deltas += [{"tool_calls": [fragment]} for fragment in (begin, *rest)]
    for delta in [*deltas, {}]:
        choice = {"index": 0, "delta": delta, "finish_reason": None if delta else reason}
        chunk = {**reply, "object": "chat.completion.chunk", "choices": [choice]}
        yield f"data: {json.dumps(chunk)}\n\n"
    yield "data: [DONE]\n\n"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # it would delay small replies

    def log_message(self, *_: Any) -> None:
        """Log nothing, to keep the client's terminal clean."""

    def do_POST(self) -> None:
        body = json_object(self.rfile.read(int(self.headers.get("content-length", 0))).decode())
        bearer = self.headers.get("authorization", "").removeprefix("Bearer").strip()
        route = f"{self.command} {self.path.partition('?')[0]}"
        status, reply, events = 200, _ABOUT, False
        if not bearer and not self.headers.get("x-api-key"):
            kind, message = "invalid_authentication_error", "Invalid Authentication"
            status, reply = 401, {"error": {"type": kind, "message": message}}
        elif route not in _ROUTES:
            kind, message = "resource_not_found_error", f"Nothing is served at {self.path}"
            status, reply = 404, {"error": {"type": kind, "message": message}}
        else:
            reply = {**_ABOUT, **_ROUTES[route](next_message(_turns(body)))}
            events = bool(body.get("stream")) and "chat" in route
        data = ("".join(_events(reply)) if events else json.dumps(reply)).encode()
        self.send_response(status)
        self.send_header("content-type", "text/event-stream" if events else "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST


class _Server(ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 128  # with the default of 5, about 20 clients at once get resets

    def handle_error(self, *_: Any) -> None:
        """Print no traceback, e.g. for a client that hangs up or a malformed request."""


@contextmanager
def serve() -> Iterator[str]:
    """Serve on a free port of 127.0.0.1 while the `with` block runs; yields the base URL."""
    with _Server(("127.0.0.1", 0), _Handler) as server:
        Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/v1"
        finally:
            server.shutdown()


if __name__ == "__main__":
    with suppress(KeyboardInterrupt), serve() as base_url:
        print("# A mock server, not Kimi-K2. Run this in another terminal, then your program.")
        print('# PowerShell: $env:NAME = "value" instead of export NAME=value')
        print("export MOONSHOT_API_KEY=offline")
        print(f"export MOONSHOT_BASE_URL={base_url}", flush=True)
        Event().wait()
