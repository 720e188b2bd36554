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
from functools import partial

import httpcore2
import httpx
import pytest
from conftest import (
    KEY, MODEL, PAGE, SUM, URL, WEATHER, call, called, delta, everything_sent, marked,
    real_sleep, reply, route, said, sent, sse, status, streamed,
)  # fmt: skip

import kimi_k2_api_example as tour
import quick_test as quick
from tools import offline, retries
from tools.loop import MODES

RESULT = 8467 * 5931
PRODUCT = call(arguments='{"expression": "8467 * 5931"}')
ANSWER = f"8467 * 5931 = {RESULT}."
NOBODY = httpcore2.ConnectError("[Errno 111] Connection refused")
SCRIPTS = ("quick_test.py", "kimi_k2_api_example.py")
EACH_SCRIPT = pytest.mark.parametrize("script", [quick, tour], ids=SCRIPTS)
EACH_MODE = pytest.mark.parametrize("mode", MODES)
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="signals and pipes differ there")


@pytest.fixture
def run(monkeypatch, capsys, http):
    """Run a script's main with a key: (exit status, everything printed)."""

    def run(script, *flags, key=KEY, models=(MODEL,), chat=(), url=URL):
        if key:
            monkeypatch.setenv("MOONSHOT_API_KEY", key)
        if models:
            http.get(f"{url}/models").respond(json={"data": [{"id": name} for name in models]})
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


def test_pass(run):
    exit_status, text = run(quick, chat=[called(WEATHER, PRODUCT), said(ANSWER)])
    lines = text.splitlines()
    checks = ["config", "key", "model", "tool", "tool", "answer", "PASS"]
    assert exit_status == 0 and [line[:8].split()[0] for line in lines] == checks
    assert lines[0].endswith(f"{URL}, key ...cdef from the environment")
    assert lines[1] == "key     not refused so far; 1 model listed"  # a list accepts no key
    assert lines[4] == f'tool    calculate({{"expression": "8467 * 5931"}}) -> {RESULT}'
    assert re.fullmatch(r"PASS in \d+\.\d s, 30 tokens", lines[6])


def test_a_second_call_is_not_taken_for_the_answer(run):
    _, text = run(quick, chat=[called(SUM), called(PRODUCT), said(ANSWER)])
    lines = re.findall("^(?:tool|answer) .*", text, re.M)
    assert [line[8:12] for line in lines] == ["calc", "(ano", "calc", "8467"]


@EACH_MODE
def test_every_mode_is_checked_the_same_way(run, mode):
    exit_status, text = run(quick, "--offline", "--mode", mode, key=None)
    assert exit_status == 0 and "Offline" in text.splitlines()[0] and "note" not in text
    assert f"-> {RESULT}" in text and re.search(r"^PASS in \d+\.\d s, \d+ tokens$", text, re.M)


GROUPED = ["50217777", "It is **50,217,777**.", r"$50\,217\,777$", "50_217_777", "50’217’777"]
GROUPED += [r"50\;217\;777", "50 217 777", "50\u202f217\u202f777", "$50{,}217{,}777$", "50.217.777"]
GROUPED += ["50217777.000", "8467 × 5931\n50217777", "<think>5?</think>50,217,777", "10, 50217777"]
ANOTHER = ["150217777", "502177770", "150,217,777", "50,217,777,000", f"<think>{RESULT}</think> 7"]


@pytest.mark.parametrize("answer", GROUPED + ANOTHER)
def test_the_number_in_the_answer(run, answer):
    exit_status, text = run(quick, chat=[called(PRODUCT), said(answer)])
    assert ("not contain the tool's result" in text) == exit_status == (answer in ANOTHER)


@pytest.mark.parametrize(
    ("mode", "usage", "counted"),
    [*[("non-streaming", odd, "") for odd in ("many", [1], None, {"total_tokens": None})],
     ("anthropic", {"input_tokens": 100, "output_tokens": 20}, ", 240 tokens"),
     ("anthropic", {"input_tokens": "100"}, "")],
)  # fmt: skip
def test_tokens_are_counted_where_the_server_counts_them(run, http, mode, usage, counted):
    bodies = [reply(mode, "", PRODUCT).json(), reply(mode, ANSWER).json()]
    route(http, mode, *[httpx.Response(200, json={**body, "usage": usage}) for body in bodies])
    exit_status, text = run(quick, "--mode", mode)
    assert exit_status == 0 and re.search(rf"^PASS in \d+\.\d s{counted}$", text, re.M)


