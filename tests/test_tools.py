"""The two tools, and run_tool."""

import ast
import asyncio
import json
import subprocess
import sys
import time
import tracemalloc
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path

import pytest

import tools
from tools import TOOLS, run_tool
from tools.calculator import CALCULATOR_TOOL, calculate
from tools.errors import quote
from tools.messages import json_object
from tools.weather import CITIES, WEATHER_TOOL, get_weather


def test_the_weather_is_the_same_every_time():
    beijing = {"condition": "sunny", "temperature": 22, "unit": "celsius", "humidity": 40}
    assert len(CITIES) >= 10 and all(get_weather(city)["simulated"] for city in CITIES)
    assert get_weather("Beijing") == {"city": "Beijing", **beijing, "simulated": True}


@pytest.mark.parametrize("city", ["new york", "  NEW YORK ", "New York"])
def test_city_in_any_case_and_spacing(city):
    assert get_weather(city)["city"] == "New York"


def test_fahrenheit_is_converted_and_rounded():
    for city, (_, celsius, _) in CITIES.items():
        converted = get_weather(city, "fahrenheit")
        assert converted["temperature"] == round(celsius * 1.8 + 32, 1)
        assert converted["unit"] == "fahrenheit"


def test_unknown_city_lists_the_known_ones():
    error = get_weather("Atlantis")["error"]
    assert "Atlantis" in error and all(city in error for city in CITIES)
    assert "kelvin" in get_weather("Paris", "kelvin")["error"]
    assert "error" in get_weather(None)


@pytest.mark.parametrize(
    ("expression", "result"),
    [
        ("100 / 4", 25), ("0.1 + 0.2", 0.3), ("1.1 * 1.1", 1.21), ("4.35 * 100", 435),
        ("2 ** 10", 1024), ("7 // 2", 3), ("-7 % 3", 2), ("+3 - -2", 5), ("2 ** -1", 0.5),
        ("(1 + 2) * 3", 9), ("1_000 * 2", 2000), ("1e3", 1000), (".5 + 1.", 1.5),
        ("123456789 * 987654321", 121932631112635269), ("10 ** 20 / 10", 10**19),
        ("2 × 3 ÷ 4 − 1 · 2", -0.5), ("sqrt(16)", 4), ("abs(-3)", 3), ("round(2.567, 1)", 2.6),
        ("min(3, 1, 2) + max(1, 2)", 3), ("floor(2.7) + ceil(2.1)", 5), ("log(e)", 1),
        ("log(8, 2)", 3), ("log10(1000)", 3), ("exp(0)", 1), ("sin(pi)", 0), ("cos(pi / 2)", 0),
        ("tan(0)", 0), ("tan(pi)", 0), ("sin(1000 * pi)", 0),
        ("sin(1.23456789e-10)", 1.23456789e-10), ("sin(1e22)", -0.8522008497671888), ("round(2.5)", 2),
        ("1.7976931348623157e308", 1.7976931348623157e308), ("-1.7976931348623157e308", -1.7976931348623157e308), ("pi", 3.141592653589793), ("1 / 3", 1 / 3), ("1 + " * 120 + "1", 121),
        (" 1 + 1 ", 2), ("1e15 + 0.5", 1e15 + 0.5),
        ("1 % 0.1", 0), ("6 // 0.05", 120), ("floor(0.29 * 100)", 29), ("10**20 + 0.5 - 10**20", 0.5),
        ("sqrt(2)", 1.4142135623730951), ("1.0001 ** 10000", 2.7181459268249255),
        ("1e-999999999", 0), ("2 ** -5000", 0), ("(-1) ** (10 ** 299)", 1), ("max(100, 200)", 200),
        ("17 % (3+2)", 2), ("7 % -3", -2), ("17 %5", 2), ("-" * 100 + "1", 1)
    ],
)  # fmt: skip
def test_calculate(expression, result):
    outcome = calculate(expression)
    assert outcome == {"expression": expression, "result": result}
    assert type(outcome["result"]) is type(result)


