"""Kimi-K2's own text format: render the prompt, parse the tool calls in the reply.

It is described in docs/tool_call_guidance.md in github.com/moonshotai/Kimi-K2, and by the
chat_template.jinja published with moonshotai/Kimi-K2-Instruct. `render_prompt` is for that model
and Kimi-K2-Instruct-0905; Kimi-K2-Thinking, K2.5 and later, and K3 want other prompts. No images.
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
_LONGEST = max(map(len, _MARKERS))
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
    name = call_id.strip().removeprefix("functions.")
    before, colon, number = name.rpartition(":")
    if colon and number.strip().isdigit():
        name = before.strip()
    return "" if name.isdigit() else name


class ToolCallParser:
    """Finds the tool calls in the model's text while it arrives, wherever the pieces are split.

    `feed(text)` returns the text that is now safe to show; `close()` returns what was held back
    because it could have become a marker. `tool_calls` then has the calls in OpenAI form, with id
    and arguments as the model wrote them; a call whose id is only a counter has the name "".
    `final_calls` are those that no other text follows: the others are only quoted. `truncated` is
    true if the text ended inside the last of them, with arguments that are not complete JSON, or if
    another marker broke one off before its arguments: do not run them. Never raises; takes linear
    time.
    """

    def __init__(self) -> None:
        self.tool_calls: list[dict[str, Any]] = []
        self.final_calls: list[dict[str, Any]] = []
        self.truncated = False
        self._held = ""  # the end of the text, while it could become a marker
        self._in_section = False
        self._noise: list[str] = []  # text of the section that may be no noise between calls
        self._has_call = False  # of the section
        self._call_id: str | None = None  # of the call whose arguments are being read
        self._reading: bytearray | None = None  # an id or arguments; in bytes, to save memory
        self._shown = ""  # the last characters of the content
        self._divided = False  # the content goes on after a marker that was taken out

    def feed(self, text: str) -> str:
        """Take the next piece of the text; return what can be shown of it."""
        text, self._held = self._held + text, ""
        if "<|" not in text and not text.endswith("<"):  # no marker, nor the beginning of one
            return self._on_text(text)
        shown, start = "", 0
        for marker in _MARKER.finditer(text):
            shown += self._on_text(text[start : marker.start()])
            shown += self._on_marker(marker.group())
            self._divided = True
            if self._noise:  # halves of a marker must not join here, either
                self._noise.append(" ")
            start = marker.end()
        text = text[start:]
        self._held = _unfinished_marker(text)
        return shown + self._on_text(text.removesuffix(self._held))

    def close(self) -> str:
        """End the text; return what was held back, unless it belongs to a call."""
        held, self._held = self._held, ""
        if self._reading is None:
            return self._end_section(has_end=False) + held
        self._end_call(is_cut=True)
        if self.truncated:
            self.tool_calls[-1]["function"]["arguments"] += held
        return ""

    def _on_text(self, text: str) -> str:
        """Return what is content, keep what belongs to a call or stands between calls."""
        if self._reading is not None:
            self._reading += text.encode("utf-8", "surrogatepass")
            return ""
        if self._in_section:
            self._noise.append(text)
            return ""
        if not text:
            return ""
        if self.final_calls and text.strip():
            self.final_calls, self.truncated = [], False
        if self._divided and _unfinished_marker(self._shown):
            text = " " + text  # else both halves together could be a marker
        self._divided, self._shown = False, (self._shown + text)[-_LONGEST:]
        return text

    def _on_marker(self, marker: str) -> str:
        """Begin or end what the marker begins or ends; drop a marker that means nothing here.
        Return what turns out to be content."""
        if marker == _ARGUMENTS:
            if self._reading is not None and self._call_id is None:
                self._call_id, self._reading = self._end_reading(), bytearray()
            return ""
        self._end_call(is_cut=marker in _TURNS)
        if marker == _CALL:
            self._reading, self._has_call = bytearray(), True  # of the id
            self._noise.clear()
        elif marker in _SECTION:
            self._in_section, self._has_call = True, False
        elif marker != _CALL_END:
            return self._end_section(has_end=True)
        return ""

    def _end_section(self, has_end: bool) -> str:
        """Return the section's text, which is content if there was no call in it, or if the section
        did not end: then somebody writes about the markers."""
        text, self._in_section = "".join(self._noise), False
        self._noise.clear()
        return self._on_text("" if has_end and self._has_call else text)

    def _end_reading(self) -> str:
        text, self._reading = self._reading or b"", None
        return text.decode("utf-8", "surrogatepass").strip()

    def _end_call(self, is_cut: bool) -> None:
        """Add the call that is being read, if one is; it may end without its own last marker."""
        if self._reading is None:
            return
        has_arguments, text = self._call_id is not None, self._end_reading()
        call_id, arguments = (self._call_id or "", text) if has_arguments else (text, "")
        function = {"name": function_name(call_id), "arguments": arguments}
        call = {"id": call_id, "type": "function", "function": function}
        self.tool_calls.append(call)
        self.final_calls.append(call)
        self._call_id = None
        if not has_arguments or is_cut and not _is_json(arguments):
            self.truncated = True


def _unfinished_marker(text: str) -> str:
    """The end of `text` that could become a marker, or ""."""
    end = text[text.rfind("<") :] if "<" in text else ""
    return end if any(marker.startswith(end) for marker in _MARKERS) else ""


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def parse(text: str) -> tuple[str, list[dict[str, Any]]]:
    """The content and the tool calls of a whole text, quoted calls too; see `ToolCallParser`."""
    parser = ToolCallParser()
    content = parser.feed(text) + parser.close()
    return content, parser.tool_calls
