"""The two tools, and run_tool."""

import asyncio
import gc
import json
import sys
import time
import tracemalloc
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from tools import TOOLS, run_tool
from tools.calculator import CALCULATOR_TOOL, calculate
from tools.weather import CITIES, WEATHER_TOOL, get_weather


def test_the_weather():
    beijing = {"condition": "sunny", "temperature": 22, "unit": "celsius", "humidity": 40}
    assert get_weather("Beijing") == {"city": "Beijing", **beijing, "simulated": True}
    assert len(CITIES) >= 10 and all(get_weather(city)["simulated"] for city in CITIES)
    for city, (_, celsius, _) in CITIES.items():
        converted = {"temperature": round(celsius * 1.8 + 32, 1), "unit": "fahrenheit"}
        assert get_weather(city, "fahrenheit").items() >= converted.items()
    for city in ("new york", "  NEW YORK ", "New York"):
        assert get_weather(city)["city"] == "New York"
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
        ("sin(1.23456789e-10)", 1.23456789e-10), ("sin(1e22)", -0.8522008497671888),
        ("1.7976931348623157e308", sys.float_info.max), ("round(2.5)", 2), ("1 / 3", 1 / 3),
        ("-1.7976931348623157e308", -sys.float_info.max), ("pi", 3.141592653589793), (" 1 + 1 ", 2),
        ("1e15 + 0.5", 1e15 + 0.5), ("1 % 0.1", 0), ("6 // 0.05", 120), ("floor(0.29*100)", 29),
        ("10**20 + 0.5 - 10**20", 0.5), ("sqrt(2)", 1.4142135623730951),
        ("1.0001 ** 10000", 2.7181459268249255), ("1e-999999999", 0), ("2 ** -5000", 0),
        ("(-1) ** (10 ** 299)", 1), ("max(100, 200)", 200), ("1+" * 120 + "1", 121),
        ("17 % (3+2)", 2), ("7 % -3", -2), ("17 %5", 2), ("-" * 100 + "1", 1),
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
        ("9**9**9", "300 digits"), ("2 ** 1000", "300 digits"), ("9" * 400, "300 digits"),
        ("(10**100) ** (10**100)", "300 digits"), ("10 ** 299 * 10", "300 digits"),
        ("floor(1e308)", "300 digits"), ("-(10 ** 299) * 10", "300 digits"),
        ("exp(600) * exp(600)", "300 digits"), ("round(1234, -10 ** 9)", "round"),
        ("round(1.5, 1.5)", "round"), ("min(5)", "arguments"), ("abs(1, 2)", "arguments"),
        ("max(1,000, 900)", "1000"), ("round(1,234)", "1000"), ("1,00,000", "1000"),
        ("max(100,200)", "space after the comma"), ("1, 5", "comma"), ("10% + 5", "ten percent"),
        ("200 * 10%", "ten percent"), ("2**" * 60 + "1", "300 digits"), ("1e999999999", "too l"),
        ("1" * 501, "500"), ("", "complete"), ("2 +", "complete"), ("2 3", "complete"),
        ("007", "complete"), ("x", "Only"), ("pi.real", "Only"), ("'a'", "Only"),
        ("f'{1}'", "Only"), ("[1]", "Only"), ("{1}", "Only"), ("1 < 2", "Only"),
        ("lambda: 1", "Only"), ("[x for x in (1,)]", "Only"), ("(x := 1)", "Only"),
        ("max(*(1, 2))", "Only"), ("max(1, **2)", "Only"), ("sqrt(x=4)", "Only"), ("True", "Only"),
        ("None", "Only"), ("1 if 1 else 2", "Only"), ("not 1", "Only"), ("1 and 2", "Only"),
        ("~1", "Only"), ("1 @ 2", "Only"), ("1j", "Only"), ("2pi", "Only"), ("0x10", "Only"),
        ("1if 1else 2", "Only"), ("__import__('os')", "Only"), ("open(1)", "Only"),
        ("().__class__", "Only"), ("\x00", "Only"), ("\ud800", "Only"), ("１ + １", "Only"),
        ("1; 2", "Only"), ("await 1", "Only"), ("sqrt", "Only"), ("pi(1)", "Only"),
        ("...", "Only"), *[(value, "string") for value in (None, 5, b"1", ["1"], {})],
    ],
)  # fmt: skip
def test_calculate_refuses(expression, hint):
    outcome = calculate(expression)
    assert list(outcome) == ["error"]
    assert hint in outcome["error"]


