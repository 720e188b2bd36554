"""Translates conversations in OpenAI form to Anthropic's `/v1/messages`, and replies back.

Not supported: images, streaming, and the signatures of thinking by Anthropic's own models.
"""

import json

from . import Json, json_object
from .errors import SettingError

# real_temperature = request_temperature * 0.6, says the README of github.com/moonshotai/Kimi-K2;
# request_temperature goes up to 1.0.
TEMPERATURE_FACTOR = 0.6


def request_temperature(real: float) -> float:
    """The `temperature` to send for an effective one of 0 to 0.6; SettingError outside of that."""
    if not 0 <= real <= TEMPERATURE_FACTOR:
        what = "Error: The Anthropic-compatible endpoint supports temperatures from 0 to 0.6"
        raise SettingError(f"{what}, not {real}.\nLower --temperature, or use another --mode.")
    return real / TEMPERATURE_FACTOR


def _blocks(message: Json) -> list[Json]:
    """The content blocks of one message; without empty texts, which the endpoint rejects."""
    content = message.get("content")
    parts = content if isinstance(content, list) else [{"text": content}]
    texts = [text for part in parts if (text := part.get("text") or "").strip()]
    if message["role"] == "tool":
        result = {"type": "tool_result", "tool_use_id": message["tool_call_id"]}
        failed = {"is_error": True} if json_object("".join(texts)).get("error") else {}
        return [{**result, "content": "".join(texts), **failed}]
    blocks: list[Json] = [{"type": "text", "text": text} for text in texts]
    if message.get("reasoning_content"):
        blocks.insert(0, {"type": "thinking", "thinking": message["reasoning_content"]})
    for call in message.get("tool_calls") or []:
        name, arguments = call["function"]["name"], json_object(call["function"]["arguments"])
        blocks.append({"type": "tool_use", "id": call["id"], "name": name, "input": arguments})
    return blocks


def to_request(
    messages: list[Json], tools: list[Json] | None, model: str = "moonshotai/Kimi-K2-Instruct",
    max_tokens: int = 4096, temperature: float | None = None,
) -> Json:  # fmt: skip
    """The body of `POST /v1/messages` for a conversation and tools in OpenAI form.

    `max_tokens` limits the output; `temperature` is the effective one, 0 to 0.6 (else a
    SettingError). The results of one message's calls become one user message, in their order.
    """
    system: list[str] = []
    turns: list[Json] = []
    order: dict[str, int] = {}  # id of a call: its number
    for message in messages:
        blocks = _blocks(message)
        if message["role"] in ("system", "developer"):
            system += [block["text"] for block in blocks]
            continue
        role = "assistant" if message["role"] == "assistant" else "user"
        for call in message.get("tool_calls") or []:
            order.setdefault(call["id"], len(order))
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += blocks
        elif blocks:
            turns.append({"role": role, "content": blocks})
    for turn in turns:
        if turn["role"] == "user":  # results first, in the order of their calls, then texts
            turn["content"].sort(key=lambda b: order.get(b.get("tool_use_id"), len(order)))
    request: Json = {"model": model, "max_tokens": max_tokens, "messages": turns}
    if system:
        request["system"] = "\n\n".join(system)
    if tools:
        request["tools"] = [
            {"name": function["name"], "description": function.get("description", ""),
             "input_schema": function.get("parameters") or {"type": "object"}}
            for function in (tool["function"] for tool in tools)
        ]  # fmt: skip
        request["tool_choice"] = {"type": "auto"}
    if temperature is not None:
        request["temperature"] = request_temperature(temperature)
    return request


def to_message(response: Json) -> Json:
    """The reply of `/v1/messages` as an assistant message in OpenAI form: its blocks of text, of
    thinking and of tool use. Blocks of other types are left out."""
    blocks = response.get("content") or []
    texts = [block.get("text") or "" for block in blocks if block["type"] == "text"]
    thoughts = [block["thinking"] for block in blocks if block["type"] == "thinking"]
    message: Json = {"role": "assistant", "content": "".join(texts)}
    if thoughts:
        message["reasoning_content"] = "".join(thoughts)
    for block in blocks:
        if block["type"] == "tool_use":
            # Now and then, `input` is a string of JSON instead of an object.
            arguments = json.dumps(json_object(block.get("input")), ensure_ascii=False)
            function = {"name": block["name"], "arguments": arguments}
            call = {"id": block["id"], "type": "function", "function": function}
            message.setdefault("tool_calls", []).append(call)
    return message
