"""Both scripts as their users run them: in process over intercepted HTTP, and as programs."""

import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import httpcore2
import httpx
import pytest
from conftest import (
    KEY, MODEL, PAGE, SUM, URL, WEATHER, call, called, delta, everything_sent, marked, real_sleep,
    reply, route, said, sent, sse, status, streamed,
)  # fmt: skip

import kimi_k2_api_example
import quick_test
from tools import TOOLS, endpoint, offline, run_tool
from tools.loop import MODES

RESULT = 8467 * 5931
PRODUCT = call(arguments='{"expression": "8467 * 5931"}')
ANSWER = f"8467 * 5931 = {RESULT}."
SCRIPTS = {"quick_test.py": quick_test, "kimi_k2_api_example.py": kimi_k2_api_example}
EACH_SCRIPT = pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)


@pytest.fixture
def run(monkeypatch, capsys, http):
    """Run a script's main with a key: (exit status, everything printed)."""

    def run(script, *flags, key=KEY, models=(MODEL,), chat=(), url=URL):
        if key:
            monkeypatch.setenv("MOONSHOT_API_KEY", key)
        data = [{"id": name, "created": n} for n, name in enumerate(models)]
        if models:
            listed = httpx.Response(200, json={"object": "list", "data": data})
            http.get(f"{url}/models").mock(return_value=listed)
        if chat:
            http.post(f"{url}/chat/completions").mock(side_effect=[*chat, chat[-1]])
        flags = flags if "--offline" in flags else ("--base-url", url, *flags)
        try:
            exit_status = script.main(list(flags))
        except SystemExit as error:  # argparse
            exit_status = error.code
        out, err = capsys.readouterr()
        for text in (out, err):
            assert "secret" not in text and "Traceback" not in text and "<html" not in text
            assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", text)
        return exit_status, out + err

    return run


def on_one_terminal(monkeypatch):
    """What both streams print, in the order in which a terminal shows it."""
    both = io.StringIO()
    monkeypatch.setattr(sys, "stdout", both)
    monkeypatch.setattr(sys, "stderr", both)
    return both


def quick(run, *flags, **more):
    return run(quick_test, *flags, **more)


def tour(run, *flags, **more):
    return run(kimi_k2_api_example, *flags, **more)


# --- quick_test.py -----------------------------------------------------------------------------


def test_pass(run):
    exit_status, text = quick(run, chat=[called(PRODUCT), said(ANSWER)])
    assert exit_status == 0
    lines = text.splitlines()
    checks = [line.split()[0] for line in lines]
    assert checks == ["config", "key", "model", "tool", "answer", "PASS"]
    assert lines[0].endswith(f"{URL}, key ...cdef from the environment")
    assert lines[1] == "key     not rejected; models listed: 1"  # a list accepts no key
    assert lines[3] == f'tool    calculate({{"expression": "8467 * 5931"}}) -> {RESULT}'
    assert re.fullmatch(r"PASS in \d+\.\d s, 30 tokens", lines[5])


def test_neither_a_password_in_the_address_nor_a_short_key_is_shown(run):
    _, text = quick(run, key="abcdef", url="https://user:password@engine.test/v1")
    assert "config  https://engine.test/v1, key from the environment\n" in text


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_is_checked_the_same_way(run, mode):
    exit_status, text = quick(run, "--offline", "--mode", mode, key=None)
    assert exit_status == 0 and "Offline" in text.splitlines()[0] and "note" not in text
    assert f"-> {RESULT}" in text and "PASS" in text


def test_two_calls_in_one_message(run):
    _, text = quick(run, chat=[called(WEATHER, PRODUCT), said(ANSWER)])
    names = [line[:8].rstrip() for line in text.splitlines()]
    assert names[3:6] == ["tool", "tool", "answer"]


def test_another_model_is_said_in_one_line(run):
    exit_status, text = quick(run, models=["kimi-k2.5", "kimi-k2.6"], chat=[called(PRODUCT), said(ANSWER)])
    assert exit_status == 0
    assert "model   kimi-k2.6\n" in text and "--model or MOONSHOT_MODEL" in text
    assert max(map(len, text.splitlines())) <= 85


