"""The tool-calling loop, and the four ways (modes) to ask for an assistant message.

    messages --> ask --> assistant message --> tool calls? --no--> answer
                  ^                                | yes
                  +------- tool results <------ run_tool

Each mode has its own "ask" function. It sends one request and yields the response in OpenAI form: a
whole completion, or the chunks of a stream. `collect` in reply.py makes one message of it.
"""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from . import FUNCTIONS, TOOLS, Json, run_tool
from .anthropic_format import to_message, to_request
from .errors import KimiError
from .kimi_format import render_prompt
from .reply import Reply, as_dict, check, collect, sendable


def run_loop(
    client: Any, model: str, messages: list[Any], mode: str = "non-streaming",
    *,
    tools: list[Any] = TOOLS,
    functions: dict[str, Any] = FUNCTIONS,
    on_text: Callable[[str], object] = lambda text: None,
    on_tool: Callable[[Json, Json], object] = lambda call, result: None,
    on_reply: Callable[[Reply], object] = lambda reply: None,
    max_turns: int = 10, max_tokens: int = 4096, temperature: float | None = None,
) -> str:  # fmt: skip
    """Send the conversation, run the tools that the model calls, repeat until the model answers.

    `client` is an openai.OpenAI. Returns the answer. Appends replies and results to `messages`, in
    OpenAI form: a follow-up question is one more user message. `mode` is a key of MODES and may
    change between calls; `tools` are the schemas, `functions` the functions by name.
    `on_text(text)` gets text as it arrives, `on_tool(call, result)` each call that was run,
    `on_reply(reply)` each reply. `max_turns` limits the requests, `max_tokens` the output of each.
    `temperature` is what the model uses; None leaves it to the server. Raises KimiError for a limit
    or an unusable reply, else what the SDK raises; `explain` makes a message of either.
    """
    if mode not in MODES:
        raise KimiError(f"Error: There is no mode {mode!r}.\nUse one of: {', '.join(MODES)}.")
    request: Json = {"model": model, "tools": tools, "max_tokens": max_tokens}
    if temperature is not None:  # newer models accept only their default
        request["temperature"] = temperature
    for _ in range(max_turns):
        reply = collect(MODES[mode](client, messages=sendable(messages), **request), on_text)
        calls = reply.message.get("tool_calls", [])
        number_calls(calls, messages)
        on_reply(reply)
        check(reply, max_tokens)
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
    what = f"Error: The model called tools in {max_turns} turns and gave no answer."
    raise KimiError(f"{what}\nAsk a simpler question, or raise max_turns.")


def number_calls(calls: list[Json], messages: list[Json]) -> None:
    """Give each call the id functions.NAME:N, where N counts all calls of the conversation, as
    Moonshot's API does: after ids of another form, the model writes malformed ones."""
    taken = [call.get("id") for message in messages for call in message.get("tool_calls") or []]
    for number, call in enumerate(calls, len(taken)):
        while (call_id := f"functions.{call['function']['name']}:{number}") in taken:
            number += 1  # in use, because the caller dropped early messages
        call["id"] = call_id
        taken.append(call_id)


def ask_non_streaming(client: Any, **request: Any) -> Iterator[Any]:
    """Yield the completion of `/chat/completions`."""
    yield client.chat.completions.create(**_for_chat(**request))


def ask_streaming(client: Any, **request: Any) -> Iterator[Any]:
    """Yield the chunks of `/chat/completions`; the whole body from a server that cannot stream."""
    with client.chat.completions.create(**_for_chat(**request), stream=True) as stream:
        if re.search("json|html", stream.response.headers.get("content-type", "")):
            yield stream.response.read().decode("utf-8", "replace")
        else:
            yield from stream


def ask_manual(client: Any, messages: Any, tools: Any, **request: Any) -> Iterator[Any]:
    """Yield the completion of `/completions`, whose text still contains the calls."""
    yield client.completions.create(
        prompt=render_prompt(messages, tools), stop=["<|im_end|>"],
        extra_body={"skip_special_tokens": False}, **request,  # calls are marked with such tokens
    )  # fmt: skip


def ask_anthropic(client: Any, **request: Any) -> Iterator[Any]:
    """Yield the reply of Anthropic's `/messages`, requested with the same client and key."""
    root = re.sub(r"(//api\.moonshot\.(ai|cn)/)v1", r"\1anthropic/v1", str(client.base_url))
    options: Any = {"headers": {"anthropic-version": "2023-06-01"}}
    post = client.copy(base_url=root).post
    reply = as_dict(post("/messages", body=to_request(**request), options=options, cast_to=object))
    reason = "length" if reply.get("stop_reason") == "max_tokens" else reply.get("stop_reason")
    yield {**reply, "choices": [{"message": to_message(reply), "finish_reason": reason}]}


def _for_chat(max_tokens: int, tools: list[Json], **request: Any) -> Json:
    choice = {"tools": tools, "tool_choice": "auto"} if tools else {}
    return {**request, "max_completion_tokens": max_tokens, **choice}


MODES: dict[str, Callable[..., Iterator[Any]]] = {
    "non-streaming": ask_non_streaming,
    "streaming": ask_streaming,
    "manual": ask_manual,
    "anthropic": ask_anthropic,
}
