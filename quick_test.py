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

from tools.endpoint import Settings
from tools.errors import COULD_NOT_START, KimiError, explain, mask
from tools.loop import MODES, run_loop
from tools.reply import Reply
from tools.script import connect, flag_parser, run_script

EXPRESSION, RESULT = "8467 * 5931", 8467 * 5931
QUESTION = f"What is {EXPRESSION}? Use the calculate tool."
PARSER = "If you host it, set --tool-call-parser kimi_k2 (in vLLM also --enable-auto-tool-choice)."
AGAIN = "Run it again; if that does not help, choose another --model."


def main(argv: list[str] | None = None) -> int:
    args = flag_parser(__doc__, "non-streaming").parse_args(argv)
    return run_script(lambda settings: verdict(settings, args.mode), args)


def verdict(settings: Settings, mode: str) -> int:
    """Print a line for each check, then the verdict; return the exit status."""
    start = time.monotonic()
    replies: list[Reply] = []

    def on_tool(call: dict[str, Any], result: dict[str, Any]) -> None:
        shown = result.get("result", result.get("error", result))
        print(indented(f"{call['function']['name']}({call['function']['arguments']}) -> {shown}"))
        more = call is not replies[-1].message["tool_calls"][-1]
        print("tool    " if more else "answer  ", end="")

    try:
        with connect(settings) as (client, model):
            if mode == "all":
                return compare_modes(client, model)
            print("tool    ", end="")
            answer = ask(client, model, mode, on_tool=on_tool, on_reply=replies.append)
            print(indented(" ".join(answer.split())))
            check_answer(answer)
        if mode != "manual" and any(reply.parsed_from_text for reply in replies):
            print(indented(f"note    The call came as plain text and was parsed here.\n{PARSER}"))
        word = "PASS"
    except COULD_NOT_START:
        raise
    except Exception as error:
        print(indented(explain(error)))
        word = "FAIL"
    tokens = sum(int((reply.usage or {}).get("total_tokens") or 0) for reply in replies)
    print(f"{word} in {time.monotonic() - start:.1f} s" + (f", {tokens} tokens" if tokens else ""))
    return int(word == "FAIL")


def compare_modes(client: Any, model: str) -> int:
    """Print a line for each mode, then how many work; return the exit status."""
    results = []
    for mode in MODES:
        print(f"{mode:14}", end="")
        start = time.monotonic()
        try:
            check_answer(ask(client, model, mode))
            result = f"PASS in {time.monotonic() - start:.1f} s"
        except Exception as error:
            result = "FAIL: " + " ".join(explain(error).removeprefix("Error: ").split())
            # In non-streaming mode, a 404 means that the model or the base URL is wrong.
            if getattr(error, "status_code", None) == 404 and mode != "non-streaming":
                result = "not served here"
        print(result)
        results.append(result[:4])
    word = "FAIL" if "FAIL" in results else "PASS"
    print(f"{word}: {results.count('PASS')} of {len(MODES)} modes work.")
    return int(word == "FAIL")


def ask(client: Any, model: str, mode: str, **callbacks: Any) -> str:
    """Ask the question and return the answer; raise KimiError unless the tool was called."""
    messages: list[dict[str, Any]] = [{"role": "user", "content": QUESTION}]
    answer = run_loop(client, model, messages, mode, **callbacks)
    results = [message["content"] for message in messages if message["role"] == "tool"]
    if not results:
        what = "Error: The model answered without calling the tool, so agents cannot use it."
        raise KimiError(f"{what}\nChoose another --model.\n{PARSER}")
    if not any(f'"result": {RESULT}}}' in result for result in results):
        raise KimiError(f"Error: The model called a tool, but not for {EXPRESSION}.\n{AGAIN}")
    return answer


def check_answer(answer: str) -> None:
    """Raise KimiError unless the answer contains the result, maybe with separated thousands."""
    grouped = f"{RESULT:,}".replace(",", r"(\{,\}|\\[,;:! ]|[,.'’_\s])?")
    if not re.search(rf"(?<!\d){grouped}(?!,?\d)", answer):
        raise KimiError(f"Error: The answer does not contain the tool's result {RESULT}.\n{AGAIN}")


def indented(text: str) -> str:
    """`text`, cut if it is very long, with its further lines below the first."""
    return mask(text)[:1000].replace("\n", "\n" + " " * 8)


if __name__ == "__main__":
    raise SystemExit(main())
