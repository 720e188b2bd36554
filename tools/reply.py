"""One usable Reply out of what a server sends: a whole completion, or the chunks of a stream."""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any, NamedTuple

from .errors import PAGE, KimiError, about_body, as_kimi_error, quote
from .kimi_format import ToolCallParser, function_name
from .messages import Json, as_dict, as_json, json_object, text_of

DONE: Json = {"done": True}  # the piece that says that nothing is missing
# Finish reasons that are no normal end: (pattern, what happened, what to do).
_ENDINGS = (
    ("context_window|context_length", "The conversation does not fit in the model's context window",
     "Shorten it, or begin a new one."),
    ("length|max_tokens|max_output|token_limit", "The reply reached the output limit",
     'Raise max_tokens, for example with extra_body {"max_tokens": 32000}.'),
    ("filter|sensitive|safety|prohibited|blocked", "The content filter stopped the reply",
     "Rephrase the question."),
    ("refus", "The model refused to answer", "Rephrase the question."),
    ("pause", "The endpoint paused before the reply was complete", "Run it again."),
    ("error|abort|cancel|insufficient|fail|timeout", "The endpoint broke off the reply",
     "Run it again."),
)  # fmt: skip


class Reply(NamedTuple):
    """One assistant message that can be used: an answer, or calls that can be run."""

    message: Json  # in OpenAI form: role, content, and maybe tool_calls, reasoning_content
    finish_reason: str  # "stop", "tool_calls"; Anthropic's names in mode anthropic
    usage: Json | None  # token counts, under OpenAI's names
    parsed_from_text: bool  # the calls were found in the text, by their markers


def collect(
    pieces: Iterable[Any], on_text: Callable[[str], object] = lambda text: None,
    limit: int | None = None,
) -> Reply:  # fmt: skip
    """Make one Reply of `pieces`: completions or chunks in OpenAI form, SDK objects or dicts.

    `on_text` gets the content as it arrives, without tool calls. Raises KimiError if the reply is
    an error, incomplete, cut at the `limit` of output tokens that was sent, of an unknown form, or
    neither an answer nor calls that can be run; and what the SDK raises.
    """
    fold = _Fold()
    for text in filter(None, fold.texts(pieces)):
        fold.shown.append(text)
        on_text(text)
    return fold.reply(limit)