@pytest.mark.parametrize(("model", "parser"), [(MODEL, " kimi_k2"), ("kimi-k3", ".* this model")])
def test_calls_in_the_text_pass_with_a_note(run, model, parser):
    exit_status, text = run(quick, models=[model], chat=[said(marked(PRODUCT)), said(ANSWER)])
    assert exit_status == 0 and "PASS" in text and "<|" not in text
    assert re.search(f"note    The engine sent .* plain text.*\n.*--tool-call-parser{parser}", text)


FAILURES = {
    "calls no tool": ([said(ANSWER)], "without calling the tool", "--enable-auto-tool-choice"),
    "another tool": ([called(WEATHER), said(ANSWER)], "not for 8467 * 5931", "--model"),
    "length": ([said("It", "length")], "output limit", "max_tokens"),
    "for ever": ([called(PRODUCT)] * 10, "still calling tools after 10 requests", "simpler"),
    "nameless": ([called(call(""))], "Error: Tool call parsing failed", "Run it again"),
    "page": ([PAGE], "page instead of JSON", "/v1"),
    "wrong model": ([status(404, "Not found the model x")], "Error: Model not found", "_MODEL"),
    "rate limit": ([status(429, "request reached max rpm")] * 5, "rate limit", "Tier 0"),
    "no choices": ([httpx.Response(200, json={"choices": None})], "Error: ", "."),
}
OF_QUICK_TEST, NOT_OF_LESSON_1 = list(FAILURES)[:2], ("length", "for ever", "nameless")


@pytest.mark.parametrize("case", FAILURES)
def test_a_failure_is_the_same_sentence_in_both(run, case):
    chat, what, todo = FAILURES[case]
    exit_status, text = run(quick, chat=chat)
    assert exit_status == 1 and what in text and todo in text
    tokens = ", 30 tokens" if case in OF_QUICK_TEST[1:] else ".*"
    assert re.search(rf"^FAIL in \d+\.\d s{tokens}$", text, re.M) and "PASS" not in text
    for flags in ([], ["--mode", "non-streaming"]):
        if case not in (*OF_QUICK_TEST, *(NOT_OF_LESSON_1 if not flags else ())):
            exit_status, text = run(tour, *flags, chat=chat)
            assert exit_status == 1 and what in text and todo in text and "Skipped" not in text


AT_THE_KEY = {
    "did not accept": status(401, f"Incorrect: {KEY}"), "in time": httpcore2.ReadTimeout("x"),
    "may not use": status(403, "x"), "rate limit": status(429, "max rpm"), "refused": NOBODY,
}  # fmt: skip


@pytest.mark.parametrize("what", AT_THE_KEY)
def test_fail_at_the_key(run, http, what):
    http.get(f"{URL}/models").mock(side_effect=[AT_THE_KEY[what]] * 5)
    exit_status, text = run(quick, models=())
    lines = [line for line in text.splitlines() if line[:1] not in ("", " ", "e", "N")]
    assert [line[:6] for line in lines] == ["config", "key   ", "FAIL i"]
    assert exit_status == 1 and lines[1].startswith("key     Error: ") and what in lines[1]


def mode_of(request):
    """The mode that sends such a request."""
    modes = {"/v1/completions": "manual", "/v1/messages": "anthropic"}
    in_chat = "streaming" if json.loads(request.content).get("stream") else "non-streaming"
    return modes.get(request.url.path, in_chat)


def thinker(request):
    """A platform whose model thinks: it wants no temperature, room, and its thoughts back."""
    mode, body = mode_of(request), json.loads(request.content)
    if mode == "manual":
        return status(404, "url not found")
    if "temperature" in body:
        return status(400, "invalid temperature: only 1 is allowed for this model")
    if body.get("max_tokens", body.get("max_completion_tokens", 32_768)) < 16_000:
        return reply(mode, "It", reason="max_tokens" if mode == "anthropic" else "length")
    if any("tool_calls" in m and not m.get("reasoning_content") for m in body["messages"]):
        return status(400, "thinking is enabled but reasoning_content is missing")
    return reply(mode, *spoken(request, ("", PRODUCT)), reasoning_content="Hm.")


