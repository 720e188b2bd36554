"""Kimi-K2's own text format: render the prompt, parse the tool calls in the reply.

It is described in docs/tool_call_guidance.md in github.com/moonshotai/Kimi-K2, and by the
chat_template.jinja published with moonshotai/Kimi-K2-Instruct. Not supported: images and thinking.
This file imports nothing from the package, so it can be copied by itself.
"""

import json
import re
from typing import Any

DEFAULT_SYSTEM = "You are Kimi, an AI assistant created by Moonshot AI."
_CALL, _CALL_END = "<|tool_call_begin|>", "<|tool_call_end|>"
_ARGUMENTS = "<|tool_call_argument_begin|>"
_SECTION = ("<|tool_calls_section_begin|>", "<|tool_call_section_begin|>")  # the model uses both
_SECTION_END = ("<|tool_calls_section_end|>", "<|tool_call_section_end|>")
_TURNS = ("<|im_end|>", "<|im_middle|>", "<|im_system|>", "<|im_user|>", "<|im_assistant|>")
_MARKERS = (_CALL, _ARGUMENTS, _CALL_END, *_SECTION, *_SECTION_END, *_TURNS)
_MARKER = re.compile("|".join(map(re.escape, _MARKERS)))
_BETWEEN_CALLS = re.compile(f"({'|'.join(map(re.escape, (_CALL, _CALL_END, *_SECTION)))})")
# The beginning of a special token of the tokenizer. A space after it makes it plain text.
_SPECIAL = re.compile(r"<\|(?=\w+\|>)|\[(?=(BOS|EOS|EOT|UNK|PAD)\])")


def _text(content: Any) -> str:
    """A content (a string, a list of text parts or None) as text without special tokens."""
    if isinstance(content, list):
        content = "".join(part.get("text") or "" for part in content)
    return _SPECIAL.sub(r"\g<0> ", content or "")


def _turn(token: str, name: str, body: str) -> str:
    return f"<|im_{token}|>{name}<|im_middle|>{body}<|im_end|>"


