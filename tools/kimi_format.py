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
_TURN_END = "<|im_end|>"
_TURNS = (_TURN_END, "<|im_middle|>", "<|im_system|>", "<|im_user|>", "<|im_assistant|>")
_MARKERS = (_CALL, _ARGUMENTS, _CALL_END, *_SECTION, *_SECTION_END, *_TURNS)
_MARKER = re.compile(f"({'|'.join(map(re.escape, _MARKERS))})")
_BEGINNINGS = {marker[:length] for marker in _MARKERS for length in range(1, len(marker))}
# What may follow a call that is meant: blanks, tags that close the thinking, half a marker.
_CLOSING_TAG = r"</\w{0,20}(think|thought|reason|tool|function)\w{0,20}>"
_NO_TEXT = re.compile(rf"\s*({_CLOSING_TAG}\s*)*(<(\|\w*\|?)?)?", re.I)
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
    """Finds the tool calls in the model's text, wherever it is split.

    `feed(text)` returns what can be shown of the text: all before the first marker. `close()` reads
    the rest and returns its text, without markers and calls. Then there are:

    tool_calls: all calls in OpenAI form, with id and arguments as the model wrote them. The name is
        "" if the id is only a counter.
    final_calls: those that no other text follows. The others are only quoted.
    truncated: whether a call is broken: its arguments, its header or its beginning is missing or
        incomplete, and no other text follows. Do not run the calls then.

    Never raises; takes linear time.
    """

    def __init__(self) -> None:
        self.tool_calls: list[dict[str, Any]] = []
        self.final_calls: list[dict[str, Any]] = []
        self.truncated = False
        self._held = ""  # the end of the text, while it could become a marker
        self._shown = ""  # the last piece that was returned
        self._marked = bytearray()  # all from the first marker on; in bytes, to save memory

    def feed(self, text: str) -> str:
        """Take the next piece of the text; return what can be shown of it."""
        if self._marked:
            self._marked += text.encode("utf-8", "surrogatepass")
            return ""
        text = self._held + text
        if "<" not in text:  # most pieces of a stream
            self._held = ""
            return text
        marker = _MARKER.search(text)
        end = marker.start() if marker else len(text) - len(_unfinished_marker(text))
        shown, self._held = text[:end], text[end:]
        self._shown = shown or self._shown
        if marker:
            self._marked += self._held.encode("utf-8", "surrogatepass")
        return shown

    def close(self) -> str:
        """End the text; return what has not been returned of it, without markers and calls."""
        if not self._marked:
            return self._held
        text = self._marked.decode("utf-8", "surrogatepass")
        self._marked.clear()
        _, *parts = _MARKER.split(text)
        del text
        complete = parts[-1].removesuffix(_unfinished_marker(parts[-1]))
        if parts[-2] == _ARGUMENTS and _is_json(complete):  # only the end marker was cut off
            parts[-1] = complete
        content, last, function, has_arguments = [""], self._shown, None, False
        # The end of the text ends a call, too.
        for marker, text in zip([*parts[::2], _TURN_END], [*parts[1::2], ""], strict=True):
            if function and marker == _ARGUMENTS:
                function["arguments"] += text.strip()
                has_arguments = True
                continue
            if function:
                is_cut = marker != _CALL_END and not _is_json(function["arguments"])
                self.truncated = self.truncated or is_cut or not has_arguments
            elif marker in (_ARGUMENTS, _CALL_END):  # of a call without a beginning
                self.truncated = True
            function = None
            if marker == _CALL:
                function, has_arguments = {"name": function_name(text), "arguments": ""}, False
                call = {"id": text.strip(), "type": "function", "function": function}
                self.tool_calls.append(call)
                self.final_calls.append(call)
                continue
            are_arguments = marker == _ARGUMENTS and text.lstrip().startswith("{")
            if not are_arguments and not _NO_TEXT.fullmatch(text):
                self.final_calls, self.truncated = [], False
            if text.isspace() and marker in (*_SECTION, _CALL_END):
                continue  # it separates calls
            if text and text[0] != "<" and _unfinished_marker(last):
                content.append(" ")  # these halves of a marker must not become one
            content.append(text)
            last = text or last
        return "".join(content)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _unfinished_marker(text: str) -> str:
    """The end of `text` that could become a marker, or ""."""
    end = text[text.rfind("<") :] if "<" in text else ""
    return end if end in _BEGINNINGS else ""


def parse(text: str) -> tuple[str, list[dict[str, Any]]]:
    """The content and the tool calls of a whole text, quoted calls too; see `ToolCallParser`."""
    parser = ToolCallParser()
    content = parser.feed(text) + parser.close()
    return content, parser.tool_calls