def test_no_models_route(run, http):
    http.get(f"{URL}/models").mock(return_value=httpx.Response(404))
    exit_status, text = quick(run, models=(), chat=[called(PRODUCT), said(ANSWER)])
    assert exit_status == 0 and "no models listed here" in text


@pytest.mark.parametrize(
    "answer",
    ["50217777", "It is **50,217,777**.", r"$50\,217\,777$", "50_217_777", "50’217’777", r"50\;217\;777", "50 217 777", "50\u202f217\u202f777", "$50{,}217{,}777$", "50.217.777", "50217777.000", "8467 × 5931\n50217777"],
)  # fmt: skip
def test_digits_in_groups(run, answer):
    assert quick(run, chat=[called(PRODUCT), said(answer)])[0] == 0


@pytest.mark.parametrize("usage", ["many", [1], None, {"total_tokens": None}])
def test_a_server_that_counts_no_tokens(run, usage):
    reply = {"message": {"content": ANSWER}, "finish_reason": "stop"}
    last = httpx.Response(200, json={"choices": [reply], "usage": usage})
    first = sse(delta("stop", tool_calls=[PRODUCT]))
    exit_status, text = quick(run, "--mode", "streaming", chat=[first, last])
    assert exit_status == 0 and re.search(r"^PASS in \d+\.\d s$", text, re.M)


def test_markers_in_the_content_pass_with_a_note(run):
    exit_status, text = quick(run, chat=[said(marked(PRODUCT)), said(ANSWER)])
    assert exit_status == 0 and "PASS" in text
    assert "note    The call came as plain text" in text and "--tool-call-parser kimi_k2" in text
    assert "<|" not in text


FAILURES = {
    "calls no tool": ([said(ANSWER)], "without calling the tool", "--enable-auto-tool-choice"),
    "another tool": ([called(WEATHER), said(ANSWER)], "not for 8467 * 5931", "--model"),
    "broken arguments": ([called(call(arguments="{")), said(ANSWER)], "not for 8467 * 5931", "--model"),
    "wrong answer": ([called(PRODUCT), said("It is 7.")], "not contain the tool's result", "Run it again"),
    "longer number": ([called(PRODUCT), said(f"1{RESULT}, 50,217,777,000")], "not contain", "Run it again"),
    "length": ([said("It", "length")], "output limit of 4096", "--max-tokens"),
    "for ever": ([called(PRODUCT)] * 10, "called tools in 10 turns", "simpler question"),
    "nameless": ([called(call(""))], "Error: Tool call parsing failed", "Run it again"),
    "page": ([PAGE], "page instead of JSON", "/v1"),
    "wrong model": ([status(404, "Not found the model x")], "Error: Model not found", "MOONSHOT_MODEL"),
    "no balance": ([status(429, "your balance", "exceeded_current_quota_error")], "no balance", "Top up"),
    "rate limit": ([status(429, "request reached max rpm")] * 5, "rate limit", "Tier 0"),
    "server": ([status(500, "oops")] * 5, '"oops"', "try again later"),
}  # fmt: skip
OF_QUICK_TEST = ("calls no tool", "another tool", "broken arguments", "wrong answer", "longer number")


@pytest.mark.parametrize("case", FAILURES)
def test_fail(run, case):
    chat, what, todo = FAILURES[case]
    exit_status, text = quick(run, chat=chat)
    assert exit_status == 1
    assert what in text and todo in text
    tokens = ", 30 tokens" if case in OF_QUICK_TEST[1:] else ".*"
    assert re.search(rf"^FAIL in \d+\.\d s{tokens}$", text, re.M) and "PASS" not in text


