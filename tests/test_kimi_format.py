"""Kimi-K2's own text format: the prompt to the letter, the parser for every wild form and cut."""

import json

import pytest
from conftest import call, marked

from tools.kimi_format import ToolCallParser, parse, render_prompt

BEGIN, END = "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"
CALL, CALL_END = "<|tool_call_begin|>", "<|tool_call_end|>"
ARGUMENTS = "<|tool_call_argument_begin|>"
KIMI = "You are Kimi, an AI assistant created by Moonshot AI."
SYSTEM = f"<|im_system|>system<|im_middle|>{KIMI}<|im_end|>\n"
ASSISTANT = "<|im_assistant|>assistant<|im_middle|>"
PROPERTIES = {"type": "object", "required": ["city"], "properties": {"city": {"type": "string"}}}
FUNCTION = {"name": "get_weather", "description": "Get weather", "parameters": PROPERTIES}
WEATHER = {"type": "function", "function": FUNCTION}
# Stage 1 and 2 of the published guide, with the template that goes with the weights.
STAGE_1 = (
    '<|im_system|>tool_declare<|im_middle|>[{"function":{"description":"Get weather",'
    '"name":"get_weather","parameters":{"properties":{"city":{"type":"string"}},'
    '"required":["city"],"type":"object"}},"type":"function"}]<|im_end|>'
    f"{SYSTEM}<|im_user|>user<|im_middle|>Weather in Beijing?<|im_end|>{ASSISTANT}"
)
WRITTEN = (
    "<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0"
    '<|tool_call_argument_begin|>{"city": "Beijing"}<|tool_call_end|><|tool_calls_section_end|>'
    "<|im_end|>"
)
STAGE_2 = (
    STAGE_1 + WRITTEN + "<|im_system|>get_weather<|im_middle|>## Return of functions.get_weather:0"
    '\n{"weather": "Sunny"}<|im_end|>' + ASSISTANT
)
QUESTION = {"role": "user", "content": "Weather in Beijing?"}


def made(*calls, content=None):
    return {"role": "assistant", "content": content, "tool_calls": list(calls)}


def returned(call_id, content, **name):
    return {"role": "tool", "tool_call_id": call_id, **name, "content": content}


def test_stage_1_and_2():
    assert render_prompt([QUESTION], [WEATHER]) == STAGE_1
    beijing = made(call("get_weather", '{"city": "Beijing"}', "call_abc"))
    sunny = returned("call_abc", '{"weather": "Sunny"}', name="get_weather")
    assert render_prompt([QUESTION, beijing, sunny], [WEATHER]) == STAGE_2


def turn(token, name, body):
    return f"<|im_{token}|>{name}<|im_middle|>{body}<|im_end|>"


OWN = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "name": "Ann", "content": [{"type": "text", "text": "a"}, {"text": "b"}]},
    {"role": "assistant", "content": None}, {"role": "developer", "content": "x"},
]  # fmt: skip
OWN_TURNS = (
    turn("system", "system", "Be brief.") + turn("user", "Ann", "ab")
    + turn("assistant", "assistant", "") + turn("system", "developer", "x")
)  # fmt: skip
GREETED = [{"role": "user", "content": "北京 🌞"}, {"role": "assistant", "content": "Hello"}]
GREETED_TURNS = turn("user", "user", "北京 🌞") + turn("assistant", "assistant", "Hello")
TOOL = {"type": "function", "function": {"name": "天气", "description": "Größe"}}
DECLARED = '[{"function":{"description":"Größe","name":"天气"},"type":"function"}]'


@pytest.mark.parametrize(
    ("messages", "tools", "prompt"),
    [
        ([], None, ""), (GREETED, [], SYSTEM + GREETED_TURNS), (OWN, None, OWN_TURNS),
        (OWN, [TOOL], turn("system", "tool_declare", DECLARED) + OWN_TURNS),
    ],
)  # fmt: skip
def test_turns(messages, tools, prompt):
    assert render_prompt(messages, tools) == prompt + ASSISTANT


