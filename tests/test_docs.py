"""The documents are true: their programs run, their transcripts are what is printed, and every
flag, file, variable and error message in them exists."""

import json
import os
import re
import shutil
import subprocess
import sys

import httpx
import openai
import pytest
from conftest import CHAT, KEY, MODEL, ROOT, URL, call, called, route, said, sent, status

import kimi_k2_api_example as tutorial
import quick_test
from tools import endpoint, loop, offline
from tools.anthropic_format import request_temperature
from tools.errors import KimiError
from tools.offline import serve

DOC = (ROOT / "API_README.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
PROSE = FENCE.sub("", DOC)
FILES = [ROOT / "quick_test.py", ROOT / "kimi_k2_api_example.py", *(ROOT / "tools").glob("*.py")]
CODE = [file.read_text(encoding="utf-8") for file in FILES]


def blocks(kind, text=DOC):
    return [body for language, body in FENCE.findall(text) if language == kind]


def section(title):
    return re.search(rf"^##+ {title}\n(.*?)(?=^##|\Z)", DOC, re.M | re.S).group(1)


def program(title):
    return blocks("python", section(title))[0]


def python(folder, *arguments, **variables):
    """What a Python process prints in this folder."""
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8", **variables}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def pasted(folder, source):
    """What a program prints as a person tries it: in a file beside tools/, with the two variables
    that the mock server prints."""
    (folder / "mine.py").write_text(source, encoding="utf-8")
    with serve() as url:
        variables = {"MOONSHOT_API_KEY": "offline", "MOONSHOT_BASE_URL": url}
        code, printed, errors = python(folder, "mine.py", **variables)
    assert (code, errors) == (0, "")
    return printed


@pytest.fixture
def beside_tools(project, tmp_path):
    """An empty folder with nothing but tools/."""
    shutil.copytree(project / "tools", tmp_path / "tools")
    return tmp_path


PRINTED = (
    ("The tool returned", '"condition": "sunny"'), ("get_weather", '{"city": "Beijing"}'),
    ("functions.calculate:0", "8467 * 5931"), ("I am a mock server",), ("16 °C", "2 requests"),
    ("Let me see.", "functions.add:0"), (), (),
)  # fmt: skip


@pytest.mark.parametrize(("number", "parts"), list(enumerate(PRINTED)))
def test_every_program_runs_against_the_mock_server(beside_tools, number, parts):
    assert len(blocks("python")) == len(PRINTED)
    printed = pasted(beside_tools, blocks("python")[number])
    assert all(part in printed for part in parts) and bool(printed.strip()) == bool(parts)


@pytest.fixture
def run(monkeypatch, capsys, http):
    def run(source):
        monkeypatch.setenv("MOONSHOT_API_KEY", KEY)
        monkeypatch.setenv("MOONSHOT_BASE_URL", URL)
        http.get(f"{URL}/models").mock(return_value=httpx.Response(200, json=[{"id": MODEL}]))
        exec(compile(source, "API_README.md", "exec"), {"__name__": "__main__"})
        return capsys.readouterr().out

    return run


def test_non_streaming(run, http):
    good, bad = (call("get_weather", f'{{"{key}": "Rome"}}', key) for key in ("city", "town"))
    calls = called(good, bad, reasoning_content="Hm.")
    posted = route(http, "non-streaming", calls, said("Sunny."))
    assert run(program("Non-streaming")) == "Sunny.\n"
    _, asked, result, error = sent(posted)["messages"]
    assert asked["tool_calls"] == [good, bad] and asked["reasoning_content"] == "Hm."
    assert asked["content"] == "" and "null" not in json.dumps(asked)
    assert json.loads(result["content"])["city"] == "Rome" and result["tool_call_id"] == "city"
    assert "Call again" in json.loads(error["content"])["error"]


def test_a_tool_of_your_own(run, http):
    roll = call("roll_dice", '{"sides": 6}')
    posted = route(http, "non-streaming", called(roll), said("You rolled a 4."))
    assert run(program("A tool of your own")) == "You rolled a 4.\n"
    assert json.loads(sent(posted)["messages"][2]["content"]) == {"sides": 6, "rolled": 4}


def test_errors_that_your_program_catches(run, http):
    broken = call("get_weather", "{", None)
    del broken["function"]["name"]  # KimiError; then an error of the SDK
    route(http, "non-streaming", called(broken), status(401))
    assert "Tool call parsing failed" in run(program("In your own program"))
    assert "did not accept the key" in run(program("In your own program"))


AGENT = program("Testing offline")


@pytest.mark.parametrize(
    ("old", "new", "passes"),
    [
        ("", "", True),
        ('if turns[-1][0] == "tool":', "if True:", False),  # the tool is not called
        ("    booked.append(seats)\n", "", False),
    ],
)
def test_the_test_of_an_agent(beside_tools, old, new, passes):
    assert old in AGENT
    (beside_tools / "test_agent.py").write_text(AGENT.replace(old, new), encoding="utf-8")
    _, printed, _ = python(beside_tools, "-m", "pytest", "-q", "test_agent.py")
    assert ("1 passed" if passes else "1 failed") in printed


def test_how_it_works_as_data():
    """The request, the message with a call and the result, sent to the mock server."""
    body, message, result = map(json.loads, blocks("json"))
    with serve() as url, openai.OpenAI(api_key="offline", base_url=url) as client:
        def answer(body):
            return client.chat.completions.create(**body).choices[0].message.to_dict()

        assert answer(body) == message
        body["messages"] += [message, result]
        assert "sunny" in answer(body)["content"]


EXAMPLE = (ROOT / "kimi_k2_api_example.py").read_text(encoding="utf-8")
LESSONS = re.findall(r"^def lesson_\d.*?(?=^\S)", EXAMPLE, re.M | re.S)
ABOVE = re.search(r"^import json\n.*?^client, model = connect\(\)$", EXAMPLE, re.M | re.S).group()
ANSWERS = ('"temperature\\": 22', "352.5", "69.29646455628166", "19 °C")


@pytest.mark.parametrize("number", range(4))
def test_a_lesson_can_be_pasted(beside_tools, number):
    """Exactly the docstring's lines and the lesson, and a line that calls it."""
    assert len(LESSONS) == len(tutorial.LESSONS) == 4
    source = f"{ABOVE}\n\n\n{LESSONS[number]}lesson_{number + 1}(client, model)\n"
    assert ANSWERS[number] in pasted(beside_tools, source).replace("|", "")


on_bash = pytest.mark.skipif(
    not shutil.which("bash") or not shutil.which("awk") or sys.platform == "win32", reason="no bash"
)


@on_bash
def test_ci_takes_the_two_commands_and_nothing_else():
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    awk = re.search(r"^awk '.*?'", ci, re.M).group()
    taken = subprocess.check_output(["bash", "-c", f"{awk} README.md"], cwd=ROOT, text=True)
    lessons, tests = taken.splitlines()
    assert [f"{lessons}\n", f"{tests}\n"] == blocks("bash", README)
    assert f"{lessons}\n" == blocks("bash")[0]
    assert lessons.endswith("kimi_k2_api_example.py --offline")
    assert tests.endswith("python -m pytest tests")


@on_bash
@pytest.mark.parametrize("commands", [blocks("sh", README)[0], blocks("bash")[1]])
def test_the_commands_that_check_a_key(project, tmp_path, commands):
    """With a pip that installs nothing."""
    stubs = {"python3": "", "pip": "", "python": f'exec "{sys.executable}" "$@"'}
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    for name, line in stubs.items():
        stub = tmp_path / ".venv" / "bin" / name
        stub.write_text(f"#!/bin/sh\n{line}\n")
        stub.chmod(0o755)
    for name in ("tools", "quick_test.py"):
        (tmp_path / name).symlink_to(project / name)
    with serve() as url:
        path = f"{tmp_path}/.venv/bin:{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "-eu"], input=commands.replace("sk-...", KEY), cwd=tmp_path,
            env={"PATH": path, "MOONSHOT_BASE_URL": url}, capture_output=True, text=True,
        )  # fmt: skip
    assert done.returncode == 0 and "PASS" in done.stdout, done.stderr