@pytest.mark.parametrize(
    ("response", "what", "todo"),
    [
        (status(401, f"Incorrect API key provided: {KEY}"), "did not accept the key", "MOONSHOT_API_KEY"),
        (status(403, "not open"), "no access", "account"),
        (httpcore2.ConnectError("[Errno 111] Connection refused"), "refused", "base URL"),
        (httpcore2.ReadTimeout("x"), "in time", "network"),
    ],
)  # fmt: skip
def test_fail_at_the_key(run, http, response, what, todo):
    how = "side_effect" if isinstance(response, Exception) else "return_value"
    http.get(f"{URL}/models").mock(**{how: response})
    exit_status, text = quick(run, models=())
    assert exit_status == 1 and what in text and todo in text
    lines = [line for line in text.splitlines() if line and line[0] != " " and "retry" not in line]
    assert [line[:6] for line in lines] == ["config", "key   ", "FAIL i"]


@EACH_SCRIPT
def test_a_named_model_that_is_not_served(run, http, script):
    exit_status, text = run(script, "--model", "x", models=["kimi-k2.6", "b"])
    assert exit_status == 1
    assert "Error: Model not found" in text and "b, kimi-k2.6" in text and "--model" in text
    assert not everything_sent(http)


IN_BOTH_CHAT_MODES = [
    reply(mode, *parts)
    for mode in ("non-streaming", "streaming")
    for parts in (("", PRODUCT), (ANSWER,))
]


def test_all_modes(run, http):
    """A hosted platform: no /completions, and here an Anthropic route that fails."""
    route(http, "manual", status(404, "url not found"))
    route(http, "anthropic", status(400, "no such\nthing"))
    exit_status, text = quick(run, "--mode", "all", chat=IN_BOTH_CHAT_MODES)
    lines = text.splitlines()[3:]
    assert exit_status == 1 and len(lines) == 5
    assert re.fullmatch(r"non-streaming PASS in \d+\.\d s", lines[0])
    assert re.fullmatch(r"streaming     PASS in \d+\.\d s", lines[1])
    assert lines[2] == "manual        not served here"
    assert lines[3].startswith("anthropic     FAIL: The endpoint sent an error (400 from")
    assert '"no such thing". Change what it names' in lines[3]
    assert lines[4] == "FAIL: 2 of 4 modes work."


def test_all_modes_where_only_some_are_served(run, http):
    for mode in ("manual", "anthropic"):
        route(http, mode, status(404, "url not found"))
    exit_status, text = quick(run, "--mode", "all", chat=IN_BOTH_CHAT_MODES)
    assert exit_status == 0 and text.endswith("PASS: 2 of 4 modes work.\n")
    exit_status, text = quick(run, "--mode", "all", "--offline", key=None)
    assert exit_status == 0 and text.endswith("PASS: 4 of 4 modes work.\n")


def test_all_modes_of_a_wrong_model(run, http):
    for path in ("completions", "messages", "chat/completions"):
        http.post(f"{URL}/{path}").mock(return_value=status(404, "Not found the model x"))
    exit_status, text = quick(run, "--mode", "all")
    assert exit_status == 1 and "non-streaming FAIL: Model not found" in text
    assert text.endswith("FAIL: 0 of 4 modes work.\n")


def test_each_check_is_named_before_its_wait(run, http, monkeypatch, capsys):
    """What is on the screen when a request arrives ends with the name of the check."""
    seen = []

    def look(response):
        def answer(request):
            seen.append(capsys.readouterr().out[-8:])
            return response
        return answer

    http.get(f"{URL}/models").mock(side_effect=look(httpx.Response(200, json={"data": [{"id": MODEL}]})))
    chat = iter([called(PRODUCT), said(ANSWER)])
    http.post(f"{URL}/chat/completions").mock(side_effect=lambda request: look(next(chat))(request))
    assert quick(run, models=())[0] == 0
    assert seen == ["key     ", "tool    ", "answer  "]


def test_a_wait_is_announced_on_a_line_of_its_own(run, http, monkeypatch):
    both = on_one_terminal(monkeypatch)
    limit = httpx.Response(429, json={"error": {"message": "request reached max rpm"}})
    quick(run, chat=[limit, called(PRODUCT), limit, said(ANSWER)])
    notice = "engine.test answered 429 (rate limit): waiting 22 s; retry 1 of 4."
    lines = both.getvalue().splitlines()
    assert lines[3:8] == [
        "tool    ", notice,
        f'calculate({{"expression": "8467 * 5931"}}) -> {RESULT}', "answer  ", notice,
    ]  # fmt: skip