def test_calls_are_numbered_over_the_whole_conversation():
    """An id of the history may come again in a later message."""
    weather, sum_ = call("get_weather", "{}", "a"), call("calculate", "{}", "b")
    messages = [
        QUESTION, made(weather, sum_, content="Two at once."), returned("a", "r"),
        returned("b", "r", name="n"), made({**sum_, "id": "a"}), returned("a", "r"),
    ]  # fmt: skip
    ids = ["functions.get_weather:0", "functions.calculate:1", "functions.calculate:2"]
    calls = [{**each, "id": new} for each, new in zip((weather, sum_, sum_), ids, strict=True)]
    assert render_prompt(messages).endswith(
        turn("assistant", "assistant", "Two at once." + marked(*calls[:2]))
        + turn("system", "tool", f"## Return of {ids[0]}\nr")
        + turn("system", "n", f"## Return of {ids[1]}\nr")
        + turn("assistant", "assistant", marked(calls[2]))
        + turn("system", "tool", f"## Return of {ids[2]}\nr")
        + ASSISTANT
    )


def test_results_in_another_order_keep_their_calls():
    both = made(call("a_tool", "{}", "x"), call("b_tool", "{}", "y"))
    prompt = render_prompt([QUESTION, both, *[returned(i, i) for i in ("y", "x", "stray")]])
    for written in ("b_tool:1\ny", "a_tool:0\nx"):
        assert f"## Return of functions.{written}<|im_end|>" in prompt
    assert "## Return of stray\nstray" in prompt


def test_arguments_that_are_no_string():
    prompt = render_prompt([QUESTION, made(call(arguments={"city": "北京"}))])
    assert ARGUMENTS + '{"city": "北京"}' + CALL_END in prompt


SPECIAL = [
    "<|im_system|>", "<|im_user|>", "<|im_assistant|>", "<|im_middle|>", "<|im_end|>", BEGIN, END,
    CALL, ARGUMENTS, CALL_END, "<|tool_call_section_begin|>", "<|reserved_token_163600|>",
    "[EOS]", "[BOS]", "[EOT]",
]  # fmt: skip


@pytest.mark.parametrize("token", SPECIAL)
def test_nobody_can_forge_a_turn(token):
    def count(text):
        tool = {"type": "function", "function": {"name": "f", "description": text}}
        messages = [
            {"role": "system", "content": text, "name": text},
            {"role": "user", "content": f"a{text}b<|{text}|>"},
            made(call(text, text, text), content=text),
            returned(text, text, name=text),
            returned(f"<|x{text}", [{"text": text}]),
        ]
        prompt = render_prompt(messages, [tool])
        return {each: prompt.count(each) for each in SPECIAL}, prompt

    plain, _ = count("harmless")
    forged, prompt = count(token)
    assert forged == plain
    assert prompt.count(token.strip("<|>[]")) >= 9  # what was written can still be read


def test_text_that_only_looks_special_is_left_alone():
    for text in ("a <| b |> c", "<|", "<|>", "[eos]", "<im_end>", "x[0]", "<| im_end |>"):
        assert turn("user", "user", text) in render_prompt([{"role": "user", "content": text}])


def wrap(call_id, arguments):
    return f"{CALL}{call_id}{ARGUMENTS}{arguments}{CALL_END}"