def test_calculate_stays_quick_and_small():
    hostile = [
        "9**9**9", "(10**100)**(10**100)", "2**" * 160 + "2", "(" * 490, "-" * 500, "9" * 500,
        "(1+" * 49 + "1" + ")" * 49, "max(1," * 49 + "1 1" + ")" * 49, "10**299*" * 60 + "1",
        "round(10**299,-10**9)", "1" * 10**7, "exp(" * 49 + "1" + ")" * 49, "1/" * 249 + "3",
        "2**-" * 120 + "2", "(10**299)**-(10**299)", "(-1)**(10**299)", "1**" * 40 + "9",
    ]  # fmt: skip
    gc.disable()  # collecting the whole test run's garbage would be counted, too
    try:
        for expression in hostile:
            start = time.process_time()
            calculate(expression)
            assert time.process_time() - start < 0.05, expression[:40]
        tracemalloc.start()
        for expression in hostile:
            calculate(expression)
        assert tracemalloc.get_traced_memory()[1] < 3_000_000 + 10**7  # one input is that long
    finally:
        tracemalloc.stop()
        gc.enable()


def test_schemas_are_what_every_engine_accepts():
    assert json.loads(json.dumps(TOOLS)) == [WEATHER_TOOL, CALCULATOR_TOOL]
    for tool in TOOLS:
        assert tool["type"] == "function" and tool["function"]["description"]
        for schema in tool["function"]["parameters"]["properties"].values():
            assert schema["type"] and schema["description"]


NO_OBJECTS = ("{", "[1]", "null", "[" * 99999, '{"expression": NaN}', '{"expression": 1e999}')
WRONG = [  # (name, arguments, words of the error)
    *[("calculate", text, "JSON object") for text in NO_OBJECTS],
    *[("calculate", text, "'expression'") for text in ("", " ", None, "{}")],
    *[(name, "{}", "no tool") for name in (None, [], 5, "", "functions.:0", "calculate_2nd")],
    ("get_time", "{}", "get_weather, calculate"), ("calculate", '{"expression": 1}', "string"),
    ("calculate", '{"expression": "1", "x": 1}', "'x'"), ("calculate", 5, "JSON object"),
    ("get_weather", '{"city": "Paris", "unit": "kelvin"}', "celsius, fahrenheit"),
    ("get_weather", '{"city": true}', "string"), ("get_weather", '{"city": "X"}', "Known"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "arguments", "hint"), WRONG)
def test_run_tool_tells_the_model_what_to_change(name, arguments, hint):
    result = run_tool(name, arguments)
    assert list(result) == ["error"] and hint in result["error"]


def test_a_name_is_the_one_tool_that_it_means():
    assert run_tool("functions.calculate:0", '{"expression": "6 * 7"}')["result"] == 42
    tools_ = [{"function": {"name": name}} for name in ("get", "get_1")]
    functions = {"get": lambda: "get", "get_1": lambda: "get_1"}
    assert run_tool("get_1", "{}", tools_, functions) == {"result": "get_1"}
    assert run_tool("functionsget2", "{}", tools_, functions) == {"result": "get"}
    assert "no tool" in run_tool("functions_get_1", "{}", tools_, functions)["error"]  # either
    for lists in (([],), (TOOLS, {})):
        assert "There is no tool 'calculate'" in run_tool("calculate", "{}", *lists)["error"]


def run_mine(function, arguments="{}", **schema):
    """Run a tool that the caller brings, in a list with some that have another shape."""
    odd = [None, "x", {}, {"type": "x", "name": "x"}, {"function": 7}, {"function": {"x": 7}}]
    mine = {"type": "builtin_function", "function": {"name": "$mine", **schema}}
    return run_tool("$mine", arguments, [*odd, mine], {"$mine": function})


def test_run_tool_raises_nothing_but_an_interrupt():
    async def fail():
        raise RuntimeError("the disk is full")

    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_mine(interrupted)
    assert "SystemExit" in run_mine(sys.exit)["error"]
    assert "RuntimeError: the disk is full" in run_mine(fail)["error"]
    assert "ZeroDivisionError" in run_mine(lambda: 1 / 0)["error"]
    for tools_ in (5, None, [{"function": {"name": ["x"]}}], [{"function": {"name": 7}}]):
        assert "error" in run_tool("x", "{}", tools_, {"x": dict, 7: dict})
    for parameters in (7, {"properties": 7}, {"required": 7}, {"properties": {"a": {"enum": 7}}}):
        assert "error" in run_mine(dict, '{"a": 1}', parameters=parameters)