@EACH_SCRIPT
def test_settings_of_other_clients_change_nothing(run, http, monkeypatch, script):
    for name in ("ORG_ID", "PROJECT_ID", "API_KEY", "BASE_URL"):
        monkeypatch.setenv(f"OPENAI_{name}", "https://other.test/v1")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "Authorization: Bearer other\nX-Other: 1")
    run(script, "--mode", "non-streaming", chat=[said(ANSWER)])
    assert len(http.calls) > 1
    for each in http.calls:
        headers = each.request.headers
        assert headers["authorization"] == f"Bearer {KEY}" and each.request.url.host == "engine.test"
        assert not {"openai-organization", "openai-project", "x-other"} & set(headers)


@EACH_SCRIPT
def test_a_key_in_the_wrong_place(run, script, monkeypatch):
    """`run` looks for the key in everything that is printed."""
    assert run(script, models=(), url=KEY)[0] == 2
    assert run(script, "--mode", "non-streaming", models=(), url=f"{URL}/{KEY}")[0] == 1
    assert run(script, KEY)[0] == 2
    assert run(script, "another-secret-key", key="another-secret-key")[0] == 2
    monkeypatch.setenv("MOONSHOT_BASE_URL", KEY)
    assert script.main([]) == 2


def test_redirects_do_not_carry_the_key_away(run, http):
    elsewhere = http.get("https://elsewhere.test/v1/models").mock(return_value=PAGE)
    there = {"location": "https://elsewhere.test/v1/models"}
    http.get(f"{URL}/models").mock(return_value=httpx.Response(302, headers=there))
    assert quick(run, models=())[0] == 1
    assert elsewhere.called and "authorization" not in elsewhere.calls[0].request.headers


@pytest.mark.parametrize("mode", ["non-streaming", "streaming"])
def test_a_hostile_model_cannot_touch_the_terminal(run, mode):
    nasty = f"\x1b]0;owned\x07\x1b[2J{ANSWER} {KEY} \x9b1m\r"
    last = streamed(nasty) if mode == "streaming" else said(nasty)  # the key arrives in one piece
    chat = [reply(mode, "", PRODUCT), last]
    for script in SCRIPTS.values():
        assert run(script, "--mode", mode, chat=chat)[0] == 0


@pytest.mark.parametrize("padding", [0, 30, 40, 50, 60, 960, 980, 990])
def test_a_model_that_repeats_the_key(run, padding):
    """The planted key is looked for by `run`; it must not survive being wrapped or cut either."""
    arguments = json.dumps({"city": "x" * padding + KEY})
    chat = [called(call("get_weather", arguments), call(KEY, "{}", "b")), said(f"It is {KEY}")]
    for script in SCRIPTS.values():
        run(script, "--mode", "non-streaming", chat=chat)


# --- kimi_k2_api_example.py ------------------------------------------------------------------------


def test_the_tour_offline(run):
    exit_status, text = tour(run, "--offline", key=None)
    assert exit_status == 0 and "Offline" in text.splitlines()[0]
    assert [line for line in text.splitlines() if "Lesson" in line] == [
        f"----- Lesson {n}. {lesson.__doc__}"
        for n, lesson in enumerate(kimi_k2_api_example.LESSONS, 1)
    ]
    lessons = text.split("----- Lesson ")[1:]
    assert "answer:   Beijing: sunny, 22 °C" in lessons[0]
    assert 'call:     get_weather |{"city":| "New Yo|rk"}|' in lessons[1]  # fragments are seen
    assert "New York|: partly|" in lessons[1] and "352.5" in lessons[1]
    assert "<|im_assistant|>assistant<|im_middle|>" in lessons[2]  # the end of the prompt
    assert "text:     <|tool_calls_section_begin|>" in lessons[2] and "69.29646455628166" in lessons[2]
    assert "answer:   London: rainy" in lessons[3] and "Tokyo: clear, 19 °C" in lessons[3]
    assert "history:  12 messages: user assistant tool assistant user ..." in lessons[3]
    json_lines = re.compile("call:|result:|text:|prompt:")
    assert max(len(line) for line in text.splitlines() if not json_lines.search(line)) <= 80


