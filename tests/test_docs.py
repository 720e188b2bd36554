"""The documents are true: their programs run, their transcripts are what is printed, and every
flag, file, variable and error message in them exists."""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys

import httpx
import pytest
from conftest import (
    CHAT, KEY, MODEL, ROOT, SUM, URL, call, called, delta, reply, route, said, sent, sse, status,
    streamed,
)  # fmt: skip

import kimi_k2_api_example
import quick_test
import tools
from tools import endpoint, errors, kimi_format, loop, offline
from tools.anthropic_format import request_temperature
from tools.endpoint import retry_hooks
from tools.errors import KimiError
from tools.offline import serve

DOC = (ROOT / "API_README.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)


def blocks(kind, text=DOC):
    return [body for language, body in FENCE.findall(text) if language == kind]


def section(title):
    return re.search(rf"^##+ {title}\n(.*?)(?=^##|\Z)", DOC, re.M | re.S).group(1)


def program(title):
    (body,) = blocks("python", section(title))
    return body


COMMANDS = [body.strip() for body in blocks("bash", README)]


def test_every_block_is_of_a_kind_that_is_tested():
    kinds = {language for language, _ in FENCE.findall(DOC)}
    assert kinds == {"python", "bash", "powershell", "text", "console"}
    assert len(blocks("python")) == 5 and len(DOC.splitlines()) < 350
    titles = re.findall("^## (.*)", DOC, re.M)
    assert titles == [
        "Quick start", "How it works", "The three loops", "A tool of your own",
        "In your own program", "Troubleshooting", "Compatibility and temperature", "Self-hosting",
        "Specifications",
    ]  # fmt: skip


# --- the programs, each alone and as it stands ------------------------------------------------------


@pytest.fixture
def run(monkeypatch, capsys, http):
    def run(source, models=({"id": "kimi-k2.6", "created": 9}, {"id": MODEL})):
        monkeypatch.setenv("MOONSHOT_API_KEY", KEY)
        monkeypatch.setenv("MOONSHOT_BASE_URL", URL)
        listed = {"object": "list", "data": list(models)}
        http.get(f"{URL}/models").mock(return_value=httpx.Response(200, json=listed))
        exec(compile(source, "API_README.md", "exec"), {"__name__": "__main__"})
        return capsys.readouterr().out

    return run


BEIJING = call("get_weather", '{"city": "Beijing"}', "b")
BROKEN = call("get_weather", '{"town": 1}', "c")
RESULT = {"city": "Beijing", "condition": "sunny", "simulated": True}


def test_non_streaming(run, http):
    calls = called(BEIJING, BROKEN, reasoning_content="Hm.")
    posted = route(http, "non-streaming", calls, said("Sunny."))
    assert run(program("Non-streaming")) == "Sunny.\n"
    body = sent(posted)
    assert body["model"] == MODEL and "temperature" not in body and body["tool_choice"] == "auto"
    messages = body["messages"]
    assert [m["role"] for m in messages] == ["user", "assistant", "tool", "tool"]
    assert messages[1]["tool_calls"] == [BEIJING, BROKEN]
    assert messages[1]["reasoning_content"] == "Hm."
    assert json.loads(messages[2]["content"]) == RESULT
    assert "Call again" in json.loads(messages[3]["content"])["error"]
    assert "null" not in json.dumps(messages)


@pytest.mark.parametrize(
    "served",
    [
        {"kimi-k2.5": 9, MODEL: 1}, {"other/KIMI-K2-INSTRUCT": 1, "kimi-k2.6": 2, "kimi-k3": 3},
        {"kimi-k2.5": 1, "kimi-k2.6": 2, "kimi-k3": 3, "x": 9}, {"kimi-a": 1, "Kimi-B": 2, "x": 3},
        {"whatever": 1}, {MODEL.upper(): 3, MODEL: 2},
    ],
)  # fmt: skip
def test_a_program_picks_the_model_that_the_scripts_would(run, http, served):
    posted = route(http, "non-streaming", said("Sunny."))
    models = [{"id": name, "created": created} for name, created in served.items()]
    run(program("Non-streaming"), models)
    settings = endpoint.Settings(KEY, "", URL)
    assert sent(posted)["model"] == endpoint.choose_model(settings, models)[0]


def test_streaming(run, http):
    begin, end = call("get_weather", '{"city": ', "b"), {"function": {"arguments": '"Beijing"}'}}
    fragments = [delta(tool_calls=[{**each, "index": 0}]) for each in (begin, end)]
    usage = {"choices": [], "usage": {"total_tokens": 3}}
    chunks = [delta(role="assistant"), delta(content="Let me "), delta(content="see."), *fragments]
    route(http, "streaming", sse(*chunks, delta("tool_calls"), usage))
    assert run(program("Streaming")) == f"Let me see.{[BEIJING['function']]}\n"


def test_manual_parsing(run, http):
    for parts, printed in ((("", SUM), [SUM]), (("50217777",), "50217777")):
        posted = route(http, "manual", reply("manual", *parts))
        assert run(program("Manual parsing")) == f"{printed}\n"
    body = sent(posted)
    assert body["skip_special_tokens"] is False and body["max_tokens"] == 4096
    assert body["stop"] == ["<|im_end|>"] and "8467 * 5931" in body["prompt"]


def test_a_tool_of_your_own(run, http):
    roll = call("roll_dice", '{"sides": 6}')
    posted = route(http, "non-streaming", called(roll), said("You rolled a 4."))
    assert run(program("A tool of your own")) == "You rolled a 4.\n"
    assert [tool["function"]["name"] for tool in sent(posted)["tools"]] == ["roll_dice"]
    assert json.loads(sent(posted)["messages"][2]["content"]) == {"sides": 6, "rolled": 4}


def test_in_your_own_program(run, http):
    route(http, "streaming", streamed("Sunny."), status(401))
    assert run(program("In your own program")) == "Sunny.\n"
    assert "did not accept the key" in run(program("In your own program"))


def pasted(folder, source):
    """What a program prints as a person tries it: in an empty file beside tools/, with the two
    variables that the mock server prints."""
    (folder / "mine.py").write_text(source, encoding="utf-8")
    with serve() as url:
        environment = {**os.environ, "MOONSHOT_API_KEY": "offline", "MOONSHOT_BASE_URL": url}
        environment["PYTHONIOENCODING"] = "utf-8"
        command = [sys.executable, "-W", "error::SyntaxWarning", "mine.py"]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=False)
    assert done.returncode == 0 and done.stderr == b"", done.stderr.decode()
    return done.stdout.decode()


