"""Measures the loop, the parser and the start of the scripts, each against a yardstick.

    python tests/benchmark.py

Prints a table and exits with 1 if a figure misses its limit. Not collected by pytest.
"""

import json
import os
import re
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import httpx2
import openai

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
from tools.kimi_format import ToolCallParser, parse  # noqa: E402
from tools.loop import run_loop  # noqa: E402

BEGIN, END = "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"
MESSAGES = [{"role": "user", "content": "?"}]


def seconds(work, *arguments):
    start = time.process_time()
    work(*arguments)
    return time.process_time() - start


def side_by_side(ours, theirs, rounds=12):
    """The best of several rounds of each, taken in turn, so that both run under the same conditions."""
    pairs = [(seconds(ours), seconds(theirs)) for _ in range(rounds)]
    return min(a for a, _ in pairs), min(b for _, b in pairs)


def streaming():
    """run_loop over 20,000 chunks, against iterating the SDK's stream over the same chunks."""
    deltas = [{"content": "four"}] * 20_000
    choices = [{"index": 0, "delta": delta, "finish_reason": None} for delta in deltas]
    choices.append({"index": 0, "delta": {}, "finish_reason": "stop"})
    chunk = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    lines = [f"data: {json.dumps({**chunk, 'choices': [choice]})}\n\n" for choice in choices]
    body = "".join([*lines, "data: [DONE]\n\n"]).encode()
    headers = {"content-type": "text/event-stream"}
    transport = httpx2.MockTransport(lambda _: httpx2.Response(200, headers=headers, content=body))
    client = openai.OpenAI(
        api_key="x", base_url="http://x", http_client=openai.DefaultHttpxClient(transport=transport)
    )

    def sdk():
        for _ in client.chat.completions.create(model="m", messages=MESSAGES, stream=True):
            pass

    return side_by_side(lambda: run_loop(client, "m", list(MESSAGES), "streaming"), sdk)


def written(size):
    arguments = json.dumps({"text": "some words to fill it " * (size // 22)})
    call = f"<|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>{arguments}<|tool_call_end|>"
    return f"{BEGIN}{call}{END}"


def in_fours(text):
    parser = ToolCallParser()
    for start in range(0, len(text), 4):
        parser.feed(text[start : start + 4])
    parser.close()


def by_the_guide(text):
    """Two regular expressions, as in tool_call_guidance.md: the section, then its calls."""
    section = re.search(re.escape(BEGIN) + "(.*?)" + re.escape(END), text, re.DOTALL)
    call = (
        r"<\|tool_call_begin\|>\s*([\w.]+:\d+)\s*"
        r"<\|tool_call_argument_begin\|>\s*(.*?)\s*<\|tool_call_end\|>"
    )
    return re.findall(call, section.group(1), re.DOTALL)


def memory(text):
    tracemalloc.start()
    in_fours(text)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / len(text)


def started(*arguments):
    """The best wall-clock time of a Python program, without a key."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MOONSHOT_")}

    def once():
        start = time.perf_counter()
        subprocess.run([sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True)
        return time.perf_counter() - start

    return min(once() for _ in range(10))


def main():
    one, eight = written(1_000_000), written(8_000_000)
    ours, sdk = streaming()
    small, large = min(seconds(in_fours, one) for _ in range(3)), seconds(in_fours, eight)
    whole, guide = side_by_side(lambda: parse(one), lambda: by_the_guide(one))
    no_key, parser = started("quick_test.py"), started("-c", "import dotenv, argparse")
    offline, sdk_alone = started("quick_test.py", "--offline"), started("-c", "import openai")
    rows = [
        ("run_loop, streaming, 20,000 chunks / the SDK alone", ours, sdk, ours / sdk, 0.25),
        ("parser, 8 MB in 4-character deltas / 1 MB", large, small, large / small, 10),
        ("parser, 1 MB whole / the guide's expressions", whole, guide, whole / guide, 1.5),
        ("quick_test.py without a key / its imports", no_key, parser, no_key / parser, 1.8),
        ("quick_test.py --offline / import openai", offline, sdk_alone, offline / sdk_alone, 2),
        ("parser, memory / text (1 MB in deltas)", None, None, memory(one), 2.3),
    ]
    print(f"{'measured / against':52}{'s':>8}{'s':>8}{'ratio':>7}{'limit':>7}")
    for name, a, b, ratio, limit in rows:
        times = "".join(" " * 8 if value is None else f"{value:8.3f}" for value in (a, b))
        print(f"{name:52}{times}{ratio:7.2f}{limit:7.2f}" + ("" if ratio <= limit else "  MISSED"))
    print(f"parser in 4-character deltas: {len(eight) / 1e6 / large:.1f} MB/s")
    return int(any(ratio > limit for *_, ratio, limit in rows))


if __name__ == "__main__":
    sys.exit(main())