def render_prompt(messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None = None) -> str:
    """The prompt for `/completions`: what the published chat template makes of a conversation.

    `messages` and `tools` are in OpenAI form. Two things differ from the template: call ids become
    `functions.NAME:N`, where N counts the calls of the conversation, because after other ids the
    model writes malformed ones; and a special token inside a text gets a space (`<| im_end|>`), so
    that no text can open or close a turn.
    """
    prompt, count = "", 0
    new_ids: dict[Any, str] = {}  # id in the messages: id in the prompt
    if tools:
        compact = json.dumps(tools, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
        prompt += _turn("system", "tool_declare", _text(compact))
    if messages and messages[0]["role"] != "system":
        prompt += _turn("system", "system", DEFAULT_SYSTEM) + "\n"  # only here, as in the template
    for message in messages:
        role, body = message["role"], _text(message.get("content"))
        if role == "assistant" and message.get("tool_calls"):
            body += _SECTION[0]
            for call in message["tool_calls"]:
                call_id = _text(f"functions.{call['function']['name']}:{count}")
                count += 1
                new_ids[call.get("id")] = call_id
                arguments = call["function"]["arguments"]
                if not isinstance(arguments, str):
                    arguments = json.dumps(arguments, ensure_ascii=False)
                body += f"{_CALL}{call_id}{_ARGUMENTS}{_text(arguments)}{_CALL_END}"
            body += _SECTION_END[0]
        elif role == "tool":
            old_id = message.get("tool_call_id")
            body = f"## Return of {new_ids.get(old_id) or _text(str(old_id))}\n{body}"
        token = role if role in ("user", "assistant") else "system"
        prompt += _turn(token, _text(message.get("name") or role), body)
    return prompt + "<|im_assistant|>assistant<|im_middle|>"


def function_name(call_id: str) -> str:
    """The NAME in an id like functions.NAME:N; "" if the id is only a counter."""
    name = re.sub(r"\s*:\s*\d+$", "", call_id.strip().removeprefix("functions."))
    return "" if name.isdigit() else name


class ToolCallParser:
    """Finds the tool calls in the model's text while it arrives, wherever the pieces are split.

    `feed(text)` returns the text that is now safe to show; `close()` returns what was held back
    because it could have become a marker. `tool_calls` then has the calls in OpenAI form, with id
    and arguments as the model wrote them; a call whose id is only a counter has the name "". If the
    text ended inside a call and its arguments are not complete JSON, `truncated` is true: do not
    run that call. Never raises; takes linear time.
    """

    def __init__(self) -> None:
        self.tool_calls: list[dict[str, Any]] = []
        self.truncated = False
        self._held = ""  # the end of the text, while it could become a marker
        # The section, or call outside of one, that is being read; in bytes, to save memory.
        self._section: bytearray | None = None
        self._ends: tuple[str, ...] = ()  # the markers that end it

    def feed(self, text: str) -> str:
        """Take the next piece of the text; return what can be shown of it."""
        text, self._held = self._held + text, ""
        if "<|" not in text and not text.endswith("<"):  # no marker, nor the beginning of one
            return self._on_text(text)
        shown, start = "", 0
        for marker in _MARKER.finditer(text):
            shown += self._on_text(text[start : marker.start()])
            self._on_marker(marker.group())
            start = marker.end()
        tail = text.rfind("<", start)
        if tail >= 0 and any(marker.startswith(text[tail:]) for marker in _MARKERS):
            text, self._held = text[:tail], text[tail:]
        return shown + self._on_text(text[start:])

    def close(self) -> str:
        """End the text; return what was held back."""
        held, self._held = self._held, ""
        if self._section is None:
            return held
        self._end_section(is_cut=True)
        if self.truncated:
            self.tool_calls[-1]["function"]["arguments"] += held
        return ""

    def _on_text(self, text: str) -> str:
        """Return content; keep what belongs to a section."""
        if self._section is None:
            return text
        self._section += text.encode("utf-8", "surrogatepass")
        return ""

    def _on_marker(self, marker: str) -> None:
        """Begin or end a section, or continue it. A marker without a meaning is dropped."""
        if self._section is None:
            if marker == _CALL or marker in _SECTION:
                self._section = bytearray()
                self._ends = (*_TURNS, *_SECTION_END, *([_CALL_END] if marker == _CALL else []))
                self._on_text(marker)
        elif marker in self._ends:
            self._end_section(is_cut=marker in _TURNS)
        else:
            self._on_text(marker)

    def _end_section(self, is_cut: bool) -> None:
        """Add the calls of the section; if it is cut, the last one may not be complete."""
        parts = _BETWEEN_CALLS.split((self._section or b"").decode("utf-8", "surrogatepass"))
        self._section = None
        # The parts are text, marker, text, …: look at each text with the marker before it.
        for marker, part in zip(["", *parts[1::2]], parts[::2], strict=True):
            call_id, found, arguments = part.partition(_ARGUMENTS)
            if marker == _CALL or found:  # else it is noise between the calls
                # Where <|tool_call_begin|> is missing, the id is the last word.
                words = call_id.split()
                call_id = " ".join(words if marker == _CALL else words[-1:])
                function = {"name": function_name(call_id), "arguments": arguments.strip()}
                self.tool_calls.append({"id": call_id, "type": "function", "function": function})
        if is_cut and (marker == _CALL or found):  # the last part
            try:
                json.loads(self.tool_calls[-1]["function"]["arguments"])
            except (ValueError, RecursionError):
                self.truncated = True


def parse(text: str) -> tuple[str, list[dict[str, Any]]]:
    """The content and the tool calls of a whole text; for their form, see `ToolCallParser`."""
    parser = ToolCallParser()
    content = parser.feed(text) + parser.close()
    return content, parser.tool_calls
