"""The registry: the tools that are offered to the model, and `run_tool`, which runs one call.

To add a tool, write a function and its schema (see weather.py) and add them to TOOLS and FUNCTIONS
below. Or pass your own: `run_tool` and `run_loop` take `tools=` and `functions=`.
"""

import json
from collections.abc import Callable
from typing import Any

from .calculator import CALCULATOR_TOOL, calculate
from .kimi_format import function_name
from .weather import WEATHER_TOOL, get_weather

Json = dict[str, Any]  # a JSON object
TOOLS: list[Json] = [WEATHER_TOOL, CALCULATOR_TOOL]
FUNCTIONS: dict[str, Callable[..., Any]] = {"get_weather": get_weather, "calculate": calculate}

# The Python types of JSON Schema's types.
_TYPES: dict[str, type | tuple[type, ...]] = {
    "string": str, "number": (int, float), "integer": int, "boolean": bool, "array": list,
    "object": dict, "null": type(None),
}  # fmt: skip


def json_object(arguments: Any) -> Json:
    """The JSON object that a call's arguments hold, given as text or as a dict; {} if empty.

    Anything else (broken JSON, a list, NaN) comes back as {"invalid_arguments": arguments}.
    """
    try:
        value = json.loads(arguments) if isinstance(arguments, str) else arguments or {}
        json.dumps(value, allow_nan=False)  # NaN, Infinity and 1e999 are not JSON
    except (TypeError, ValueError, RecursionError):
        value = None if str(arguments).strip() else {}
    return value if isinstance(value, dict) else {"invalid_arguments": arguments}


def run_tool(
    name: str, arguments: str, tools: list[Any] = TOOLS, functions: dict[str, Any] = FUNCTIONS
) -> Json:
    """Run one tool call of the model and return the result.

    `name` and `arguments` (JSON text) are as the model wrote them; `tools` has the schemas,
    `functions` the functions by name. Returns the function's result as a dict of JSON values. Never
    raises: an unknown tool, broken JSON, a missing, unknown or mistyped parameter and an exception
    in the function become {"error": "…"}, which tells the model what to change.
    """
    offered = [tool["function"] for tool in tools]
    schemas = {schema["name"]: schema for schema in offered if schema["name"] in functions}
    name = str(name) if str(name) in schemas else function_name(str(name))
    if name not in schemas:
        return {"error": f"There is no tool {name!r}. Available: {', '.join(schemas) or 'none'}."}
    values = json_object(arguments)
    if "invalid_arguments" in values:
        return {"error": f"The arguments of {name} must be one JSON object. Write them again."}
    try:
        problem = _problem(name, values, schemas[name].get("parameters") or {})
        result = {"error": problem} if problem else functions[name](**values)
        result = json.loads(json.dumps(result, default=str, allow_nan=False))
    except Exception as error:
        return {"error": f"{name} failed: {type(error).__name__}: {error}"}
    return result if isinstance(result, dict) else {"result": result}


def _problem(name: str, arguments: Json, parameters: Json) -> str | None:
    """What is wrong with `arguments` by the schema, as a sentence for the model, or None."""
    properties = parameters.get("properties") or {}
    for key in parameters.get("required") or []:
        if key not in arguments:
            return f"{name} needs the parameter {key!r}."
    for key, value in arguments.items():
        if key not in properties:
            return f"{name} has no parameter {key!r}. It takes: {', '.join(properties) or 'none'}."
        types, choices = properties[key].get("type") or list(_TYPES), properties[key].get("enum")
        types = types if isinstance(types, list) else [types]
        # To Python, True is an int; to JSON Schema it is not.
        fits = [isinstance(value, _TYPES.get(each, object)) for each in types]
        if not any(fits) or (isinstance(value, bool) and "boolean" not in types):
            return f"The parameter {key!r} of {name} must be of type {' or '.join(types)}."
        if choices and value not in choices:
            known = ", ".join(map(str, choices))
            return f"The parameter {key!r} of {name} must be one of: {known}."
    return None