class _Fold:
    """Joins the pieces of a reply."""

    def __init__(self) -> None:
        self.content = ToolCallParser()
        self.shown: list[str] = []
        self.reasoning: list[tuple[str, str]] = []  # (the name of the field, its text)
        self.calls: list[Json] = []
        self.current: dict[int, Json] = {}  # index: the call whose fragments arrive there
        self.blocks: list[Json] = []  # Anthropic's thinking, which goes back unchanged
        self.usage: Any = None
        self.reason = ""  # the finish reason
        self.stray: Json | None = None  # the first piece without choices, if none has them

    def texts(self, pieces: Iterable[Any]) -> Iterator[str]:
        """Take the pieces; yield the text that can be shown."""
        try:
            for piece in pieces:
                yield from self._add_piece(as_dict(piece))
        except Exception as error:
            names = {each.__name__ for each in type(error).__mro__}
            # After the finish reason, a lost connection loses nothing.
            lost = names & {"TransportError", "DecodingError", "JSONDecodeError"}
            if "OpenAIError" in names:
                raise
            if not (self.reason and lost):
                raise as_kimi_error(error) from error
        yield self.content.close()

    def _add_piece(self, piece: Json) -> Iterator[str]:
        if piece == DONE:
            self.reason = self.reason or "stop"
            return
        choices = piece.get("choices") or []
        has_words = "choices" not in piece and {"code", "message", "detail", "msg"} & set(piece)
        if has_words or piece.get("error"):
            raise about_body(piece)
        if choices or self.stray is None:
            self.stray = {} if choices or piece.get("usage") else piece
        self.usage = piece.get("usage") or self.usage
        for choice in choices:
            self.usage = choice.get("usage") or self.usage  # where Moonshot puts it
            self.reason = self.reason or str(choice.get("finish_reason") or "")
            message = choice.get("message")
            part = choice.get("delta") or message or {"content": choice.get("text")}
            if part is message:
                if self.shown or self.calls or self.reasoning:
                    continue  # a last chunk that repeats the whole message
                self.reason = self.reason or "stop"
            for name in ("reasoning_content", "reasoning"):  # the second is vLLM's
                if isinstance(part.get(name), str):
                    self.reasoning.append((name, part[name]))
                    break
            self.blocks += part.get("thinking_blocks") or []
            for place, fragment in enumerate(part.get("tool_calls") or []):
                index = None if part is message else fragment.get("index")
                self._add_fragment(place if index is None else index, fragment)
            content = text_of(part.get("content")) or text_of(part.get("refusal"))
            yield self.content.feed(content)

    def _add_fragment(self, index: int, fragment: Json) -> None:
        """Continue the call at this index, or begin a new one."""
        part = fragment.get("function") or {}
        name, arguments = str(part.get("name") or ""), part.get("arguments") or ""
        arguments = arguments if isinstance(arguments, str) else json.dumps(arguments)
        call = self.current.get(index)
        if call and name and call["function"]["name"]:  # else it can only be more of the same call
            same_id = fragment.get("id") and fragment["id"] == call["id"]
            so_far = call["function"]["arguments"]
            # A quick look at the end first, because there may be many fragments.
            ended = "".join(so_far[-9:]).rstrip().endswith("}")
            complete = ended and "invalid_arguments" not in json_object("".join(so_far))
            if name != call["function"]["name"] or complete and arguments and not same_id:
                call = None
        if call is None:
            function = {"name": "", "arguments": []}  # joined at the end
            call = self.current[index] = {"id": None, "type": "function", "function": function}
            self.calls.append(call)
        call["id"] = call["id"] or fragment.get("id")
        call["function"]["name"] = call["function"]["name"] or name
        call["function"]["arguments"] += [arguments] if arguments else []

    def reply(self, limit: int | None) -> Reply:
        """The reply; KimiError unless it ended by itself, as an answer or with calls to run."""
        if self.stray:
            raise about_body(self.stray)
        usage = self.usage if isinstance(self.usage, dict) else None
        tokens = (usage or {}).get("completion_tokens")
        if isinstance(limit, int) and isinstance(tokens, int) and tokens >= limit:
            self.reason = "length"  # vLLM up to 0.32 hides that a reply was cut
        if not self.reason:
            what = "The reply has no finish reason: the stream was cut"
            raise KimiError(what, "Run it again; if that happens every time, check the base URL.")
        content = "".join(self.shown).strip()
        message: Json = {"role": "assistant", "content": content}
        thoughts = ToolCallParser()
        if self.reasoning:
            text = thoughts.feed("".join(part for _, part in self.reasoning)) + thoughts.close()
            message |= dict.fromkeys(["reasoning_content", *dict(self.reasoning)], text)
        for function in [call["function"] for call in self.calls]:
            function["name"] = function_name(function["name"])
            function["arguments"] = "".join(function["arguments"])
        # A model may write its calls before it closes its thinking.
        parser = self.content if content or self.content.final_calls else thoughts
        calls = self.calls or parser.final_calls
        from_text = bool(calls) and not self.calls
        if from_text and parser.truncated or not all(call["function"]["name"] for call in calls):
            what = "a call was cut off or had no name, so no call of that reply was run"
            advice = "Run it again, or raise max_tokens."
            raise KimiError(f"Tool call parsing failed: {what}", advice)
        for pattern, what, advice in _ENDINGS:
            if re.search(pattern, self.reason, re.I):
                what += f" of {limit} tokens" if "output limit" in what and limit else ""
                said = quote(content) if pattern == "refus" else ""
                raise KimiError(f"{what} ({self.reason}){said}", advice)
        if not content and not calls:
            raise KimiError("The model sent an empty reply", "Run it again.")
        message |= {"thinking_blocks": self.blocks, "tool_calls": calls}
        message = {name: value for name, value in message.items() if value != []}
        return Reply(as_json(message), self.reason, usage, from_text)


def whole_body(request: Callable[[], Any]) -> Iterator[Any]:
    """Send a request that asks for no stream; yield the pieces of its body, whatever it is."""
    try:
        body = request()
    except json.JSONDecodeError as error:  # labelled as JSON, but not JSON
        body = error.doc
    except UnicodeDecodeError as error:
        body = error.object.decode("utf-8", "replace")
    if isinstance(body, str):  # not labelled as JSON
        yield from events([body])
    else:
        yield from (body, DONE)


def events(texts: Iterable[str]) -> Iterator[Json]:
    """The JSON objects in a body, which is what its first characters say: one object, or a stream
    of server-sent events. KimiError for a page or other text, JSONDecodeError for cut JSON."""
    lines, data = _lines(texts), ""
    first = next((line for line in lines if line.strip()), "").lstrip("\ufeff \t\r")
    if first and not re.match("(data|event|id|retry)?:", first):
        body = "\n".join([first, *lines])
        if first[0] != "{":
            is_page = "\ufffd" in body or not quote(body)  # quote leaves out HTML
            raise KimiError(*PAGE) if is_page else about_body(body)
        first, lines = f"data:{body}", iter(["", "data:[DONE]", ""])  # a stream of one event
    for line in chain([first], lines):
        more = line[5:].strip() if line.startswith("data:") else ""
        # An empty line ends an event. Where a server leaves it out, what follows a "}" shows it.
        if not line.strip() or (data.endswith("}") and more[:1] not in ",]}"):
            if data.startswith("{"):
                yield json.loads(data)
            data = ""
        data += more
        if data == "[DONE]":
            yield DONE
            return


def _lines(texts: Iterable[str]) -> Iterator[str]:
    rest = ""
    for text in texts:
        *complete, rest = (rest + text).split("\n")
        yield from complete
    yield from (rest, "")  # so that the last event ends