TYPES = [  # (type, texts that fit, texts that do not)
    ("string", ['"a"'], ["1"]), ("number", ["1.5", "1", "5.0"], ["true", '"1"']),
    ("integer", ["1"], ["1.5", "true", '"1"']), ("boolean", ["true"], ["1"]),
    ("array", ["[]"], ["{}"]), ("object", ["{}"], ["[]"]), ("null", ["null"], ["0"]),
    (["string", "null"], ["null"], ["1"]), (["integer", "boolean"], ["true"], ["1.5"]),
    (None, ["true", "1", '"a"', "null", "[]"], []), ("file", ["1"], []),
]  # fmt: skip


def of_x(schema, **more):
    return {"properties": {"x": schema}, **more}


INTEGER, STRING, NOT = {"type": "integer", "enum": [5]}, {"type": "string"}, "must be of type"
PARAMETERS = [  # (the schema, the arguments, what the function gets or words of the error)
    *[(of_x({"type": kind}), f'{{"x": {text}}}', {"x": json.loads(text)} if text in fits else NOT)
      for kind, fits, others in TYPES for text in fits + others],
    *[(schema, text, {}) for schema in (None, {}, {"type": "object"}, {"properties": {}})
      for text in ("", " ", "{}")],
    (of_x(True), '{"x": [1]}', {"x": [1]}), (of_x(STRING), '{"x": "a\n\tb"}', {"x": "a\n\tb"}),
    (of_x(INTEGER), '{"x": 5.0}', {"x": 5}), (of_x(INTEGER), '{"x": 6}', "must be one of"),
    *[(of_x(schema), '{"x": null}', {}) for schema in (INTEGER, STRING, {"enum": ["a"]})],
    (of_x({"enum": ["a", None]}), '{"x": null}', {"x": None}), (None, '{"y": 1}', {"y": 1}),
    (of_x({}, required=["x"]), "{}", "needs the parameter 'x'"),
    (of_x(STRING, required=["x"]), '{"x": null}', NOT),
    (of_x(True), '{"y": 1}', "no parameter 'y'"),
    (of_x(True, additionalProperties=False), '{"y": 1}', "no parameter 'y'"),
    *[(of_x(True, additionalProperties=yes), '{"y": "a"}', {"y": "a"}) for yes in (True, STRING)],
    (of_x(True, additionalProperties=STRING), '{"y": 1}', NOT),
]  # fmt: skip


@pytest.mark.parametrize(("schema", "arguments", "outcome"), PARAMETERS)
def test_what_the_schema_allows_is_passed_and_nothing_else(schema, arguments, outcome):
    for written in (arguments, json.dumps(arguments)):  # JSON within a JSON string, too
        result = run_mine(lambda **values: {"got": repr(values)}, written, parameters=schema)
        assert result == {"got": repr(outcome)} or str(outcome) in result["error"]


def test_an_async_function_is_awaited():
    async def wait():
        await asyncio.sleep(0)
        return {"ok": 1}

    async def notebook():  # a loop is running here
        return run_mine(wait)

    assert run_mine(wait) == asyncio.run(notebook()) == {"ok": 1}


RETURNED = [  # (what the function returns, as JSON or None for an error)
    ("plain", "plain"), (7, 7), ([1, (2,)], [1, [2]]), (Path("a"), "a"), (Decimal("0.10"), "0.10"),
    (date(2026, 1, 2), "2026-01-02"), (datetime(2026, 1, 2), "2026-01-02 00:00:00"),
    *[(value, None) for value in (object(), {1}, print, b"a", float("nan"), 10**5000)],
]  # fmt: skip


@pytest.mark.parametrize(("returned", "got"), RETURNED, ids=range(len(RETURNED)))
def test_a_result_is_json_or_what_text_says(returned, got):
    plain, inside = run_mine(lambda: returned), run_mine(lambda: {"x": returned})
    if got is None:
        assert "failed" in plain["error"] and " at 0x" not in plain["error"]  # not its repr
        assert inside == plain
    else:
        assert (plain, inside) == ({"result": got}, {"x": got})