@pytest.mark.parametrize(
    ("expression", "hint"),
    [
        ("2 ^ 3", "**"), ("1,000", "1000"), ("1 / 0", "Division by zero"), ("5 % 0", "zero"),
        ("0 ** -1", "zero"), ("sqrt(-1)", "not defined"), ("log(0)", "not defined"),
        ("(-8) ** (1 / 3)", "real"), ("1e400", "too large"), ("1e308 * 10", "too large"),
        ("exp(1000)", "too large"), ("1e308 * 10 - 1e308 * 10", "too large"),
        ("9**9**9", "300 digits"), ("10 ** 5000", "300 digits"), ("9" * 400, "300 digits"),
        ("(10**100) ** (10**100)", "300 digits"), ("10 ** 299 * 10", "300 digits"),
        ("floor(1e308)", "300 digits"), ("round(1234, -10 ** 9)", "round"),
        ("round(1.5, 1.5)", "round"), ("min(5)", "arguments"), ("abs(1, 2)", "arguments"),
        ("max(1,000, 900)", "1000"), ("round(1,234)", "1000"), ("1,00,000", "1000"),
        ("max(100,200)", "space after the comma"), ("1, 5", "comma"), ("10% + 5", "ten percent"),
        ("200 * 10%", "ten percent"), ("2**" * 60 + "1", "300 digits"), ("1e999999999", "too large"),
        ("1" * 501, "500"), ("", "complete"), ("2 +", "complete"), ("2 3", "complete"),
        ("007", "complete"), ("x", "Only"), ("pi.real", "Only"), ("'a'", "Only"),
        ("f'{1}'", "Only"), ("[1]", "Only"), ("{1}", "Only"), ("1 < 2", "Only"),
        ("lambda: 1", "Only"), ("[x for x in (1,)]", "Only"), ("(x := 1)", "Only"),
        ("max(*(1, 2))", "Only"), ("max(1, **2)", "Only"), ("sqrt(x=4)", "Only"), ("True", "Only"),
        ("None", "Only"), ("1 if 1 else 2", "Only"), ("not 1", "Only"), ("1 and 2", "Only"),
        ("~1", "Only"), ("1 @ 2", "Only"), ("1j", "Only"), ("2pi", "Only"), ("0x10", "Only"),
        ("1if 1else 2", "Only"), ("__import__('os')", "Only"), ("open(1)", "Unknown function"),
        ("().__class__", "Only"), ("\x00", "Only"), ("\ud800", "Only"), ("１ + １", "Only"),
        ("1; 2", "Only"), ("await 1", "Only"), ("sqrt", "Only"), ("pi(1)", "Unknown"),
        ("...", "Only"),
    ],
)  # fmt: skip
def test_calculate_refuses(expression, hint):
    outcome = calculate(expression)
    assert list(outcome) == ["error"]
    assert hint in outcome["error"]


@pytest.mark.parametrize("value", [None, 5, b"1", ["1"], {}])
def test_calculate_refuses_what_is_no_string(value):
    assert "string" in calculate(value)["error"]


def test_calculate_stays_quick_and_small():
    hostile = [
        "9**9**9", "(10**100)**(10**100)", "2**" * 160 + "2", "(" * 490, "-" * 500, "9" * 500,
        "(1+" * 49 + "1" + ")" * 49, "max(1," * 49 + "1 1" + ")" * 49, "10**299*" * 60 + "1",
        "round(10**299,-10**9)", "1" * 10**7, "exp(" * 49 + "1" + ")" * 49, "1/" * 249 + "3",
        "2**-" * 120 + "2", "(10**299)**-(10**299)", "(-1)**(10**299)", "1**" * 40 + "9",
    ]  # fmt: skip
    tracemalloc.start()
    try:
        for expression in hostile:
            start = time.process_time()
            calculate(expression)
            assert time.process_time() - start < 0.05, expression[:40]
        assert tracemalloc.get_traced_memory()[1] < 3_000_000 + 10**7  # one input is that long
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("name", "use"),
    [
        ("weather", "get_weather('paris')['city'] == 'Paris'"),
        ("calculator", "calculate('6 * 7')['result'] == 42"),
        ("kimi_format", "parse('<|tool_call_begin|>a:0')[1][0]['id'] == 'a:0'"),
    ],
)
def test_each_can_be_copied_alone(tmp_path, name, use):
    source = (Path(tools.__file__).parent / f"{name}.py").read_text(encoding="utf-8")
    (tmp_path / "alone.py").write_text(source, encoding="utf-8")
    command = [sys.executable, "-c", f"from alone import *; assert {use}"]
    assert subprocess.run(command, cwd=tmp_path, check=False).returncode == 0