def spoken(request, first):
    return (ANSWER,) if str(RESULT).encode() in request.content else first  # with a result


def test_all_modes_of_a_model_that_thinks(run, http):
    http.post(host="engine.test").mock(side_effect=thinker)
    http.get(f"{URL}/models").respond(404)
    exit_status, text = run(quick, "--mode", "all", models=())
    lines = re.sub(r"in \d+\.\d s", "in x s", text).splitlines()[1:]
    assert exit_status == 0 and lines == [
        "key     no models listed here", f"model   {MODEL}", "non-streaming PASS in x s",
        "streaming     PASS in x s", "manual        not served here", "anthropic     PASS in x s",
        "PASS: 3 of 4 modes work.",
    ]  # fmt: skip
    run(quick, "--mode", "all", "--extra-body", '{"temperature": 0.7}')
    assert "temperature" in everything_sent(http)[-1]


def test_all_modes_of_an_engine_without_its_parser(run, http):
    text = (marked(PRODUCT),)
    http.post(host="engine.test").mock(side_effect=lambda r: reply(mode_of(r), *spoken(r, text)))
    exit_status, text = run(quick, "--mode", "all")
    noted = re.findall(r"^(\S+) +PASS in .* s \(the calls came as plain text\)$", text, re.M)
    assert exit_status == 0 and noted == ["non-streaming", "streaming", "anthropic"]
    assert text.endswith("PASS: 4 of 4 modes work.\n")


# How many modes are tried: other modes cannot escape what is about the key, money or the server.
TRIED = {400: 4, 404: 4, 401: 1, 402: 1, 403: 1, 429: 1, 500: 1, 503: 1, 529: 1, NOBODY: 1}


@pytest.mark.parametrize("failure", TRIED, ids=str)
def test_all_modes_stop_after_an_error_that_none_can_escape(run, http, failure):
    response = failure if failure is NOBODY else status(failure, "no model\nx")
    http.post(host="engine.test").mock(side_effect=[response] * 20)
    exit_status, text = run(quick, "--mode", "all")
    tried = re.findall(r"^(?:non-)?\w+ +(?:FAIL: [A-Z].*\. [A-Z].*|not served here)$", text, re.M)
    assert exit_status == 1 and len(tried) == TRIED[failure]
    assert "FAIL: 0 of 4 modes work.\n" in text


def test_an_error_under_status_200_stops_all_modes_too(run, http):
    body = {"error": {"code": 401, "message": "token expired"}}
    http.post(host="engine.test").mock(side_effect=[httpx.Response(200, json=body)] * 4)
    _, text = run(quick, "--mode", "all")
    assert text.count("FAIL: The endpoint did not accept the key") == 1


def test_a_notice_stands_where_the_check_waits(run, http, monkeypatch):
    """What both streams print, as a terminal shows it: each check is named before it waits."""
    both = io.StringIO()
    monkeypatch.setattr(sys, "stdout", both)
    monkeypatch.setattr(sys, "stderr", both)
    limit = httpx.Response(429, json={"error": {"message": "request reached max rpm"}})
    models = httpx.Response(200, json=[{"id": "kimi-k2.5"}, {"id": "kimi-k2.6"}])
    http.get(f"{URL}/models").mock(side_effect=[limit, models, models])
    run(quick, models=(), chat=[limit, called(PRODUCT), limit, said(ANSWER)])
    notice = "engine.test answered 429 (rate limit): waiting 22 s; retry 1 of 4."
    assert both.getvalue().splitlines()[1:-1] == [
        f"key     {notice}", "        not refused so far; 2 models listed", "model   kimi-k2.6",
        f"        ({MODEL} is not served here; --model or MOONSHOT_MODEL chooses another)",
        f"tool    {notice}", f'        calculate({{"expression": "8467 * 5931"}}) -> {RESULT}',
        f"answer  {notice}", f"        {ANSWER}",
    ]  # fmt: skip
    run(tour, "--mode", "streaming", models=(), chat=[sse(delta(content="It is"), done=False)])
    assert "\nIt is\nError: " in both.getvalue()  # on a line of its own


