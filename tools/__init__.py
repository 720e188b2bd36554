"""The registry: the tools that are offered to the model, and `run_tool`, which runs one call.

To add a tool, write a function and its schema (see weather.py), and add them to TOOLS and FUNCTIONS
below. Or pass your own: `run_tool` and `run_loop` take `tools=` and `functions=`.
"""

import json
import re
from collections.abc import Callable, Coroutine, Iterable
from datetime import date, time
from decimal import Decimal
from pathlib import PurePath
from traceback import format_exception_only
from typing import Any

from .calculator import CALCULATOR_TOOL, calculate
from .messages import Json, json_object
from .weather import WEATHER_TOOL, get_weather

TOOLS: list[Json] = [WEATHER_TOOL, CALCULATOR_TOOL]
FUNCTIONS: dict[str, Callable[..., Any]] = {"get_weather": get_weather, "calculate": calculate}

# JSON Schema's type names, and the types of the values that json.loads makes of them.
_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,), "number": (int, float), "integer": (int,), "boolean": (bool,),
    "array": (list,), "object": (dict,), "null": (type(None),),
}  # fmt: skip


def run_tool(
    name: str, arguments: str, tools: list[Any] = TOOLS, functions: dict[str, Any] = FUNCTIONS
) -> Json:
    """Run one tool call of the model and return the result, a dict of JSON values.

    `name` and `arguments` (JSON text) are as the model wrote them; `tools` has the schemas,
    `functions` the functions by name, which may be async. Only Ctrl-C is raised: whatever else goes
    wrong becomes {"error": "…"}, which tells the model what to change. Only the top level of a
    schema is checked.
    """
    try:
        schemas = {key: value for key, value in schemas_by_name(tools).items() if key in functions}
        name = intended_tool(str(name), schemas)
        if name not in schemas:
            offered = ", ".join(schemas) or "none"
            return {"error": f"There is no tool {name!r}. Available: {offered}."}
        values = json_object(arguments)
        if "invalid_arguments" in values:
            return {"error": f"The arguments of {name} must be one JSON object. Write them again."}
        problem = _problem(name, values, schemas[name].get("parameters") or {})
        result = {"error": problem} if problem else _finished(functions[name](**values))
        result = json.loads(json.dumps(result, default=_as_text, allow_nan=False))
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a tool may also call sys.exit, or be cancelled
        what = "".join(format_exception_only(error)).strip()
        return {"error": f"{name if isinstance(name, str) else 'The tool'} failed: {what}"}
    return result if isinstance(result, dict) else {"result": result}


def schemas_by_name(tools: Iterable[Any]) -> dict[str, Json]:
    """The functions in `tools`, by name; tools that the server runs itself are left out."""
    functions = [tool.get("function") for tool in tools if isinstance(tool, dict)]
    return {each["name"]: each for each in functions if isinstance(each, dict) and "name" in each}


def intended_tool(name: str, offered: Iterable[str]) -> str:
    """The offered tool that a name means; the name itself if none or several fit. Now and then, the
    model writes the id as the name: functions.calculate:0, functionscalculate0."""
    form, written = r"(functions)?[._]?{}([:._]?\d+)?", "".join(name.split())
    fits = [each for each in offered if re.fullmatch(form.format(re.escape(each)), written)]
    return fits[0] if len(fits) == 1 and name not in offered else name


def _problem(name: str, arguments: Json, parameters: Json) -> str | None:
    """What is wrong with `arguments` according to the schema, as a sentence for the model, or None.
    Harmless slips are corrected: a null that means "left out", and 5.0 for 5."""
    properties, required = parameters.get("properties") or {}, parameters.get("required") or []
    others = parameters.get("additionalProperties", "properties" not in parameters)
    for key in required:
        if key not in arguments:
            return f"{name} needs the parameter {key!r}."
    for key, value in list(arguments.items()):
        schema = properties.get(key, others)
        if schema is False:
            return f"{name} has no parameter {key!r}. It takes: {', '.join(properties) or 'none'}."
        schema = schema if isinstance(schema, dict) else {}  # `true` allows anything
        types, choices = schema.get("type") or list(_TYPES), schema.get("enum") or [value]
        types = [types] if isinstance(types, str) else types
        if isinstance(value, float) and value.is_integer() and "number" not in types:
            value = arguments[key] = int(value)
        fits = any(type(value) in _TYPES.get(each, [type(value)]) for each in types)
        if value is None and key not in required and not (fits and None in choices):
            del arguments[key]
        elif not fits:
            return f"The parameter {key!r} of {name} must be of type {' or '.join(types)}."
        elif value not in choices:
            known = ", ".join(map(str, choices))
            return f"The parameter {key!r} of {name} must be one of: {known}."
    return None


def _finished(result: Any) -> Any:
    """The result of a function; if it is async, wait for it."""
    if not isinstance(result, Coroutine):
        return result
    import asyncio  # it takes a while, and few tools need it
    from concurrent.futures import ThreadPoolExecutor

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(result)
    with ThreadPoolExecutor(1) as pool:  # in a notebook, this thread's loop is already running
        return pool.submit(asyncio.run, result).result()


def _as_text(value: Any) -> str:
    """The text of a value that JSON has no type for, if the text says it all."""
    if isinstance(value, (date, time, Decimal, PurePath)):
        return str(value)
    raise TypeError(f"the tool returned a {type(value).__name__}, which is not JSON")