def test_engines_are_started_with_the_flags_that_quick_test_names():
    vllm, sglang = blocks("console")[0].splitlines()
    parser, vllm_only = re.findall(r"--[a-z-]+(?: kimi_k2)?", quick_test.parser_flags(MODEL))
    assert parser in vllm and parser in sglang and vllm_only in vllm


def test_the_figure_is_that_of_the_code():
    (figure,) = blocks("text")
    lines = [line.removeprefix("    ") for line in loop.__doc__.splitlines()]
    assert figure.rstrip() in "\n".join(lines)


def test_the_transcripts_are_what_is_printed(capsys, monkeypatch):
    """Of the tutorial, and of a server without /completions; and the requests that are counted."""
    begin, modes = blocks("text", README)
    assert tutorial.main(["--offline"]) == 0
    assert f"\n{begin}" in capsys.readouterr().out

    requests = []
    post = offline._Handler.do_POST
    monkeypatch.setattr(offline._Handler, "do_POST", lambda self: (requests.append(1), post(self)))
    monkeypatch.delitem(offline._ROUTES, "POST /v1/completions")
    counts, printed = [], []
    with serve() as url:
        monkeypatch.setenv("MOONSHOT_API_KEY", KEY)
        monkeypatch.setenv("MOONSHOT_BASE_URL", url)
        for script, mode in ((quick_test, "streaming"), (quick_test, "all"), (tutorial, "all")):
            requests.clear()
            assert script.main(["--mode", mode]) == 0
            counts.append(len(requests))
            printed.append(re.sub(r"\d\.\d s", "N s", capsys.readouterr().out))
    assert printed[1].endswith("\n" + re.sub(r"\d\.\d s", "N s", modes))
    cost = r"sends (\d+) chat requests .*, or (\d+) with `--mode all`; the tutorial sends (\d+) "
    numbers = re.search(cost, PROSE.replace("\n", " ")).groups()
    assert counts == [int(number) for number in numbers]