@EACH_MODE
@EACH_SCRIPT
def test_extra_body_reaches_every_request(run, http, script, mode):
    route(http, mode, reply(mode, "", PRODUCT), reply(mode, ANSWER))
    more = {"thinking": {"type": "enabled"}, "model": "another", "tool_choice": "none"}
    assert run(script, "--mode", mode, "--extra-body", json.dumps(more))[0] == 0
    assert [{name: body[name] for name in more} for body in everything_sent(http)] == [more] * 2


@EACH_SCRIPT
def test_settings_of_other_clients_change_nothing(run, http, monkeypatch, script):
    for name in ("ORG_ID", "PROJECT_ID", "API_KEY", "BASE_URL"):
        monkeypatch.setenv(f"OPENAI_{name}", "https://other.test/v1")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "Authorization: Bearer other\nX-Other: 1")
    run(script, "--mode", "non-streaming", chat=[said(ANSWER)])
    assert len(http.calls) > 1
    for headers in [each.request.headers for each in http.calls]:
        assert headers["authorization"] == f"Bearer {KEY}"
        assert not {"openai-organization", "openai-project", "x-other"} & set(headers)


@EACH_SCRIPT
def test_a_key_in_the_wrong_place(run, script, monkeypatch):
    assert run(script, models=(), url=KEY)[0] == 2
    assert run(script, "--mode", "non-streaming", models=(), url=f"{URL}/{KEY}")[0] == 1
    assert run(script, KEY)[0] == 2
    assert run(script, "another-secret-key", key="another-secret-key")[0] == 2
    assert "key from the environment" in run(script, key="abcdef", chat=[said("x")])[1]
    monkeypatch.setenv("MOONSHOT_BASE_URL", KEY)
    assert script.main([]) == 2


@pytest.mark.parametrize("mode", ["non-streaming", "streaming"])
@pytest.mark.parametrize("padding", [0, 30, 40, 50, 60, 960, 980, 990])
@pytest.mark.parametrize("key", [KEY, "another-secret-form"])
def test_a_hostile_model(run, padding, key, mode):
    city = call("get_weather", json.dumps({"city": "x" * padding + key}))
    nasty = f"\x1b]0;owned\x07\x1b[2J{ANSWER} {key} \x9b1m\r"
    last = streamed(nasty) if mode == "streaming" else said(nasty)  # the key arrives in one piece
    for script in (quick, tour):
        run(script, "--mode", mode, key=key, chat=[reply(mode, "", city, call(key, "{}")), last])


def test_the_tour_offline(run):
    exit_status, text = run(tour, "--offline", key=None)
    assert exit_status == 0 and "Offline" in text.splitlines()[0]
    lessons = re.split(r"\n----- Lesson [1-4]\. ", text)[1:]
    roles = [json.loads(line)["role"] for line in lessons[0].splitlines()[1:]]
    assert roles == ["system", "user", "assistant", "tool", "assistant"]
    assert 'get_weather |{"city":| "New Yo|rk"}|' in lessons[1]  # fragments are seen
    assert lessons[2].count("<|im_system|>tool_declare<|im_middle|>[{") == 1  # only what is new
    assert "<|tool_calls_section_begin|>" in lessons[2] and "69.29646455628166" in lessons[2]
    assert "352.5|" in lessons[1] and "London: rainy" in lessons[3] and "Tokyo: clear" in lessons[3]


LOOPS = list(zip(tour.LESSONS, ["non-streaming", "streaming", "manual"], strict=False))
PARIS = call("get_weather", '{"city": "Paris"}', "functions.get_weather:0")
LONDON = call("get_weather", '{"city": "London"}', "functions.get_weather:1")


