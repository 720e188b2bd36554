"""Kimi-K2's own text format: render the prompt, parse the tool calls in the reply.

It is described in docs/tool_call_guidance.md in github.com/moonshotai/Kimi-K2, and by the template
published with moonshotai/Kimi-K2-Instruct. `render_prompt` is for that model and its version 0905;
K2-Thinking, K2.5 and later, and K3 want other prompts. No images. This file can be copied alone.
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
_MARKER = re.compile(f"({'|'.join(map(re.escape, _MARKERS))})")
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
        prompt += _turn("system", "system", DEFAULT_SYSTEM) + "\n"  # the only newline between turns
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
    name = re.sub(r":\s*\d+$", "", call_id.strip().removeprefix("functions.")).strip()
    return "" if name.isdigit() else name


class ToolCallParser:
    """Finds the tool calls in the model's text while it arrives, wherever the pieces are split.

    `feed(text)` returns the text that is now safe to show, `close()` what was held back because it
    could have become a marker. `tool_calls` then has the calls in OpenAI form, with id and
    arguments as the model wrote them, and the name "" if the id is only a counter. `final_calls`
    are those that no other text follows: the others are only quoted. If `truncated`, do not run
    them: the text ended inside the last one, with arguments that are not complete JSON, or another
    marker broke one off before its arguments. Never raises; takes linear time.
    """

    def __init__(self) -> None:
        self.tool_calls: list[dict[str, Any]] = []
        self.final_calls: list[dict[str, Any]] = []
        self.truncated = False
        self._in_call = self._in_section = False
        self._has_call = False  # of the section
        self._kept = bytearray()  # text of the call or section; in bytes, to save memory
        self._held = ""  # the end of the text, while it could become a marker
        self._shown = ""  # the last piece of the content

    def feed(self, text: str) -> str:
        """Take the next piece of the text; return what can be shown of it."""
        text = self._held + text
        if "<" not in text:  # most pieces of a stream
            return self._on_text(text)
        *parts, rest = _MARKER.split(text)
        shown = ""
        for part in parts:
            shown += self._on_marker(part) if part in _MARKERS else self._on_text(part)
        self._held = _unfinished_marker(rest)
        return shown + self._on_text(rest.removesuffix(self._held))

    def close(self) -> str:
        """End the text; return what was held back, unless it belongs to a call."""
        held, self._held = self._held, ""
        if not self._in_call:
            self._in_section = False  # a section that does not end is text about the markers
            return self._on_text(self._take()) + held
        self._end_call(is_cut=True)
        if self.truncated:
            self.tool_calls[-1]["function"]["arguments"] += held
        return ""

    def _on_text(self, text: str) -> str:
        """Return what is content; keep what is in a call or a section."""
        if self._in_call or self._in_section:
            self._kept += text.encode("utf-8", "surrogatepass")
            return ""
        if text.strip():
            self.final_calls, self.truncated = [], False
        if text and text[0] != "<" and _unfinished_marker(self._shown):
            text = " " + text  # a marker stood between these halves of another one
        self._shown = text or self._shown
        return text

    def _on_marker(self, marker: str) -> str:
        """Begin or end what the marker begins or ends; return what turns out to be content."""
        if marker == _ARGUMENTS and self._in_call:
            self._kept += marker.encode()
            return ""
        self._end_call(is_cut=marker in _TURNS)
        if marker in _SECTION_END or marker in _TURNS:
            text, self._in_section = self._take(), False
            return "" if self._has_call else self._on_text(text)  # text about the markers
        if marker == _CALL:
            self._kept.clear()  # noise before the call
            self._in_call = self._has_call = True
        elif marker in _SECTION:
            self._in_section, self._has_call = True, False
        if self._kept:
            self._kept += b" "  # halves of a marker must not join here, either
        return ""

    def _end_call(self, is_cut: bool) -> None:
        """Add the call that is being read, if one is; it may end without its own last marker."""
        if not self._in_call:
            return
        self._in_call = False
        call_id, begun, arguments = self._take().partition(_ARGUMENTS)
        call_id, arguments = call_id.strip(), arguments.replace(_ARGUMENTS, "").strip()
        function = {"name": function_name(call_id), "arguments": arguments}
        call = {"id": call_id, "type": "function", "function": function}
        self.tool_calls.append(call)
        self.final_calls.append(call)
        if is_cut or not begun:
            try:
                json.loads(arguments)
            except (ValueError, RecursionError):
                self.truncated = True

    def _take(self) -> str:
        text = self._kept.decode("utf-8", "surrogatepass")
        self._kept.clear()
        return text


def _unfinished_marker(text: str) -> str:
    """The end of `text` that could become a marker, or ""."""
    end = text[text.rfind("<") :] if "<" in text else ""
    return end if any(marker.startswith(end) for marker in _MARKERS) else ""


def parse(text: str) -> tuple[str, list[dict[str, Any]]]:
    """The content and the tool calls of a whole text, quoted calls too; see `ToolCallParser`."""
    parser = ToolCallParser()
    content = parser.feed(text) + parser.close()
    return content, parser.tool_calls
