"""Evens out the differences between servers: `collect` makes one Reply of what they send,
`sendable` a copy of the messages that all of them accept.
"""

import json
import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from . import Json, json_object
from .errors import KimiError, quote
from .kimi_format import ToolCallParser, function_name


class Reply(NamedTuple):
    """One assistant message with its metadata."""

    message: Json  # in OpenAI form: role, content, and maybe tool_calls, reasoning_content
    finish_reason: str  # "stop", "tool_calls", "length"; Anthropic's names in mode anthropic
    usage: Json | None  # token counts, under the names that the endpoint uses
    parsed_from_text: bool  # the calls were found in the text, by their markers
    truncated: bool  # the text ended inside a call


def as_dict(piece: Any) -> Json:
    """What the SDK returned, as a dict; JSONDecodeError if it is an HTML page."""
    piece = json.loads(piece) if isinstance(piece, str) else piece
    return dict(piece if isinstance(piece, dict) else piece.to_dict(warnings=False))


def joined(texts: Iterable[str]) -> str:
    """Pieces of text as one text without lone surrogates, which cannot be sent or printed."""
    return "".join(texts).encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def collect(pieces: Iterable[Any], on_text: Callable[[str], object] = lambda text: None) -> Reply:
    """Make one Reply of `pieces`: completions or chunks in OpenAI form, SDK objects or dicts.

    `on_text` gets the content as it arrives, without tool calls. Raises KimiError if a piece is
    an error, or if none has a finish reason: then the reply is not complete.
    """
    content: list[str] = []
    thoughts: list[str] = []
    in_content, in_thoughts = ToolCallParser(), ToolCallParser()
    calls: list[Json] = []
    current: dict[int, Json] = {}  # index: the call whose fragments arrive there
    finish_reason = usage = None

    def show(text: str) -> None:
        if text:
            content.append(text)
            on_text(text)

    for piece in map(as_dict, pieces):
        if piece.get("error") or piece.get("object") == "error":
            said = quote(piece.get("error") or piece)
            raise KimiError(f"Error: The endpoint sent an error, not a reply{said}.\nTry again.")
        usage = piece.get("usage") or usage
        for choice in piece.get("choices") or []:  # the chunk with the usage has none
            usage = choice.get("usage") or usage  # where Moonshot puts it
            finish_reason = choice.get("finish_reason") or finish_reason
            part = choice.get("delta") or choice.get("message") or {"content": choice.get("text")}
            show(in_content.feed(part.get("content") or ""))
            thought = part.get("reasoning_content")
            thought = part.get("reasoning") if thought is None else thought  # vLLM's name
            if thought is not None:
                thoughts.append(in_thoughts.feed(thought))
            for place, fragment in enumerate(part.get("tool_calls") or []):
                _add(fragment, place, calls, current)
    show(in_content.close())
    if finish_reason is None:
        what = "Error: The reply has no finish reason: the stream was cut."
        raise KimiError(f"{what}\nRun it again; if that happens every time, check the base URL.")

    message: Json = {"role": "assistant", "content": joined(content).strip()}
    if thoughts:  # a thinking model expects its reasoning back, even if empty
        message["reasoning_content"] = joined([*thoughts, in_thoughts.close()])
    parser = in_content if in_content.tool_calls else in_thoughts
    tool_calls = [
        {"id": call["id"], "type": "function",
         "function": {"name": call["name"], "arguments": joined(call["arguments"])}}
        for call in calls
    ] or parser.tool_calls  # fmt: skip
    if tool_calls:
        message["tool_calls"] = tool_calls
    from_text = bool(tool_calls) and not calls
    usage = usage if isinstance(usage, dict) else None
    return Reply(message, finish_reason, usage, from_text, from_text and parser.truncated)


def _add(fragment: Json, place: int, calls: list[Json], current: dict[int, Json]) -> None:
    """Add a fragment to the call at its index, or without one at its place in the list. A different
    id or name begins a new call."""
    index = place if fragment.get("index") is None else fragment["index"]
    function = fragment.get("function") or {}
    new = {"id": fragment.get("id") or "", "name": function_name(function.get("name") or "")}
    call = current.get(index)
    if call is None or any(call[key] and new[key] and call[key] != new[key] for key in new):
        call = current[index] = {"id": "", "name": "", "arguments": []}
        calls.append(call)
    call.update({key: call[key] or new[key] for key in new})
    arguments = function.get("arguments") or ""
    call["arguments"].append(arguments if isinstance(arguments, str) else json.dumps(arguments))


def check(reply: Reply, max_tokens: int) -> None:
    """Raise KimiError unless the reply is an answer or has calls that can be run."""
    calls, reason = reply.message.get("tool_calls", []), reply.finish_reason
    cut_off = reply.truncated or not all(call["function"]["name"] for call in calls)
    empty = not calls and not reply.message["content"]
    for found, what, advice in (
        (cut_off, "Tool call parsing failed: a call is cut off or has no name, so none was run",
         f"Run it again, or raise max_tokens (now {max_tokens}; tutorial: --mode, --max-tokens)"),
        (reason == "length", f"The reply reached the output limit of {max_tokens} tokens",
         "Raise max_tokens (in the tutorial: --mode and --max-tokens)"),
        (reason == "content_filter", "The content filter stopped the reply",
         "Rephrase the question"),
        (re.search("error|abort|cancel|insufficient", reason),
         f"The endpoint broke off the reply ({reason})", "Run it again"),
        (empty, "The model sent an empty reply", "Run it again"),
    ):  # fmt: skip
        if found:
            raise KimiError(f"Error: {what}.\n{advice}.")


def sendable(messages: list[Json]) -> list[Json]:
    """A copy of `messages` that the strictest server accepts: every message has a content, no field
    is null or an empty list, arguments are JSON objects, and no text has a lone surrogate."""
    copies: list[Json] = json.loads(joined([json.dumps(messages, ensure_ascii=False)]))
    for message in copies:
        for key in [key for key, value in message.items() if value in (None, [])]:
            del message[key]
        message.setdefault("content", "")
        for call in message.get("tool_calls", []):
            raw = call["function"]["arguments"]
            value = json_object(raw)
            # "\\ud" begins an escaped surrogate, which may be a lone one.
            if isinstance(raw, dict) or not value or "invalid_arguments" in value or "\\ud" in raw:
                raw = joined([json.dumps(value, ensure_ascii=False)])
            call["function"]["arguments"] = raw
    return copies