LOOPS = zip(kimi_k2_api_example.LESSONS, ["non-streaming", "streaming", "manual"], strict=False)


@pytest.mark.parametrize(("lesson", "mode"), list(LOOPS))
def test_what_a_lesson_sends_back(http, client, capsys, lesson, mode):
    thinking = {} if mode == "manual" else {"reasoning_content": "Hm."}
    calls = [SUM, {**WEATHER, "id": "functions.get_weather:1"}]
    first = reply(mode, "Let me see.", *calls, **thinking)
    posted = route(http, mode, first, reply(mode, "Done."))
    lesson(client, MODEL)
    functions = [each["function"] for each in calls]
    results = [json.dumps(run_tool(each["name"], each["arguments"])) for each in functions]
    request = sent(posted)
    if mode == "manual":
        assert f"Let me see.{marked(*calls)}<|im_end|>" in request["prompt"]
        assert all(result in request["prompt"] for result in results)
        assert request["stop"] == ["<|im_end|>"] and request["skip_special_tokens"] is False
    else:
        said = {"role": "assistant", "content": "Let me see.", "tool_calls": calls, **thinking}
        returned = [
            {"role": "tool", "tool_call_id": each["id"], "content": result}
            for each, result in zip(calls, results, strict=True)
        ]
        assert request["messages"][1:] == [said, *returned]
        assert request["tools"] == TOOLS and request["tool_choice"] == "auto"
    assert 4096 in (request.get("max_tokens"), request.get("max_completion_tokens"))


def test_a_prompt_is_one_conversation(run, http):
    exit_status, text = tour(run, "--prompt", "Weather?", chat=[said("Sunny.")])
    assert exit_status == 0 and "Lesson" not in text
    (request,) = everything_sent(http)
    assert request["messages"] == [{"role": "user", "content": "Weather?"}]


@pytest.mark.parametrize("mode", MODES)
def test_one_mode_is_one_conversation(run, mode):
    exit_status, text = tour(run, "--offline", "--mode", mode, key=None)
    assert exit_status == 0 and "Lesson" not in text and text.count("call: ") == 2
    assert text.endswith("New York: partly cloudy, 18 °C, 55 % humidity. 15 * 23.5 = 352.5.\n")


@pytest.mark.parametrize("mode", MODES)
def test_options_reach_the_request(run, http, mode):
    route(http, mode, reply(mode, "x"))
    flags = ("--temperature", "0.3", "--max-tokens", "77", "--prompt", "Hi")
    exit_status, text = tour(run, "--mode", mode, *flags)
    assert exit_status == 0, text
    (body,) = everything_sent(http)
    assert body["temperature"] == pytest.approx(0.5 if mode == "anthropic" else 0.3)
    assert 77 in (body.get("max_tokens"), body.get("max_completion_tokens"))
    assert '"Hi' in json.dumps(body) or "Hi<|im_end|>" in body["prompt"]


@pytest.mark.parametrize(
    "flags",
    [
        ["--prompt", ""], ["--prompt", " "], ["--mode", "manual", "--max-tokens", "0"],
        ["--mode", "manual", "--max-tokens", "x"], ["--mode", "manual", "--temperature", "nan"],
        ["--mode", "manual", "--temperature", "inf"], ["--mode", "manual", "--temperature", "-1"],
        ["--mode", "anthropic", "--temperature", "0.61"], ["--temperature", "0.5"],
        ["--max-tokens", "5"], ["--mode", "all", "--temperature", "0"],
    ],
)  # fmt: skip
def test_values_that_make_no_sense(run, http, flags):
    exit_status, text = tour(run, *flags)
    assert exit_status == 2 and flags[-2] in text.splitlines()[-1] and not http.calls