@pytest.mark.parametrize("thought", ["Hm.", ""])
@pytest.mark.parametrize(("lesson", "mode"), LOOPS)
def test_what_a_lesson_sends_back(http, client, capsys, lesson, mode, thought):
    thinking = {} if mode == "manual" else {"reasoning_content": thought}
    calls = reply(mode, "Let me see.", PARIS, LONDON, **thinking)
    posted = route(http, mode, calls, reply(mode, "!"))
    lesson(client, MODEL)
    request = sent(posted)
    if mode == "manual":
        assert f"Let me see.{marked(PARIS, LONDON)}<|im_end|>" in request["prompt"]
        results = re.findall(r"## Return of (\S+)\n(.*?)<\|im_end\|>", request["prompt"])
        needed = {"stop": ["<|im_end|>"], "skip_special_tokens": False, "max_tokens": 4096}
        assert request | needed == request
    else:
        message, *results = request["messages"][-3:]
        said = {"role": "assistant", "content": "Let me see.", "tool_calls": [PARIS, LONDON]}
        assert message == said | thinking and request["tools"]
        results = [(each["tool_call_id"], each["content"]) for each in results]
        known = {"model", "messages", "tools", "tool_choice", "stream"}  # no limit of the output
        assert set(request) <= known and request["tool_choice"] == "auto"
    assert [call_id for call_id, _ in results] == [PARIS["id"], LONDON["id"]]
    assert [json.loads(result)["city"] for _, result in results] == ["Paris", "London"]


@pytest.mark.parametrize(("lesson", "mode"), LOOPS)
def test_a_lesson_without_an_answer_says_so(http, client, capsys, lesson, mode):
    """Still calls after ten requests, an empty reply or stream."""
    empty = sse() if mode == "streaming" else reply(mode, "")
    for responses in ([reply(mode, "", PARIS)] * 10, [empty]):
        route(http, mode, *responses)
        lesson(client, MODEL)
        assert capsys.readouterr().out.splitlines()[-1].startswith("(no answer")


@EACH_MODE
def test_one_mode_or_a_prompt_is_one_conversation(run, http, mode):
    exit_status, text = run(tour, "--offline", "--mode", mode, key=None)
    assert exit_status == 0 and "Lesson" not in text and text.count("call: ") == 2
    assert text.endswith("New York: partly cloudy, 18 °C, 55 % humidity. 15 * 23.5 = 352.5.\n")
    route(http, mode, reply(mode, "x"))
    flags = [] if mode == "non-streaming" else ["--mode", mode]
    assert run(tour, *flags, "--temperature", "0.3", "--prompt", "Hi")[0] == 0
    body = everything_sent(http)[-1]
    assert body["temperature"] == pytest.approx(0.5 if mode == "anthropic" else 0.3)
    assert '"Hi"' in json.dumps(body) or "Hi<|im_end|>" in body["prompt"]


NO_SENSE = ["--prompt=", "--prompt= ", "--temperature=0.5", "--extra-body={}", "--temperature=0"]
NO_SENSE += [f"--mode=manual  --temperature={value}" for value in ("nan", "inf", "-1", "x")]
NO_SENSE += ["--mode=anthropic  --temperature=0.61", '--mode=all  --extra-body={"n":1}']


@pytest.mark.parametrize("flags", NO_SENSE)
def test_values_that_make_no_sense(run, http, flags):
    exit_status, text = run(tour, *flags.split("  "))
    assert exit_status == 2 and not everything_sent(http)
    assert re.findall("--([a-z-]+)", flags)[-1] in text


def test_a_lesson_without_its_route_is_skipped(run, http):
    for mode in ("manual", "anthropic"):
        route(http, mode, status(404, "url not found"))
    exit_status, text = run(tour, chat=[called(WEATHER), said("x"), streamed("x")] * 2)
    skipped = re.findall(r"^\(Skipped: this server has no (\S+)\. .*\)$", text, re.M)
    assert exit_status == 0 and skipped == ["/completions", "/messages"]