@pytest.mark.parametrize("source", blocks("python"))
def test_every_program_runs_against_the_mock_server(project, source):
    printed = pasted(project, source)
    assert printed.endswith("\n") and printed.strip()


# --- the lessons -----------------------------------------------------------------------------------

EXAMPLE = (ROOT / "kimi_k2_api_example.py").read_text(encoding="utf-8")
LESSONS = re.findall(r"^def lesson_\d.*?(?=^\S)", EXAMPLE, re.M | re.S)


def test_lessons_are_short_and_plain():
    assert len(LESSONS) == len(kimi_k2_api_example.LESSONS) == 4
    for lesson in LESSONS:
        assert len(lesson.strip().splitlines()) <= 45
        assert " -> " not in lesson and "(client, model):" in lesson


ANSWERS = ["22 °C", "352.5", "69.29646455628166", "19 °C"]


@pytest.mark.parametrize("number", range(1, 5))
def test_a_lesson_can_be_copied(project, tmp_path, number):
    """Below the lines of the docstring, in an empty folder beside tools/."""
    shutil.copytree(project / "tools", tmp_path / "tools")
    above = kimi_k2_api_example.__doc__.split("call it:")[1].split("\n\n", 1)[1]
    lines = [line.removeprefix("    ") for line in above.splitlines()]
    source = "\n".join([*lines, LESSONS[number - 1], f"lesson_{number}(client, model)"])
    assert ANSWERS[number - 1] in pasted(tmp_path, source).replace("|", "")


# --- the commands --------------------------------------------------------------------------------


def test_the_two_commands_are_those_that_ci_runs():
    assert len(COMMANDS) == 2 and blocks("bash")[0].strip() == COMMANDS[0]
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "README.md" in ci and "pip install" not in ci and "pytest" not in ci
    workflow = (ROOT / ".github" / "workflows" / "tests.yml").read_text(encoding="utf-8")
    assert "python -m pytest tests" in workflow and "python -m pytest tests" in COMMANDS[1]
    prose = FENCE.sub("", README).splitlines()
    assert len([line for line in prose if line.strip()]) <= 15