def test_no_tool_evaluates_code():
    for file in Path(tools.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in ("eval", "exec", "compile", "__import__")


def test_schemas_are_what_every_engine_accepts():
    assert json.loads(json.dumps(TOOLS)) == [WEATHER_TOOL, CALCULATOR_TOOL]
    for tool in TOOLS:
        assert tool["type"] == "function" and tool["function"]["description"]
        for schema in tool["function"]["parameters"]["properties"].values():
            assert schema["type"] and schema["description"]


@pytest.mark.parametrize(
    ("name", "arguments", "hint"),
    [
        ("get_time", "{}", "get_weather, calculate"), (None, "{}", "no tool"),
        ([], "{}", "no tool"), ("calculate", "{", "JSON object"), ("calculate", "", "'expression'"),
        ("calculate", "[1]", "JSON object"), ("calculate", "null", "JSON object"),
        ("calculate", None, "'expression'"), ("calculate", "[" * 99999, "JSON object"),
        ("calculate", '{"expression": NaN}', "JSON object"), ("calculate", '{"expression": 1e999}', "JSON object"),
        ("calculate", "{}", "'expression'"), ("calculate", '{"expression": 1}', "string"),
        ("calculate", '{"expression": "1", "x": 1}', "'x'"),
        ("get_weather", '{"city": "Paris", "unit": "kelvin"}', "celsius, fahrenheit"),
        ("get_weather", '{"city": true}', "string"), ("get_weather", '{"city": "X"}', "Known"),
    ],
)  # fmt: skip
def test_run_tool_tells_the_model_what_to_change(name, arguments, hint):
    result = run_tool(name, arguments)
    assert list(result) == ["error"] and hint in result["error"]


def test_run_tool_runs():
    assert run_tool("functions.calculate:0", '{"expression": "6 * 7"}')["result"] == 42
    assert run_tool("get_weather", '{"city": "paris", "unit": "fahrenheit"}')["city"] == "Paris"


def run_mine(function, arguments="{}", **schema):
    """Run a tool that the caller brings."""
    schema = {"name": "mine", "description": "Mine", **schema}
    return run_tool("mine", arguments, [{"type": "function", "function": schema}], {"mine": function})


def test_run_tool_survives_what_a_tool_does():
    def fail():
        raise RuntimeError("the disk is full")

    assert "RuntimeError: the disk is full" in run_mine(fail)["error"]
    assert run_mine(lambda: "plain text") == {"result": "plain text"}
    assert run_mine(lambda: {"when": Path("x"), "big": 1}) == {"when": "x", "big": 1}
    assert "error" in run_mine(lambda: 10**5000)
    assert "error" in run_mine(lambda: {"x": float("nan")})  # JSON has no NaN


@pytest.mark.parametrize("arguments", ["", " ", None, "{}"])
@pytest.mark.parametrize(
    "parameters",
    [None, {}, {"type": "object"}, {"properties": {}, "required": None}],
)
def test_a_tool_without_parameters(parameters, arguments):
    assert run_mine(lambda: {"ok": 1}, arguments, parameters=parameters) == {"ok": 1}
    assert "error" in run_mine(lambda: {"ok": 1}, '{"x": 1}', parameters=parameters)


def test_tools_that_the_caller_brings_are_the_only_ones():
    result = run_tool("calculate", "{}", [], {})
    assert result["error"].startswith("There is no tool 'calculate'")


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        ("string", '"a"', "1"), ("number", "1.5", "true"), ("number", "1", '"1"'),
        ("integer", "1", "1.5"), ("integer", "1", "true"), ("boolean", "true", "1"),
        ("array", "[]", "{}"), ("object", "{}", "[]"), ("null", "null", "0"),
        (["string", "null"], "null", "1"),
    ],
)  # fmt: skip
def test_run_tool_checks_types(kind, good, bad):
    def run(value):
        parameters = {"properties": {"x": {"type": kind, "description": "x"}}}
        return run_mine(lambda x: {"got": x}, f'{{"x": {value}}}', parameters=parameters)

    assert run(good) == {"got": json.loads(good)}
    assert "type" in run(bad)["error"]


