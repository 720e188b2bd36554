"""Translates between messages in OpenAI form and Anthropic's `/v1/messages`, without images."""

import json
import re
from collections.abc import Iterator
from typing import Any

from .errors import SettingError
from .messages import Json, json_object, text_of

# real_temperature = request_temperature * 0.6, says the README of github.com/moonshotai/Kimi-K2;
# request_temperature goes up to 1.0.
TEMPERATURE_FACTOR = 0.6
PIECES = re.compile("(?s).{1,8}")  # the mock server streams a text in such pieces
_ROLES = {"system": "system", "developer": "system", "assistant": "assistant"}  # others: user


def request_temperature(real: float) -> float:
    """The `temperature` to send for an effective one of 0 to 0.6; SettingError outside of that."""
    if not 0 <= real <= TEMPERATURE_FACTOR:
        what = "The Anthropic-compatible endpoint supports temperatures from 0 to 0.6"
        raise SettingError(f"{what}, not {real}", "Lower the temperature, or use another mode.")
    return real / TEMPERATURE_FACTOR


def _blocks(message: Json) -> list[Json]:
    """The content blocks of one message; without empty texts, which the endpoint rejects."""
    text = text_of(message.get("content"))
    if message["role"] == "tool":
        result = {"type": "tool_result", "tool_use_id": message["tool_call_id"], "content": text}
        return [{**result, "is_error": True} if json_object(text).get("error") else result]
    blocks: list[Json] = list(message.get("thinking_blocks") or [])
    thought = message.get("reasoning_content") or ""
    if thought.strip() and not blocks:
        blocks.append({"type": "thinking", "thinking": thought})
    if text.strip():
        blocks.append({"type": "text", "text": text})
    for call in message.get("tool_calls") or []:
        name, arguments = call["function"]["name"], json_object(call["function"]["arguments"])
        blocks.append({"type": "tool_use", "id": call["id"], "name": name, "input": arguments})
    return blocks


def to_request(
    messages: list[Json], tools: list[Json] | None, model: str = "moonshotai/Kimi-K2-Instruct",
    max_tokens: int = 16_000, temperature: float | None = None,
) -> Json:  # fmt: skip
    """The body of `POST /v1/messages` for a conversation and tools in OpenAI form.

    `max_tokens` limits the output; `temperature` is the effective one, 0 to 0.6 (else a
    SettingError). A tool that is not in OpenAI form is passed through.
    """
    system: list[str] = []
    turns: list[Json] = []
    for message in messages:
        role = _ROLES.get(message["role"], "user")
        for block in _blocks(message):
            if role == "system":
                system.append(block["text"])
            elif turns and turns[-1]["role"] == role:  # turns alternate
                turns[-1]["content"].append(block)
            else:
                turns.append({"role": role, "content": [block]})
    request: Json = {"model": model, "max_tokens": max_tokens, "messages": turns}
    if system:
        request["system"] = "\n\n".join(system)
    if tools:
        request["tools"] = [_tool(tool) for tool in tools]
        request["tool_choice"] = {"type": "auto"}
    if temperature is not None:
        request["temperature"] = request_temperature(temperature)
    return request


def _tool(tool: Json) -> Json:
    function = tool.get("function")
    if not function:
        return tool
    schema = function.get("parameters") or {"type": "object"}
    description = function.get("description", "")
    return {"name": function["name"], "description": description, "input_schema": schema}


def to_message(response: Json) -> Json:
    """The reply of `/v1/messages` as an assistant message in OpenAI form: its text, thinking and
    calls. The thinking is also kept as it came, to go back with its signature."""
    content = response.get("content") or []
    message: Json = {"role": "assistant", "content": text_of(content)}
    for block in content if isinstance(content, list) else ():
        kind = block.get("type")
        if kind in ("thinking", "redacted_thinking"):
            thought = message.get("reasoning_content", "") + (block.get("thinking") or "")
            message["reasoning_content"] = thought
            message.setdefault("thinking_blocks", []).append(block)
        elif kind == "tool_use":
            # Now and then, `input` is a string of JSON instead of an object.
            arguments = json.dumps(json_object(block.get("input")), ensure_ascii=False)
            function = {"name": block.get("name") or "", "arguments": arguments}
            call = {"id": block.get("id"), "type": "function", "function": function}
            message.setdefault("tool_calls", []).append(call)
    return message


def to_completion(response: Any) -> Any:
    """The reply of `/v1/messages` as a chat completion; anything else is returned unchanged."""
    if not isinstance(response, dict) or "content" not in response:
        return response
    usage = response.get("usage")
    if isinstance(usage, dict):
        sent, made = usage.get("input_tokens"), usage.get("output_tokens")
        total = sent + made if isinstance(sent, int) and isinstance(made, int) else None
        usage = {"prompt_tokens": sent, "completion_tokens": made, "total_tokens": total}
    choice = {"message": to_message(response), "finish_reason": response.get("stop_reason")}
    return {"choices": [choice], "usage": usage}


def to_response(message: Json, usage: Json) -> Iterator[Json]:
    """The reply of `/v1/messages` for a message and a usage in OpenAI form, and then the events of
    the same reply as a stream. For the mock server."""
    counts = {"input_tokens": usage["prompt_tokens"], "output_tokens": usage["completion_tokens"]}
    end = {"stop_reason": "tool_use" if "tool_calls" in message else "end_turn"}
    about = {"id": "offline", "type": "message", "role": "assistant", "model": "offline"}
    blocks = _blocks(message)
    reply = {**about, "content": blocks, "stop_sequence": None, **end, "usage": counts}
    yield reply
    yield {"type": "message_start", "message": {**reply, "content": [], "stop_reason": None}}
    for index, block in enumerate(blocks):
        field = block["type"]
        kind, text, empty = f"{field}_delta", block.get(field, ""), {**block, field: ""}
        if field == "tool_use":
            kind, field = "input_json_delta", "partial_json"
            text, empty = json.dumps(block["input"]), {**block, "input": {}}
        yield {"type": "content_block_start", "index": index, "content_block": empty}
        for piece in PIECES.findall(text):
            delta = {"type": kind, field: piece}
            yield {"type": "content_block_delta", "index": index, "delta": delta}
        yield {"type": "content_block_stop", "index": index}
    yield {"type": "message_delta", "delta": {**end, "stop_sequence": None}, "usage": counts}
    yield {"type": "message_stop"}