@pytest.mark.skipif(not shutil.which("awk"), reason="needs awk")
def test_ci_takes_the_commands_and_nothing_else():
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    awk = re.search(r"^awk '.*?'", ci, re.M).group()
    done = subprocess.run(["bash", "-c", f"{awk} README.md"], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines() == COMMANDS


@pytest.mark.skipif(not shutil.which("bash") or sys.platform == "win32", reason="needs bash")
def test_the_command_with_a_key(project):
    (command,) = blocks("bash")[1:]
    (project / ".venv" / "bin").mkdir(parents=True)
    python = project / ".venv" / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    with serve() as url:
        environment = {"PATH": os.environ["PATH"], "MOONSHOT_BASE_URL": url}
        done = subprocess.run(
            ["bash", "-eu"], input=command, cwd=project, env=environment, capture_output=True, text=True
        )
    assert done.returncode == 0 and "PASS" in done.stdout, done.stderr


def test_engines_are_started_with_the_flags_that_quick_test_names():
    vllm, sglang = blocks("console")[0].splitlines()
    for command in (vllm, sglang):
        assert "--tool-call-parser kimi_k2" in command and MODEL in command
    assert "--enable-auto-tool-choice" in vllm
    assert "--tool-call-parser kimi_k2" in quick_test.PARSER
    assert "--enable-auto-tool-choice" in quick_test.PARSER


# --- the figures -------------------------------------------------------------------------------------


def test_the_figure_is_that_of_the_code():
    figure = next(body for body in blocks("text") if "run_tool" in body)
    assert figure.strip() == "\n".join(
        line.removeprefix("    ") for line in loop.__doc__.splitlines()[2:5]
    )


def settled(text):
    text = re.sub(r"127\.0\.0\.1:\w+", "127.0.0.1:PORT", text)
    return re.sub(r"in (\d+\.\d|N) s", "in N s", text)


def test_the_transcripts_are_what_is_printed(capsys):
    verdict, modes = [body for body in blocks("text") if "run_tool" not in body]
    assert quick_test.main(["--offline"]) == 0
    assert settled(capsys.readouterr().out) == verdict
    assert kimi_k2_api_example.main(["--offline"]) == 0
    tour, modes_too = blocks("text", README)
    assert tour in capsys.readouterr().out
    assert settled(modes_too) == modes


def test_modes_and_costs_on_the_hosted_platform(capsys, monkeypatch):
    """No /completions there: what the documents show, and the requests that they count."""
    monkeypatch.delitem(offline._ROUTES, "POST /v1/completions")
    requests = []
    answer = offline._Handler.do_POST
    monkeypatch.setattr(
        offline._Handler, "do_POST", lambda handler: (requests.append(handler.path), answer(handler))
    )
    with serve() as url:
        monkeypatch.setenv("MOONSHOT_API_KEY", KEY)
        monkeypatch.setenv("MOONSHOT_BASE_URL", url)
        assert quick_test.main(["--mode", "all"]) == 0
        modes = settled(capsys.readouterr().out)
        of_quick_test = len(requests)
        assert kimi_k2_api_example.main([]) == 0
    assert modes.endswith("\n" + blocks("text")[1])
    cost = f"`--mode all` {of_quick_test}, and the tutorial {len(requests) - of_quick_test} ("
    assert cost in DOC.replace("\n", " ")


# --- names --------------------------------------------------------------------------------------------


def flags_of(module, monkeypatch):
    parsers = []
    original = module.flag_parser

    def remember(*arguments):
        parsers.append(original(*arguments))
        return parsers[-1]

    monkeypatch.setattr(module, "flag_parser", remember)
    with pytest.raises(SystemExit):
        module.main(["--help"])
    actions = [action for action in parsers[0]._actions if not isinstance(action, argparse._HelpAction)]
    return {flag: action for action in actions for flag in action.option_strings}


ENGINE_FLAGS = {
    "--enable-auto-tool-choice", "--tool-call-parser", "--trust-remote-code", "--model-path",
}  # fmt: skip


def test_flags(monkeypatch, capsys):
    quick = flags_of(quick_test, monkeypatch)
    tour = flags_of(kimi_k2_api_example, monkeypatch)
    prose = FENCE.sub("", DOC)
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+(?!-*>)", DOC)) - {"--no--"}
    assert named - ENGINE_FLAGS == {*quick, *tour}
    rows = re.findall(r"^\|.*\| `(--[\w-]+)` \| (tutorial)?", prose, re.M)
    assert len(rows) == len(tour)
    for flag, tutorial in rows:
        assert flag in tour and (flag not in quick) is bool(tutorial)
    for mode in tour["--mode"].choices:
        assert f"`{mode}`" in DOC
    assert "4096 by default" in prose and "4096" in tour["--max-tokens"].help
    for module in (quick_test, kimi_k2_api_example):
        examples = re.findall(r"python \S+\.py(.*?)(?:  |$)", module.__doc__, re.M)
        assert set(re.findall(r"--[a-z-]+", " ".join(examples))) <= {*quick, *tour}


def sources():
    """The files that git tracks: those that a user adds are no concern of the documents."""
    files = ["quick_test.py", "kimi_k2_api_example.py", *(ROOT / "tools").glob("*.py")]
    listed = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode == 0 and listed.stdout:
        files = [name for name in listed.stdout.split() if not name.startswith("tests/")]
    return [ROOT / name for name in files]


def test_files():
    named = set(re.findall(r"`((?:[\w.]+/)*[\w.]+\.(?:py|txt|example|md)|tools/|tests/)`", DOC))
    for name in named:
        assert (ROOT / name).exists(), name
    for file in sources():
        assert str(file.relative_to(ROOT)).replace(os.sep, "/") in named


def test_variables():
    pattern = r"\bMOONSHOT_[A-Z_]+"
    used = {name for file in sources() for name in re.findall(pattern, file.read_text("utf-8"))}
    example = (ROOT / ".env.example").read_text(encoding="utf-8")
    assert set(re.findall(pattern, DOC)) == used == set(re.findall(pattern, example))
    assert f"MOONSHOT_API_KEY={endpoint.PLACEHOLDER}" in example
    assert endpoint.DEFAULT_BASE_URL in DOC and endpoint.DEFAULT_MODEL in DOC


def test_names_of_the_code_that_are_mentioned():
    named = set(re.findall(r"`([A-Za-z_]+)`", FENCE.sub("", DOC)))
    public = {*vars(tools), *vars(loop), *vars(errors), *vars(kimi_format)}
    names = {"TOOLS", "FUNCTIONS", "run_tool", "run_loop", "explain", "ToolCallParser"}
    assert names <= named & public


def test_the_table_of_temperatures():
    rows = re.findall(
        r"^\| (\d\.\d)[^|]* \| (\d\.\d) \| ([^|]+) \|$", section("Compatibility and temperature"), re.M
    )
    assert len(rows) == 3
    for real, plain, converted in rows:
        assert real == plain
        if "error" in converted:
            with pytest.raises(KimiError):
                request_temperature(float(real))
        else:
            assert request_temperature(float(real)) == pytest.approx(float(converted))


def test_links():
    titles = re.findall("^#+ (.*)", DOC, re.M)
    anchors = {title.lower().replace(" ", "-") for title in titles}
    assert set(re.findall(r"\]\(#([^)]+)\)", DOC)) <= anchors
    for file in re.findall(r"\]\((\w[\w.]+)\)", DOC + README):
        assert (ROOT / file).exists()


# --- error messages ------------------------------------------------------------------------------


def test_the_messages_of_the_table_are_those_of_the_code():
    rows = re.findall(r"^\| `([A-Z][^`|]+)` \|", section("Troubleshooting"), re.M)
    assert 8 <= len(rows) <= 12
    code = " ".join(file.read_text(encoding="utf-8") for file in sources())
    code = re.sub(r"\{\w+(\.\w+)*\}", "…", re.sub(r'"\s*\n?\s*f?"', "", code))
    for row in rows:
        for part in row.removeprefix("Error: ").split("…"):
            assert part.strip() in code, row


def test_the_notice_of_the_table_is_the_one_that_is_printed(capsys):
    (on_request,), (on_response,) = retry_hooks().values()
    request = httpx.Request("POST", CHAT)
    on_request(request)
    on_response(httpx.Response(429, request=request))
    notice = capsys.readouterr().err.split(";")[0].replace("engine.test", "…")
    assert f"| `{notice}` |" in section("Troubleshooting")


def test_the_three_documented_messages():
    assert f"`{endpoint.NO_KEY.splitlines()[0]}`" in DOC
    for headline in ("Error: Tool call parsing failed", "Error: Model not found"):
        assert f"`{headline}`" in DOC