def test_a_parameter_without_a_type_takes_anything():
    parameters = {"properties": {"x": {"description": "x"}}}
    for value in ("true", "1", '"a"', "null", "[]"):
        got = run_mine(lambda x: {"got": x}, f'{{"x": {value}}}', parameters=parameters)
        assert got == {"got": json.loads(value)}


CITY = {"type": "string"}


@pytest.mark.parametrize(
    ("schema", "arguments", "got"),
    [
        ({"properties": {"x": CITY}}, '{"x": "a\n\tb"}', {"x": "a\n\tb"}),  # raw line breaks
        ({"properties": {"x": CITY}}, json.dumps('{"x": "a"}'), {"x": "a"}),  # JSON within JSON
        ({"properties": {"x": CITY}}, '{"x": null}', {}),
        ({"properties": {"x": {"enum": ["a"]}}}, '{"x": null}', {}),
        ({"properties": {"x": {"type": ["string", "null"]}}}, '{"x": null}', {"x": None}),
        ({"properties": {"x": {"type": "integer"}}}, '{"x": 5.0}', {"x": 5}),
        ({"properties": {"x": {"type": "integer", "enum": [5]}}}, '{"x": 5.0}', {"x": 5}),
        ({"properties": {}, "additionalProperties": True}, '{"y": 1}', {"y": 1}),
        ({"properties": {}, "additionalProperties": {"type": "string"}}, '{"y": 1}', {"y": 1}),
        ({"properties": {"x": True}}, '{"x": [1]}', {"x": [1]}), ({}, '{"x": 1}', {"x": 1}),
        ({"properties": {"x": {"type": "file"}}}, '{"x": 1}', {"x": 1}),
    ],
)  # fmt: skip
def test_what_can_be_understood_is(schema, arguments, got):
    assert run_mine(lambda **values: {"got": values}, arguments, parameters=schema) == {"got": got}


def test_what_the_schema_does_not_allow_is_refused():
    required = {"properties": {"x": CITY}, "required": ["x"]}
    closed = {"properties": {}, "additionalProperties": False}
    for schema, arguments in ((required, '{"x": null}'), (closed, '{"y": 1}')):
        assert "error" in run_mine(lambda **values: values, arguments, parameters=schema)


ODD = [None, "x", {}, {"type": "web_search"}, {"function": None}, {"function": {}}]


def test_tools_of_another_shape_disturb_nobody():
    search = {"type": "builtin_function", "function": {"name": "$web_search"}}
    found = run_tool("$web_search", '{"id": 1}', [*ODD, search], {"$web_search": lambda **given: given})
    assert found == {"id": 1}
    for tools_ in (ODD, 5, None, [{"function": {"name": ["x"]}}]):
        assert "error" in run_tool("x", "{}", tools_, {"x": dict})
    for name, arguments in ((None, None), (5, 5), ("get_weather", {"city": {}}), ("", "[" * 10**5)):
        assert "error" in run_tool(name, arguments)


def test_an_async_function_is_awaited():
    async def wait():
        await asyncio.sleep(0)
        return {"ok": True}

    async def notebook():  # a loop is running here
        return run_mine(wait)

    assert run_mine(wait) == asyncio.run(notebook()) == {"ok": True}


@pytest.mark.parametrize(
    ("returned", "text"),
    [(date(2026, 1, 2), "2026-01-02"), (datetime(2026, 1, 2), "2026-01-02 00:00:00"),
     (Decimal("0.10"), "0.10"), (Path("a"), "a"), (object(), None), ({1}, None), (print, None)],
)  # fmt: skip
def test_only_what_text_says_becomes_text(returned, text):
    result = run_mine(lambda: {"x": returned})
    assert result == {"x": text} if text else "is not JSON" in result["error"]


def test_json_object_and_quote():
    assert json_object('{"a": 1}') == {"a": 1}
    for text in ("", " ", None, {}):
        assert json_object(text) == {}
    for text in ("[1]", "1", "null", "{", 7, "[" * 99999, '{"x": -Infinity}', '{"x": 1e999}', "9" * 5000):
        assert json_object(text) == {"invalid_arguments": text}
    assert quote({"message": "too\n many"}) == ': "too many"'
    assert quote({"detail": "gone"}) == ': "gone"' and quote("plain") == ': "plain"'
    assert quote("<!DOCTYPE html><p>") == quote({"message": "<html>"}) == quote(None) == ""
    assert len(quote("x" * 5000)) < 310