def test_a_lesson_without_its_route_is_skipped(run, http):
    for mode in ("manual", "anthropic"):
        route(http, mode, status(404, "url not found"))
    weather = [called(WEATHER), said("x")]
    exit_status, text = tour(run, chat=[*weather, streamed("x"), *weather, streamed("x")])
    assert exit_status == 0, text
    assert text.count("(Skipped from here: this server lacks the route.") == 2
    assert "69.29" not in text and "Offline" not in text  # no answer of the mock server


def test_manual_mode_of_a_hosted_platform(run, http):
    route(http, "manual", status(404, "url not found"))
    exit_status, text = tour(run, "--mode", "manual")
    assert exit_status == 1 and "engines that you host yourself" in text


def test_the_tour_with_a_new_account(run, monkeypatch):
    """Against a server that allows three requests in any window, like Moonshot's in a minute."""
    window, allowed, answer = 0.5, [], offline._Handler.do_POST

    def limited(handler):
        allowed[:] = [when for when in allowed if time.monotonic() - when < window]
        if len(allowed) == 3:
            handler.rfile.read(int(handler.headers.get("content-length", 0)))
            handler.send_response(429)
            handler.send_header("content-length", "0")
            return handler.end_headers()
        allowed.append(time.monotonic())
        answer(handler)

    for method in ("do_GET", "do_POST"):
        monkeypatch.setattr(offline._Handler, method, limited)
    monkeypatch.setattr(endpoint, "RATE_LIMIT_WAIT", window * endpoint.RATE_LIMIT_WAIT / 60)
    monkeypatch.setattr(time, "sleep", real_sleep)
    with offline.serve() as url:
        exit_status, text = tour(run, models=(), url=url)
    assert exit_status == 0 and "Tokyo: clear" in text
    assert text.count("answered 429 (rate limit): waiting 0 s; retry 1 of 4.") >= 3


@pytest.mark.parametrize("case", [case for case in FAILURES if case not in OF_QUICK_TEST])
def test_the_tour_fails_with_the_same_sentences(run, case):
    chat, what, todo = FAILURES[case]
    exit_status, text = tour(run, "--mode", "non-streaming", chat=chat)
    assert exit_status == 1 and what in text and todo in text


def test_a_404_in_lesson_1_is_no_missing_route(run, http):
    exit_status, text = tour(run, chat=[status(404, "Not found the model x")])
    assert exit_status == 1 and "Error: Model not found" in text and "Skipped" not in text


def test_a_lesson_survives_odd_replies(run):
    for hint, body in {"Unexpected TypeError": {"choices": None}, "page instead of JSON": "x"}.items():
        exit_status, text = tour(run, chat=[httpx.Response(200, json=body)])
        assert exit_status == 1 and "Error: " in text and hint in text


def test_an_error_begins_on_a_line_of_its_own(run, monkeypatch):
    both = on_one_terminal(monkeypatch)
    cut = sse(delta(content="It is"))
    tour(run, "--mode", "streaming", chat=[cut])
    assert "\nIt is\nError: " in both.getvalue()


# --- both --------------------------------------------------------------------------------------------


@EACH_SCRIPT
def test_no_key(run, script, http):
    exit_status, text = run(script, key=None)
    assert exit_status == 2
    assert text.startswith("Please set your MOONSHOT_API_KEY environment variable\n")
    assert not http.calls


@EACH_SCRIPT
def test_wrong_flags(run, script):
    for flags in (["--mode", "x"], ["--nonsense"], ["--offline", "--base-url", URL], ["--off"]):
        exit_status, text = run(script, *flags)
        assert exit_status == 2 and "usage:" in text
    exit_status, text = run(script, url="engine.test/v1", models=())
    assert exit_status == 2 and "https://" in text


@EACH_SCRIPT
def test_help_shows_examples(run, script):
    exit_status, text = run(script, "--help")
    assert exit_status == 0
    for flag in ("--offline", "--base-url", "--mode"):
        assert text.count(f"python {script.__name__}.py") >= 3 and text.count(flag) >= 2