def flags_of(module, capsys):
    with pytest.raises(SystemExit):
        module.main(["--help"])
    return set(re.findall(r"--[a-z-]+", capsys.readouterr().out.split("\n\n")[0]))


def test_flags_and_modes(capsys):
    quick, tour = flags_of(quick_test, capsys), flags_of(tutorial, capsys)
    rows = re.findall(r"^\|.*\| `(--[\w-]+)` \| (tutorial)?", DOC, re.M)
    assert {flag for flag, _ in rows} == tour
    assert {flag for flag, tutorial in rows if not tutorial} == quick
    prose = FENCE.sub("", DOC.replace(section("Self-hosting"), "")) + README
    assert set(re.findall(r"(?<=[` ])--[a-z][a-z-]+", prose)) <= tour
    for mode in (*loop.MODES, "all"):
        assert f"`{mode}`" in section("Quick start")


def test_files_can_be_copied_as_the_table_says(project, tmp_path):
    rows = re.findall(r"^\| (`tools/.*?) \| .* \| (.*) \|$", section("In your own program"), re.M)
    copied = []
    for files, needs in rows:
        names = re.findall(r"tools/(\w+)\.py", files)
        copied += names
        for name in names:
            folder = tmp_path / name / "tools"
            folder.mkdir(parents=True)
            for file in [name] if needs == "nothing" else copied:
                shutil.copy(project / "tools" / f"{file}.py", folder)
            assert python(folder.parent, "-c", f"import tools.{name}") == (0, "", "")
    assert sorted(copied) == sorted(file.stem for file in (project / "tools").glob("*.py"))


def test_files_variables_and_links():
    for name in re.findall(r"`((?:[\w.]+/)*[\w.]+\.(?:py|txt|example|md))`", PROSE):
        assert (ROOT / name).exists() or name == "test_agent.py", name
    pattern = r"\bMOONSHOT_[A-Z_]+"
    example = (ROOT / ".env.example").read_text(encoding="utf-8")
    used = set(re.findall(pattern, " ".join(CODE)))
    assert set(re.findall(pattern, DOC)) == used == set(re.findall(pattern, example))
    assert f"MOONSHOT_API_KEY={endpoint.PLACEHOLDERS[0]}\n" in example
    assert f"`{endpoint.DEFAULT_BASE_URL}` by default" in DOC
    assert f"by default `{endpoint.DEFAULT_MODEL}`" in DOC
    anchors = {title.lower().replace(" ", "-") for title in re.findall("^#+ (.*)", DOC, re.M)}
    assert set(re.findall(r"\]\(#([^)]+)\)", DOC)) <= anchors
    assert set(re.findall(r"\]\((\w[\w.]+)\)", DOC + README)) == {"API_README.md"}


def test_temperatures_and_limits():
    for real, converted in (("0.3", "0.5"), ("0.6", "1.0")):
        assert request_temperature(float(real)) == pytest.approx(float(converted))
        assert f"{real} as {converted}" in PROSE
    with pytest.raises(KimiError):
        request_temperature(0.61)
    assert f"required ({loop.DEFAULT_LIMITS['anthropic']:,} here)" in PROSE


SEEN = re.findall(r"^\| `([^`]+)` \|", section("Troubleshooting"), re.M)


@pytest.mark.parametrize("message", [each for each in SEEN if not each.startswith("…")])
def test_a_message_of_the_table_is_in_the_code(message):
    code = re.sub(r'"\s*\n?\s*f?"', "", " ".join(CODE))  # strings that go on in the next line
    for part in re.split("…|, ", message.removeprefix("Error: ")):
        assert part.strip() in code


def test_the_notice_of_the_table_and_the_fixed_headlines(http):
    notices = []
    client = endpoint.make_client(endpoint.Settings(KEY, URL), on_retry=notices.append)
    http.post(CHAT).mock(side_effect=[httpx.Response(429), said()])
    client.chat.completions.create(model="m", messages=[])
    assert notices[0].split(";")[0].replace("engine.test", "…") in SEEN
    fixed = {endpoint.NO_KEY, "Error: Tool call parsing failed", "Error: Model not found"}
    assert fixed <= set(SEEN)
