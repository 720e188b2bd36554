"""A mock server in place of the endpoint, so that everything here runs without a key.

Any client on this machine can use it, at the routes of all modes, whole and streamed. It plays a
script: it calls get_weather for each city and calculate for each calculation in the question, and
builds an answer from the results. `serve(script=…)` plays another, to test an agent with tools of
its own. `python -m tools.offline` serves until Ctrl-C.
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

from .anthropic_format import PIECES, to_response
from .messages import Json, json_object, text_of
from .weather import CITIES

Script = Callable[[list[tuple[str, str]]], Json]
MODEL = {"id": "moonshotai/Kimi-K2-Instruct", "object": "model", "created": 1752192000}
ABILITIES = f"I am a mock server: ask for the weather in {', '.join(CITIES)} or for 12 * (3 + 4)."
_CITY = re.compile("|".join(rf"\b{city}\b" for city in CITIES), re.I)
_FUNC = r"(?:sqrt|abs|round|min|max|floor|ceil|log10|log|exp|sin|cos|tan)\s*\("
_ARITHMETIC = re.compile(rf"(?:[-−(]\s*)*(?:\d|{_FUNC})(?:{_FUNC}|pi|[-+*/%×÷−·^().,\d\s])*")


def next_message(turns: list[tuple[str, str]]) -> Json:
    """The script: the next message, in OpenAI form, of a conversation of (role, text) pairs."""
    last = turns[-1][0] if turns else ""
    texts = [text for _, text in takewhile(lambda turn: turn[0] == last, reversed(turns))][::-1]
    if last == "tool":
        return {"content": " ".join(map(_sentence, texts))}
    question = " ".join(texts)[:1000]  # the patterns would be slow on a very long one
    unit = {"unit": "fahrenheit"} if "fahrenheit" in question.lower() else {}
    wanted = [("get_weather", {"city": city, **unit}) for city in _CITY.findall(question)]
    for expression in (found.strip(" .,\n") for found in _ARITHMETIC.findall(question)):
        if re.search(r"\d\s*[-+*/%×÷−·^]+\s*[\w(]|\(", expression):  # not "3 apples", "3-day"
            wanted.append(("calculate", {"expression": expression}))
    calls = [{"function": {"name": name, "arguments": values}} for name, values in wanted]
    return {"tool_calls": calls} if calls else {"content": ABILITIES}


def _sentence(content: str) -> str:
    result = json_object(content)
    if {"city", "condition", "temperature", "unit", "humidity"} <= set(result):
        weather = f"{result['condition']}, {result['temperature']} °{result['unit'][0].upper()}"
        return f"{result['city']}: {weather}, {result['humidity']} % humidity."
    if {"expression", "result"} <= set(result):
        return f"{result['expression']} = {result['result']}."
    return f"The tool returned: {result.get('error') or content}"


def _conversation(body: Json) -> tuple[list[tuple[str, str]], list[str]]:
    """The (role, text) pairs of a request in any form, and the names of the tools it offers."""
    turns = [("system", text_of(body.get("system")))]  # Anthropic's
    tools = body.get("tools") or []
    for turn in body.get("prompt", "").split("<|im_end|>"):
        head, _, text = turn.partition("<|im_middle|>")
        kind, _, name = head.rpartition("<|im_")[2].partition("|>")
        if (kind, name) == ("system", "tool_declare"):
            tools = json.loads(text)
        elif kind == "system" and text.startswith("## Return of "):
            turns.append(("tool", text.partition("\n")[2]))
        else:
            turns.append((kind, text))
    for message in body.get("messages") or []:
        content = message.get("content")
        blocks = content if isinstance(content, list) else []
        results = [block for block in blocks if block.get("type") == "tool_result"]  # Anthropic's
        turns += [("tool", text_of(result.get("content"))) for result in results]
        turns.append((message["role"], text_of(content)))
    names = [tool.get("function", tool).get("name", "") for tool in tools]
    return [(role, text) for role, text in turns if text or role == "tool"], names


def _answer(body: Json, script: Script) -> Json:
    """The script's message, completed and checked against the tools on offer."""
    choice = body.get("tool_choice") or "auto"
    choice = choice["type"] if isinstance(choice, dict) else choice
    if choice not in ("auto", "none") or body.get("n") not in (None, 1):
        raise ValueError('the mock server supports n=1 and tool_choice "auto" or "none"')
    turns, offered = _conversation(body)
    message: Json = {"role": "assistant", **script(turns)}
    message["content"] = message.get("content") or ""
    results = [text for role, text in turns if role == "tool"]
    calls = []
    for number, call in enumerate(message.pop("tool_calls", None) or [], len(results)):
        name, arguments = call["function"]["name"], call["function"].get("arguments", {})
        if choice == "none" or name not in offered:
            if script is next_message:
                return {"role": "assistant", "content": ABILITIES}
            raise ValueError(f"the script calls {name}, which the request does not offer")
        if not isinstance(arguments, str):
            arguments = json.dumps(arguments, ensure_ascii=False)
        function = {"name": name, "arguments": arguments}
        calls.append({"id": f"functions.{name}:{number}", "type": "function", "function": function})
    return {**message, "tool_calls": calls} if calls else message