@EACH_SCRIPT
def test_offline_ignores_the_settings_of_the_real_endpoint(run, script, monkeypatch):
    monkeypatch.setenv("MOONSHOT_MODEL", "kimi-k2.6")
    monkeypatch.setenv("MOONSHOT_BASE_URL", "nonsense")
    assert run(script, "--offline", key=None)[0] == 0
    exit_status, text = run(script, "--offline", "--model", "x", key=None)
    assert exit_status == 1 and "Error: Model not found" in text and MODEL in text


@EACH_SCRIPT
def test_ctrl_c(run, script, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(endpoint, "list_models", interrupt)
    assert run(script)[0] == 130


def program(project, script, *flags, warnings="error", **environment):
    kept = {k: v for k, v in os.environ.items() if k in ("PATH", "SYSTEMROOT", "HOME", "TEMP")}
    return subprocess.Popen(
        [sys.executable, "-W", warnings, str(project / script), *flags],
        cwd=project.parent,
        env={**kept, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def finish(process):
    out, err = process.communicate(timeout=20)
    return process.returncode, out, err


def test_as_programs_from_another_folder(project):
    """Started together, because each waits for Python and the SDK."""
    tour_ = program(project, "kimi_k2_api_example.py", "--offline", PYTHONIOENCODING="ascii")
    quick_ = program(project, "quick_test.py", "--offline", PYTHONIOENCODING="cp1252")
    without = [program(project, script) for script in SCRIPTS]
    exit_status, out, err = finish(tour_)
    assert (exit_status, err) == (0, b"") and b"22 ?C" in out
    exit_status, out, err = finish(quick_)
    assert (exit_status, err) == (0, b"") and b"\nPASS in " in out
    for process in without:
        exit_status, out, err = finish(process)
        assert exit_status == 2
        assert b"Please set your MOONSHOT_API_KEY" in out + err and b"Traceback" not in out + err


def test_without_a_key_the_sdk_is_not_imported(project):
    code = "import sys, {0}; {0}.main([]); sys.exit('openai' in sys.modules or 'httpx' in sys.modules)"
    for script in SCRIPTS:
        command = [sys.executable, "-c", code.format(script.removesuffix(".py"))]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("MOONSHOT_")}
        done = subprocess.run(command, cwd=project, env=environment, capture_output=True, check=False)
        assert done.returncode == 0 and b"Please set" in done.stderr


@pytest.mark.parametrize("script", SCRIPTS)
def test_before_anything_is_installed(project, script):
    for flags in ([], ["--offline"]):
        command = [sys.executable, "-S", str(project / script), *flags]  # -S: no site-packages
        done = subprocess.run(command, capture_output=True, check=False)
        text = (done.stdout + done.stderr).decode()
        assert done.returncode == 2 and "Traceback" not in text
        assert "Error: A package is missing: \"No module named" in text
        assert "pip install -r requirements.txt" in text


@pytest.mark.skipif(sys.platform == "win32", reason="arguments are always text on Windows")
def test_a_prompt_that_is_not_text(project):
    flags = [b"--offline", b"--prompt", b"Weather in \xff\xfe Paris"]
    exit_status, out, err = finish(program(project, "kimi_k2_api_example.py", *flags))
    assert exit_status == 0 and b"Paris: cloudy" in out and err == b""


@pytest.mark.skipif(sys.platform == "win32", reason="signals and pipes are another matter there")
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_reader_that_leaves(project, script):
    process = program(project, script, "--offline")
    process.stdout.readline()
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait(20) == 1 and err == b""


@pytest.mark.skipif(sys.platform == "win32", reason="signals and pipes are another matter there")
def test_ctrl_c_for_real(project):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        flags = ("--base-url", f"http://127.0.0.1:{listener.getsockname()[1]}/v1")
        settings = {"MOONSHOT_API_KEY": KEY, "warnings": "ignore"}  # of sockets, interrupted
        process = program(project, "quick_test.py", *flags, **settings)
        connection, _ = listener.accept()  # it waits for an answer that does not come
        process.send_signal(signal.SIGINT)
        exit_status, out, err = finish(process)
        connection.close()
    assert exit_status == 130 and err == b"" and out.startswith(b"config")
