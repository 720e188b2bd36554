"""The tool-calling loop, and the four ways (modes) to ask for an assistant message.

    messages --> ask --> assistant message --> tool calls? --no--> answer
                  ^                                | yes
                  +------- tool results <------ run_tool

Each mode has its own "ask" function. It sends one request and yields the reply in OpenAI form, as a
whole or in chunks; `collect` in reply.py makes one message of it.
"""

import json
import re
from codecs import iterdecode
from collections.abc import Callable, Iterator
from typing import Any

from . import FUNCTIONS, TOOLS, intended_tool, run_tool, schemas_by_name
from .anthropic_format import to_completion, to_request
from .errors import KimiError
from .kimi_format import render_prompt
from .messages import Json, number_calls, sendable
from .reply import Reply, collect, events, whole_body


def run_loop(
    client: Any, model: str, messages: list[Any], mode: str = "non-streaming",
    *,
    tools: list[Any] = TOOLS,
    functions: dict[str, Any] = FUNCTIONS,
    on_text: Callable[[str], object] = lambda text: None,
    on_tool: Callable[[Json, Json], object] = lambda call, result: None,
    on_reply: Callable[[Reply], object] = lambda reply: None,
    max_turns: int = 10, max_tokens: int | None = None, temperature: float | None = None,
    extra_body: Json | None = None,
) -> str:  # fmt: skip
    """Send the conversation, run the tools that the model calls, repeat until the model answers.

    `client` is an openai.OpenAI. Returns the answer. Appends replies and results to `messages`, in
    OpenAI form: a follow-up question is one more user message, your instructions are a first
    message of role "system". `mode` is a key of MODES and may change between calls; `tools` are the
    schemas, `functions` the functions by name. `on_text(text)` gets text as it arrives,
    `on_reply(reply)` each reply, `on_tool(call, result)` each call that was run. `max_turns` limits
    the requests, `max_tokens` the output of each; `temperature` is the one the model samples with.
    None leaves either to the server (but see DEFAULT_LIMITS). `extra_body` overrides all else.

    It blocks: in async code, `await asyncio.to_thread(run_loop, …)`. One client serves many
    threads. Besides what a callback raises, it raises only KimiError or openai.OpenAIError;
    `explain` makes a message of either. After any exception, call it again to continue.
    """
    tools, extra = tools or [], extra_body or {}
    offered = schemas_by_name(tools)
    if mode not in MODES:
        raise KimiError(f"There is no mode {mode!r}", f"Use one of: {', '.join(MODES)}.")
    for name in offered:
        if name not in functions:
            what = f"tools describes {name!r}, but functions does not have it"
            raise KimiError(what, "Give both to run_loop: tools=… and functions=….")
    if not isinstance(messages, list):
        raise KimiError("messages is not a list", "Give run_loop a list, to which it can append.")
    limit = max_tokens or DEFAULT_LIMITS.get(mode)
    for name in ("max_completion_tokens", "max_tokens"):
        limit = extra.get(name, limit)
    options: Json = {"model": model, "tools": tools, "max_tokens": limit, "extra_body": extra}
    if temperature is not None:  # newer models accept only their default
        options["temperature"] = temperature
    for _ in range(max_turns):
        try:
            history = sendable(messages, offered)
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
            what = f"An item of messages is malformed ({type(error).__name__}: {error})"
            raise KimiError(what, "Each message is a dict with a role and a content.") from error
        reply = collect(MODES[mode](client, messages=history, **options), on_text, limit)
        calls = reply.message.get("tool_calls", [])
        for call in calls:
            call["function"]["name"] = intended_tool(call["function"]["name"], offered)
        number_calls(calls, history)
        on_reply(reply)
        # Servers reject a call without a result, so each has one even if a tool is interrupted.
        pending = {"role": "tool", "content": '{"error": "The call was interrupted, or not run."}'}
        results = [
            {**pending, "tool_call_id": call["id"], "name": call["function"]["name"]}
            for call in calls
        ]
        messages += [reply.message, *results]
        if not calls:
            return str(reply.message["content"])
        for call, message in zip(calls, results, strict=True):
            function = call["function"]
            result = run_tool(function["name"], function["arguments"], tools, functions)
            message["content"] = json.dumps(result, ensure_ascii=False)
            on_tool(call, result)
    what = f"The model was still calling tools after {max_turns} requests"
    raise KimiError(what, "Ask a simpler question, or raise max_turns.")


def ask_non_streaming(client: Any, **request: Any) -> Iterator[Any]:
    """Yield the completion of `/chat/completions`."""
    yield from whole_body(lambda: client.chat.completions.create(**_for_chat(request)))


def ask_streaming(client: Any, **request: Any) -> Iterator[Any]:
    """Yield the chunks of `/chat/completions`. They are parsed here, not by the SDK: that is 15
    times as fast, and understands a whole completion, or a page, in place of a stream."""
    with client.chat.completions.create(**_for_chat(request), stream=True) as stream:
        yield from events(iterdecode(stream.response.iter_bytes(), "utf-8", "replace"))


def _for_chat(request: Json) -> Json:
    tools, limit = request.pop("tools"), request.pop("max_tokens")
    for message in request["messages"]:
        message.pop("thinking_blocks", None)  # only Anthropic's route knows them
    if tools:
        request |= {"tools": tools, "tool_choice": "auto"}
    if limit and "max_tokens" not in request["extra_body"]:
        request["max_completion_tokens"] = limit
    return request


def ask_manual(client: Any, messages: Any, tools: Any, **request: Any) -> Iterator[Any]:
    """Yield the completion of `/completions`, whose text still contains the calls."""
    request |= {"prompt": render_prompt(messages, tools), "stop": ["<|im_end|>"]}
    # The calls are between special tokens.
    request["extra_body"] = {"skip_special_tokens": False, **request["extra_body"]}
    yield from whole_body(lambda: client.completions.create(**request))


def ask_anthropic(client: Any, extra_body: Json, **request: Any) -> Iterator[Any]:
    """Yield the reply of Anthropic's `/messages`, requested with the same client and key."""
    url = re.sub(r"(//api\.moonshot\.(ai|cn)/)v1", r"\1anthropic/v1", str(client.base_url))
    options: Any = {"headers": {"anthropic-version": "2023-06-01"}}
    body = {**to_request(**request), **extra_body}
    post = client.copy(base_url=url).post
    for reply in whole_body(lambda: post("/messages", body=body, options=options, cast_to=object)):
        yield to_completion(reply)


MODES: dict[str, Callable[..., Iterator[Any]]] = {
    "non-streaming": ask_non_streaming,
    "streaming": ask_streaming,
    "manual": ask_manual,
    "anthropic": ask_anthropic,
}
# Output tokens where the user sets no limit and the route needs one: `/completions` would stop
# after 16; the platform advises at least 16,000 for a model that thinks.
DEFAULT_LIMITS = {"manual": 4096, "anthropic": 16_000}