def _openai(kind: str, choice: Json, usage: Json | None = None) -> Json:
    about = {"id": "offline", "object": kind, "created": MODEL["created"], "model": MODEL["id"]}
    return {**about, "choices": [{"index": 0, **choice}], "usage": usage}


def _chat(message: Json, usage: Json) -> Iterator[Json]:
    end = {"finish_reason": "tool_calls" if "tool_calls" in message else "stop"}
    yield _openai("chat.completion", {"message": message, **end}, usage)
    deltas: list[Json] = [{"role": "assistant", "content": ""}]
    for field in ("reasoning_content", "content"):
        deltas += [{field: piece} for piece in PIECES.findall(message.get(field) or "")]
    for index, call in enumerate(message.get("tool_calls", [])):
        parts = [{**call, "function": {**call["function"], "arguments": ""}}]
        for piece in PIECES.findall(call["function"]["arguments"]):
            parts.append({"function": {"arguments": piece}})
        deltas += [{"tool_calls": [{"index": index, **part}]} for part in parts]
    for delta in deltas:
        yield _openai("chat.completion.chunk", {"delta": delta, "finish_reason": None})
    yield _openai("chat.completion.chunk", {"delta": {}, **end}, usage)


def _text(message: Json, usage: Json) -> Iterator[Json]:
    calls = ""
    for call in message.get("tool_calls", []):
        calls += f"<|tool_call_begin|>{call['id']}<|tool_call_argument_begin|>"
        calls += call["function"]["arguments"] + "<|tool_call_end|>"
    if calls:
        calls = f"<|tool_calls_section_begin|>{calls}<|tool_calls_section_end|>"
    choice = {"text": message["content"] + calls, "finish_reason": "stop"}
    reply = _openai("text_completion", choice, usage)
    yield from (reply, reply)  # whole, and as a stream of one chunk


_ROUTES = {  # each yields a whole reply, then the chunks of the same reply as a stream
    "POST /v1/chat/completions": _chat,
    "POST /v1/completions": _text,
    "POST /v1/messages": to_response,
}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # it would delay small replies
    server: "_Server"

    def log_message(self, *_: Any) -> None:
        """Log nothing, to keep the client's terminal clean."""

    def do_POST(self) -> None:
        length, data = self.headers.get("content-length", ""), b""
        if "transfer-encoding" in self.headers:  # chunks, each after its size, until one of 0
            while size := int(self.rfile.readline().split(b";")[0], 16):
                data += self.rfile.read(size + 2)[:-2]
            self.rfile.readline()
        elif length.isdigit():
            data = self.rfile.read(int(length))
        route = f"{self.command} {self.path.partition('?')[0]}"
        bearer = self.headers.get("authorization", "").removeprefix("Bearer").strip()
        if not bearer and not self.headers.get("x-api-key"):
            return self._send(401, "Invalid Authentication")
        if route == "GET /v1/models":
            return self._send(200, json.dumps({"object": "list", "data": [MODEL]}))
        if route not in _ROUTES:
            return self._send(404, f"Nothing is served at {self.path}")
        try:
            body = json.loads(data)
            message = _answer(body, self.server.script)
            sent, made = len(data) // 4, len(json.dumps(message)) // 4
            usage = {"prompt_tokens": sent, "completion_tokens": made, "total_tokens": sent + made}
            whole, *chunks = _ROUTES[route](message, usage)
        except Exception as error:
            why = f"{type(error).__name__}: {error}"
            return self._send(400, f"The request or the script failed ({why})")
        if not body.get("stream"):
            return self._send(200, json.dumps(whole))
        if route == "POST /v1/messages":
            events = [f"event: {chunk['type']}\ndata: {json.dumps(chunk)}\n\n" for chunk in chunks]
        else:
            events = [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks] + ["data: [DONE]\n\n"]
        self._send(200, "".join(events))

    do_GET = do_POST

    def _send(self, status: int, text: str) -> None:
        """Send the text of a reply; if the status is an error, `text` says what is wrong."""
        if status != 200:
            error = {"type": "invalid_request_error", "message": text}
            text = json.dumps({"type": "error", "error": error})
        kind = "application/json" if text.startswith("{") else "text/event-stream"
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(text)))  # json.dumps makes ASCII
        self.end_headers()
        self.wfile.write(text.encode())


class _Server(ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 128  # with the default of 5, about 20 clients at once get resets
    script: Script

    def handle_error(self, *_: Any) -> None:
        """Print no traceback, e.g. for a client that hangs up or a malformed request."""


@contextmanager
def serve(script: Script = next_message) -> Iterator[str]:
    """Serve on a free port of 127.0.0.1 while the `with` block runs; yields the base URL. `script`
    gets the (role, text) pairs of a conversation and returns the next assistant message in OpenAI
    form, where calls need no id and arguments may be a dict."""
    with _Server(("127.0.0.1", 0), _Handler) as server:
        server.script = script
        Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/v1"
        finally:
            server.shutdown()


if __name__ == "__main__":
    with suppress(KeyboardInterrupt), serve() as base_url:
        print("# A mock server, not Kimi-K2. Paste the two export lines into the terminal where")
        print('# your program will run. In PowerShell, write $env:NAME = "value" instead.')
        print("export MOONSHOT_API_KEY=offline")
        print(f"export MOONSHOT_BASE_URL={base_url}", flush=True)
        Event().wait()