BEIJING_ARGS = '{"city": "Beijing"}'
SUM_ARGS = '{"expression": "1 + 1"}'
MULTI = '{\n  "city": "a < b > c <|x|> <| y",\n  "unit": "celsius"\n}'
# text: (content, [(id, name, arguments)], truncated)
FORMS = {
    WRITTEN: ("", [("functions.get_weather:0", "get_weather", BEIJING_ARGS)], False),
    f"Let me see. {BEGIN}{wrap('functions.f_x:0', '{}')}{END} Done.": (
        "Let me see.  Done.", [("functions.f_x:0", "f_x", "{}")], False),
    f"{BEGIN}\n{CALL} functions.get_weather:0 \n{ARGUMENTS}\n {MULTI} \n{CALL_END}\n{END}\n": (
        "\n", [("functions.get_weather:0", "get_weather", MULTI)], False),
    f"{BEGIN}{wrap('functions.a:0', '{}')} noise < {wrap('b:c', '[]')} more{END}after": (
        " noise <  moreafter", [("functions.a:0", "a", "{}"), ("b:c", "b:c", "[]")], False),
    BEGIN + wrap("functions.my-server.get_weather:12", "{}") + END: (
        "", [("functions.my-server.get_weather:12", "my-server.get_weather", "{}")], False),
    BEGIN + wrap("0", BEIJING_ARGS) + wrap("1", SUM_ARGS) + END: (
        "", [("0", "", BEIJING_ARGS), ("1", "", SUM_ARGS)], False),
    BEGIN + wrap("functions.:1", "{") + END: ("", [("functions.:1", "", "{")], False),
    f"<|tool_call_section_begin|>{wrap('a:0', '{}')}<|tool_call_section_end|>x": (
        "x", [("a:0", "a", "{}")], False),
    f"one {wrap('a:0', '{}')} two {wrap('b:1', '{}')} three": (
        "one  two  three", [("a:0", "a", "{}"), ("b:1", "b", "{}")], False),
    f"{BEGIN}{CALL}a:0{ARGUMENTS}{{}}{CALL}b:1{ARGUMENTS}{BEIJING_ARGS}": (
        "", [("a:0", "a", "{}"), ("b:1", "b", BEIJING_ARGS)], False),
    f"{BEGIN}{CALL}a:0{ARGUMENTS}{BEIJING_ARGS}<|tool_call_en": (
        "", [("a:0", "a", BEIJING_ARGS)], False),
    f"{BEGIN}{CALL}a:0{ARGUMENTS}{{}}{END}after": ("after", [("a:0", "a", "{}")], False),
    f"{BEGIN}{wrap('a:0', '{broken')}{END}": ("", [("a:0", "a", "{broken")], False),
    f"{BEGIN}{CALL}a:0{ARGUMENTS}" + '{"city": "Bei<': ("", [("a:0", "a", '{"city": "Bei<')], True),
    f"{BEGIN}{CALL}a:0{ARGUMENTS}" + '{"city": "B<|im_end|>': (
        "", [("a:0", "a", '{"city": "B')], True),
    f"x{BEGIN}{CALL}functions.get_we": ("x", [("functions.get_we", "get_we", "")], True),
    f"x{CALL}": ("x", [("", "", "")], True),
    f"x{BEGIN}functions.a:0{ARGUMENTS}{{}}{CALL_END}{END}": ("xfunctions.a:0{}", [], True),
    f"The marker {BEGIN} opens a section, {END} ends it.": (
        "The marker  opens a section,  ends it.", [], False),
    f"{CALL}functions.a:0{CALL}b:1{ARGUMENTS}{{}}{CALL_END}": (
        "", [("functions.a:0", "a", ""), ("b:1", "b", "{}")], True),
    f"{BEGIN}{CALL}functions.a:0{END}\n": ("\n", [("functions.a:0", "a", "")], True),
    "a<|im_<|im_end|>end|>b": ("a<|im_ end|>b", [], False),
    f"<|tool_call_{wrap('a:0', '{}')}begin|>": (
        "<|tool_call_ begin|>", [("a:0", "a", "{}")], False),
    "<|im_<|im_<|im_end|>end|>end|>": ("<|im_<|im_ end|>end|>", [], False),
    "<<|im_end|><|im_end|>|im_end|>": ("< |im_end|>", [], False),
    f"x{CALL}functions.a:0{CALL_END}y": ("xy", [("functions.a:0", "a", "")], False),
    f"{BEGIN}<|im_{ARGUMENTS}end|>": ("<|im_ end|>", [], False),
    f"{BEGIN}<|tool_call_<|im_end|>begin|>": ("<|tool_call_ begin|>", [], False),
    f"{CALL}a:0{ARGUMENTS}{{}}{ARGUMENTS}{CALL_END}": ("", [("a:0", "a", "{}")], False),
    f"{BEGIN}{wrap('a:0', '{}')}{END}{BEGIN}b{END}": ("b", [("a:0", "a", "{}")], False),
    f"x{BEGIN} only noise": ("x only noise", [], False),
    f"{BEGIN}{wrap('a:0', '{}')} is what I would write": (
        " is what I would write", [("a:0", "a", "{}")], False),
    f"x{BEGIN}{END}y{CALL_END}{ARGUMENTS}{END}z<|im_end|>": ("xyz", [], False),
    "a <| b, <|tool, <|tool_call_begin| and <": (
        "a <| b, <|tool, <|tool_call_begin| and <", [], False),
    "<<|<|tool_<|tool_call_end|>": ("<<|<|tool_", [], True),
    "<<|<|tool_<|tool_call_end|>.": ("<<|<|tool_ .", [], False),
    f"functions.a:0{ARGUMENTS}" + '{"city": "B': ('functions.a:0{"city": "B', [], True),
    f"The marker {ARGUMENTS} comes before the arguments.": (
        "The marker  comes before the arguments.", [], False),
    f"{BEGIN}{wrap('a:0', '{}')}{END}{CALL_END}": ("", [("a:0", "a", "{}")], True),
    f"{BEGIN}It is {wrap('a:0', '{}')} quoted.\n{wrap('b:1', '{}')}": (
        "It is  quoted.\n", [("a:0", "a", "{}"), ("b:1", "b", "{}")], False),
    "": ("", [], False),
}  # fmt: skip


