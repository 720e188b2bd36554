"""Does my key work? Checks the key, the model, a tool call and the answer: PASS or FAIL.

    python quick_test.py                     the key in MOONSHOT_API_KEY
    python quick_test.py --offline           no key: a mock server on this machine answers
    python quick_test.py --mode all          all four modes: what can this endpoint do?
    python quick_test.py --base-url http://localhost:8000/v1

Exit status: 0 PASS, 1 FAIL, 2 it could not start (no key, a malformed flag), 130 Ctrl-C.
"""

import re
import time
from typing import Any

from tools.errors import KimiError, explain, quote
from tools.loop import MODES, run_loop
from tools.messages import Json, json_object
from tools.reply import Reply
from tools.script import COULD_NOT_START, flag_parser, prepared, run_script

EXPRESSION, RESULT = "8467 * 5931", 50217777
# As a number of its own, with or without separators between its thousands.
RESULT_IN_TEXT = r"(?<!\d)50[\W_]{0,3}217[\W_]{0,3}777(?!,?\d)"
QUESTION = f"What is {EXPRESSION}? Use the calculate tool."
AGAIN = "Run it again; if that does not help, choose another --model."


def main(argv: list[str] | None = None) -> int:
    return run_script(verdict, argv)


def verdict(argv: list[str] | None) -> int:
    """Print a line for each check, then the verdict; return the exit status."""
    args = flag_parser(__doc__, "non-streaming").parse_args(argv)
    start, word = time.monotonic(), "FAIL"
    replies: list[Reply] = []

    def on_tool(call: Json, result: Json) -> None:
        shown, function = result.get("result", result.get("error", result)), call["function"]
        calls = replies[-1].message["tool_calls"]
        if len(replies) > 1 and call is calls[0]:
            print("(another call)\ntool    ", end="")
        print(one_line(f"{function['name']}({function['arguments']}) -> {shown}"))
        print("answer  " if call is calls[-1] else "tool    ", end="")

    try:
        with prepared(args) as (client, model):
            if args.mode == "all":
                return compare_modes(client, model, args.extra_body)
            print("tool    ", end="")
            more = {"on_tool": on_tool, "extra_body": args.extra_body}
            answer, raw = ask(client, model, args.mode, replies, **more)
            print(answer)
            if raw:
                print("note    The engine sent the call as plain text; it was parsed here instead.")
                print("        " + parser_flags(model))
        word = "PASS"
    except COULD_NOT_START:
        raise
    except Exception as error:
        print(explain(error).replace("\n", "\n        "))
    counts = [(reply.usage or {}).get("total_tokens") for reply in replies]
    tokens = sum(count for count in counts if isinstance(count, int))
    print(f"{word} in {time.monotonic() - start:.1f} s" + (f", {tokens} tokens" if tokens else ""))
    return int(word == "FAIL")


def compare_modes(client: Any, model: str, extra_body: Json | None) -> int:
    """Print a line for each mode, then how many work; return the exit status."""
    works, word = 0, "PASS"
    for mode in MODES:
        print(f"{mode:14}", end="")
        start = time.monotonic()
        try:
            _, raw = ask(client, model, mode, [], extra_body=extra_body)
            note = " (the calls came as plain text)" if raw else ""
            print(f"PASS in {time.monotonic() - start:.1f} s{note}")
            works += 1
        except Exception as error:
            status = getattr(error, "status_code", 0)
            # In non-streaming mode, a 404 means that the model or the base URL is wrong.
            if status == 404 and mode != "non-streaming":
                print("not served here")
                continue
            word = "FAIL"
            print("FAIL:", one_line(explain(error).removeprefix("Error: ")))
            refused = status in (401, 402, 403, 429) or status >= 500 and status != 501
            if refused or type(error).__name__ == "APIConnectionError":
                break  # the key, money or the server: no other mode can work
    print(f"{word}: {works} of {len(MODES)} modes work.")
    return int(word == "FAIL")


def ask(client: Any, model: str, mode: str, replies: list[Reply], **more: Any) -> tuple[str, bool]:
    """Ask the question and collect the replies. Raise KimiError unless the tool was called and its
    result is in the answer. Return the answer, and whether calls came as raw text."""
    messages: list[Json] = [{"role": "user", "content": QUESTION}]
    answer = run_loop(client, model, messages, mode, on_reply=replies.append, **more)
    results = [message["content"] for message in messages if message["role"] == "tool"]
    if not results:
        what = "The model answered without calling the tool, so it cannot drive an agent"
        raise KimiError(what, f"Choose another --model.\n{parser_flags(model)}")
    if not any(json_object(result).get("result") == RESULT for result in results):
        raise KimiError(f"The model called a tool, but not for {EXPRESSION}", AGAIN)
    answer = answer.rpartition("</think>")[2]  # without any thinking
    if not re.search(RESULT_IN_TEXT, answer):
        what = f"The answer does not contain the tool's result {RESULT}{quote(answer)}"
        raise KimiError(what, AGAIN)
    return one_line(answer), mode != "manual" and any(reply.parsed_from_text for reply in replies)


def parser_flags(model: str) -> str:
    """How an engine is told to parse the calls of this model."""
    parser = "kimi_k2" if "kimi-k2" in model.lower() else "(the one for this model)"
    return f"If you host it: --tool-call-parser {parser}; in vLLM also --enable-auto-tool-choice."


def one_line(text: str) -> str:
    """`text` in one line; if it is very long, cut between words, so that no key is cut in two."""
    text = " ".join(text.split())
    return text if len(text) <= 1000 else text[:1000].rpartition(" ")[0] + "…"


if __name__ == "__main__":
    raise SystemExit(main())