def test_the_tour_with_a_new_account(run, monkeypatch):
    """Against a server that allows three requests in any window, like Moonshot's in a minute."""
    window, allowed, answer = 0.2, [], offline._Handler.do_POST

    def limited(handler):
        allowed[:] = [when for when in allowed if time.monotonic() - when < window]
        if len(allowed) == 3:
            handler.rfile.read(int(handler.headers.get("content-length", 0)))
            return handler.send_error(429)
        allowed.append(time.monotonic())
        return answer(handler)

    monkeypatch.setattr(offline._Handler, "do_POST", limited)
    monkeypatch.setattr(retries, "RATE_LIMIT_WAIT", window * retries.RATE_LIMIT_WAIT / 60)
    monkeypatch.setattr(time, "sleep", real_sleep)
    with offline.serve() as url:
        exit_status, text = run(tour, models=(), url=url)
    assert exit_status == 0 and "Tokyo: " in text and text.count("answered 429 (rate limit)") > 2


REFUSED = ["--mode=x", "--nonsense", "--base-url=engine.test/v1", "--off", "--model="]
REFUSED += [f"--extra-body={value}" for value in ("[1]", "{", "7", "", "null", "top_p=1")]


@EACH_SCRIPT
@pytest.mark.parametrize("flag", REFUSED)
def test_flags_that_both_refuse(run, http, script, flag):
    exit_status, text = run(script, "--mode", "streaming", flag)
    assert exit_status == 2 and flag.partition("=")[0] in text and not http.calls
    assert run(script, "--offline", "--base-url", URL, key=None)[0] == 2


@EACH_SCRIPT
def test_offline_ignores_the_settings_of_the_real_endpoint(run, script, monkeypatch):
    monkeypatch.setenv("MOONSHOT_MODEL", "kimi-k2.6")
    monkeypatch.setenv("MOONSHOT_BASE_URL", "nonsense")
    assert run(script, "--offline", key=None)[0] == 0
    exit_status, text = run(script, "--offline", "--model", "x", key=None)
    assert exit_status == 1 and "Error: Model not found" in text and MODEL in text


def program(project, script, *flags, python=("-W", "error"), **environment):
    kept = {k: v for k, v in os.environ.items() if k in ("PATH", "SYSTEMROOT", "HOME", "TEMP")}
    command = [sys.executable, *python, str(project / script), *flags]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=project.parent, env={**kept, **environment}, **pipes)


def test_as_programs_from_another_folder(project):
    place = b"Paris \xff?" if sys.platform != "win32" else "Paris?"  # no text
    modes = ("--offline", "--mode", "all")
    plain = {"python": ("-W", "error", "-OO"), "PYTHONIOENCODING": "ascii"}
    code = "import sys, {0} as s; sys.exit(s.main([]) * 10 + ('openai' in sys.modules))"
    start = partial(program, project)
    started = [
        (start(SCRIPTS[0], *modes, **plain), 0, b"\nPASS: 4 of 4 modes work."),
        (start(SCRIPTS[1], *modes, **plain), 0, b"22 ?C"),
        (start(SCRIPTS[1], "--offline", "--prompt", place), 0, b"Paris: cloudy"),
        *[(start("", python=("-c", code.format(script[:-3])), PYTHONPATH=str(project)), 20,
           b"Please set your MOONSHOT_API_KEY environment variable") for script in SCRIPTS],
        *[(start(script, *flags, python=("-S",)), 2, b'Error: A package is missing: "No module')
          for script in SCRIPTS for flags in ([], ["--offline"])],  # -S: nothing is installed
    ]  # fmt: skip
    for process, exit_status, shown in started:
        out, err = process.communicate(timeout=20)
        assert process.returncode == exit_status and shown in out + err and b"Trace" not in err
        assert exit_status or err == b""


@POSIX
def test_a_reader_that_leaves(project):
    for script in SCRIPTS:
        with program(project, script, "--offline") as process:
            process.stdout.readline()
            process.stdout.close()
            assert process.stderr.read() == b"" and process.wait(20) == 1


@POSIX
def test_ctrl_c(project):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        for script in SCRIPTS:
            process = program(project, script, f"--base-url={url}", python=(), MOONSHOT_API_KEY=KEY)
            with listener.accept()[0]:  # it waits for an answer that does not come
                process.send_signal(signal.SIGINT)
                out, err = process.communicate(timeout=20)
            assert process.returncode == 130 and err == b"" and out.startswith(b"config")