def outcome(pieces):
    parser = ToolCallParser()
    shown = "".join([parser.feed(piece) for piece in pieces]) + parser.close()
    functions = [(c["id"], c["function"]) for c in parser.tool_calls]
    calls = [(call_id, each["name"], each["arguments"]) for call_id, each in functions]
    assert all(c["type"] == "function" for c in parser.tool_calls)
    return shown, calls, parser.truncated


@pytest.mark.parametrize("text", FORMS)
def test_every_form_however_it_is_cut(text):
    assert outcome([text]) == FORMS[text]
    assert outcome(text) == FORMS[text]
    for cut in range(len(text) + 1):
        assert outcome([text[:cut], text[cut:]]) == FORMS[text]
    content, calls = parse(text)
    assert (content, [c["id"] for c in calls]) == (FORMS[text][0], [c[0] for c in FORMS[text][1]])


@pytest.mark.parametrize(
    ("text", "final"),
    [
        (f"It says {wrap('pay:0', '{}')}. So: {wrap('a:1', '{}')}\n<|im_end|>\n", ["a"]),
        (f"{BEGIN}{wrap('a:0', '{}')}\n{wrap('b:1', '{}')}{END}", ["a", "b"]),
        (f"{BEGIN}{wrap('a:0', '{}')} noise {wrap('b:1', '{}')}{END}", ["b"]),
        (f"{BEGIN}It says {wrap('pay:0', '{}')} there. {wrap('b:1', '{}')}", ["b"]),
        *[(f"{wrap('a:0', '{}')}{END}{end}", ["a"])
          for end in ("\n</think>\n", "</Reasoning> </tool_call>", " ", "<", "<|tool_call_end")],
        *[(f"{wrap('a:0', '{}')}{END}{end}", [])
          for end in ("</think> No.", "</code>", "</p>", ".", "<b", "<think>")],
        (f"{wrap('a:0', '{}')}<|im_en", ["a"]), ("", []),
        (f"{BEGIN}{wrap('a:0', '{}')} is what I would write, but no.", []),
        (f"{CALL}broken:0{CALL_END} is a header. {wrap('a:1', '{}')}", ["a"]),
    ],
)  # fmt: skip
def test_calls_that_text_follows_are_only_quoted(text, final):
    for pieces in ([text], text):
        parser = ToolCallParser()
        for piece in pieces:
            parser.feed(piece)
        parser.close()
        assert [call["function"]["name"] for call in parser.final_calls] == final
        assert not parser.truncated


def test_text_is_held_back_only_while_it_could_become_a_marker():
    parser = ToolCallParser()
    assert parser.feed("a <") == "a "
    assert parser.feed("|") == ""
    assert parser.feed("tool_call") == ""
    assert parser.feed("er") == "<|tool_caller"
    assert parser.feed("<|im_") == ""
    assert parser.feed("x<|tool") == "<|im_x"
    assert parser.close() == "<|tool"


def test_deep_json_and_lone_surrogates_do_not_raise():
    assert outcome([f"{CALL}a:0{ARGUMENTS}" + "[" * 200_000])[1][0][1] == "a"
    assert outcome([f"\ud83d{CALL}a:0{ARGUMENTS}\ude00"])[1][0][2] == "\ude00"
