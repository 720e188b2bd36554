"""Messages in OpenAI form: reading arguments, numbering calls, and what every server accepts."""

import json
import re
from collections.abc import Iterable
from typing import Any

Json = dict[str, Any]  # a JSON object


def as_dict(value: Any) -> Json:
    """A message, completion or chunk as a dict: it may be one of the SDK's objects."""
    return value if isinstance(value, dict) else dict(value.to_dict(warnings=False))


def text_of(content: Any) -> str:
    """The text of a content: a string, a list of parts, or None."""
    parts = content if isinstance(content, list) else [content]
    texts = [part.get("text") if isinstance(part, dict) else part for part in parts]
    return "".join(text for text in texts if isinstance(text, str))


def json_object(arguments: Any) -> Json:
    """The JSON object that a call's arguments hold, given as text or as a dict; {} if empty.

    Raw line breaks in strings, and JSON within a JSON string, are understood. Anything else (broken
    JSON, a list, NaN) comes back as {"invalid_arguments": arguments}.
    """
    value = arguments or {}
    try:
        for _ in range(2):
            if isinstance(value, str):
                value = json.loads(value, strict=False) if value.strip() else {}
        json.dumps(value, allow_nan=False)  # NaN, Infinity and 1e999 are not JSON
    except (TypeError, ValueError, RecursionError):
        value = None
    return value if isinstance(value, dict) else {"invalid_arguments": arguments}


def number_calls(calls: list[Json], messages: list[Json]) -> None:
    """Give each call the id functions.NAME:N, where N counts all calls of the conversation, as
    Moonshot's API does: after ids of another form, Kimi-K2 tends to write malformed ones."""
    taken = [call.get("id") for message in messages for call in message.get("tool_calls") or []]
    for number, call in enumerate(calls, len(taken)):
        while (call_id := f"functions.{call['function']['name']}:{number}") in taken:
            number += 1  # in use, because the caller dropped early messages
        call["id"] = call_id
        taken.append(call_id)


def sendable(messages: Iterable[Any], offered: Iterable[str] = ()) -> list[Json]:
    """A copy of `messages` that the strictest server accepts.

    Every message has a content, no field is null or an empty list, and no text has half an emoji.
    Each call has a JSON object as arguments and, unless its tool is `offered`, a name in the form
    that servers accept. Reasoning goes back as `reasoning_content`, too.
    """
    copies = []
    for message in as_json(list(messages)):
        copy = {"content": "", **{k: v for k, v in message.items() if v not in (None, [])}}
        if isinstance(copy.get("reasoning"), str):  # vLLM's name
            copy.setdefault("reasoning_content", copy["reasoning"])
        functions = [call["function"] for call in copy.get("tool_calls", [])]
        for function in functions:
            arguments = as_json(json_object(function.get("arguments")))
            function["arguments"] = json.dumps(arguments, ensure_ascii=False)
        for named in (copy, *functions):
            if "name" in named and named["name"] not in offered and copy["role"] != "user":
                named["name"] = re.sub(r"[^\w-]|^(?=[\d-])", "_", named["name"], flags=re.A)[:64]
        copies.append(copy)
    # A thinking model does not think before every call, but wants every call's reasoning back.
    thinks = any("reasoning_content" in message for message in copies)
    for message in copies:
        if thinks and "tool_calls" in message:
            message["reasoning_content"] = message.get("reasoning_content") or " "
    return copies


def as_json(value: Any) -> Any:
    """A copy of a value as JSON data: SDK objects are dicts, the two halves of an emoji that was
    cut are one character, and half an emoji, which UTF-8 cannot write, is replaced."""
    text = json.dumps(value, ensure_ascii=False, default=as_dict)
    return json.loads(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))
