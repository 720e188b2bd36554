"""A calculator tool that is safe to give to a model: without eval, and with limits.

Python parses the expression; `_value` evaluates the kinds of nodes it knows and refuses the rest.
This file imports nothing from the package, so it can be copied by itself.
"""

import ast
import math
import operator
import re
from collections.abc import Callable
from functools import partial
from itertools import accumulate
from typing import Any

MAX_LENGTH = 500  # characters
MAX_DEPTH = 50  # parentheses, function calls, signs and powers, nested
MAX_DIGITS = 300  # of a whole number
_DESCRIPTION = (
    "Numbers with + - * / // % ** and parentheses, the functions sqrt abs round min max floor "
    "ceil log log10 exp sin cos tan (radians), the constants pi and e. "
    "Example: sqrt(2) * (3 + 4) ** 2"
)
CALCULATOR_TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "calculate",
        "description": "Evaluate an arithmetic expression.",
        "parameters": {
            "type": "object",
            "required": ["expression"],
            "properties": {"expression": {"type": "string", "description": _DESCRIPTION}},
        },
    },
}


class _Refused(Exception):
    """Its text goes back to the model."""


def _divide(a: Any, b: Any) -> Any:
    whole = isinstance(a, int) and isinstance(b, int) and a % b == 0
    return a // b if whole else a / b  # whole numbers stay exact


def _power(a: Any, b: Any) -> Any:
    if isinstance(a, int) and isinstance(b, int) and abs(a) > 1:
        if b * math.log10(abs(a)) > MAX_DIGITS:
            raise _Refused(f"The result has more than {MAX_DIGITS} digits. Use smaller numbers.")
    return a**b


def _round(x: Any, digits: Any = 0) -> Any:
    if not isinstance(digits, int) or abs(digits) > MAX_DIGITS:
        raise _Refused(f"round() takes a whole number of digits, at most {MAX_DIGITS}.")
    return round(x, digits)


def _trigonometric(function: Callable[[float], float], x: float) -> float:
    y = function(x)
    # sin(pi) is 0, although pi is rounded: less than the rounding error of x counts as 0.
    return 0.0 if abs(y) < min(math.ulp(x), 1e-12) else y


_OPERATORS: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: _divide,
    ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod, ast.Pow: _power,
    ast.UAdd: operator.pos, ast.USub: operator.neg,
}  # fmt: skip
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "sqrt": math.sqrt, "abs": abs, "round": _round, "min": min, "max": max, "floor": math.floor,
    "ceil": math.ceil, "log": math.log, "log10": math.log10, "exp": math.exp,
    **{each.__name__: partial(_trigonometric, each) for each in (math.sin, math.cos, math.tan)},
}  # fmt: skip
_CONSTANTS = {"pi": math.pi, "e": math.e}
_SPELLINGS = str.maketrans({"×": "*", "·": "*", "÷": "/", "−": "-"})
# Refused before Python's parser sees it, which would print warnings about 1if or "\d".
_FOREIGN = re.compile(r"[^\w\s.,+\-*/%()^]|\d([a-df-z]|e(?![\d+-]))|\.[a-z]", re.I | re.ASCII)
_TOO_DEEP = "The expression is nested too deeply. Calculate it in several steps."
_ALLOWED = f"Only numbers, + - * / // % ** ( ) pi e and {' '.join(_FUNCTIONS)} are allowed."
# What Python's own exceptions mean here; the first that fits is taken.
_SENTENCES: tuple[tuple[type[Exception], str], ...] = (
    (ZeroDivisionError, "Division by zero. Change the divisor."),
    (OverflowError, "The result is too large. Use smaller numbers."),
    (TypeError, "A function has the wrong number of arguments."),
    (ValueError, "A function is not defined for that value, e.g. sqrt(-1) or log(0)."),
    (Exception, "This is not one complete arithmetic expression, e.g. 2 * (3 + 4)."),
)


def _value(node: ast.AST, depth: int = 0) -> int | float:
    if depth > MAX_DEPTH:
        raise _Refused(_TOO_DEEP)
    value: Any
    match node:
        case ast.Constant() if type(node.value) in (int, float):
            value = node.value
        case ast.Name() if node.id in _CONSTANTS:
            value = _CONSTANTS[node.id]
        case ast.BinOp() if type(node.op) in _OPERATORS:
            # The left side is no deeper: 1 + 2 + 3 + … is long, not nested.
            left = _value(node.left, depth)
            value = _OPERATORS[type(node.op)](left, _value(node.right, depth + 1))
        case ast.UnaryOp() if type(node.op) in _OPERATORS:
            value = _OPERATORS[type(node.op)](_value(node.operand, depth + 1))
        case ast.Call(func=ast.Name(id=name), keywords=[]):
            if name not in _FUNCTIONS:
                raise _Refused(f"Unknown function {name}. Known: {' '.join(_FUNCTIONS)}.")
            value = _FUNCTIONS[name](*[_value(arg, depth + 1) for arg in node.args])
        case ast.BinOp(op=ast.BitXor()):
            raise _Refused("^ is not a power here. Write ** instead, e.g. 2 ** 3.")
        case ast.Tuple():
            raise _Refused("A comma only separates function arguments. Write 1000, not 1,000.")
        case _:
            raise _Refused(_ALLOWED)
    if isinstance(value, complex):
        raise _Refused("The result is not a real number.")
    if isinstance(value, int) and abs(value) >= 10**MAX_DIGITS:
        raise _Refused(f"A whole number has more than {MAX_DIGITS} digits. Use smaller numbers.")
    if not math.isfinite(value):
        raise _Refused("A value is too large or undefined.")
    return value if isinstance(value, int) else float(value)


def _readable(value: int | float) -> int | float:
    """As a person writes it: 0.30000000000000004 becomes 0.3, 25.0 becomes 25."""
    if isinstance(value, int):
        return value
    rounded = float(f"{value:.15g}")
    if math.isfinite(rounded) and len(repr(rounded)) < len(repr(value)) - 2:
        value = rounded  # else the last digits are meant: pi, 1 / 3
    return int(value) if value.is_integer() and abs(value) < 1e15 else value


def calculate(expression: str) -> dict[str, Any]:
    """Evaluate `expression`: numbers, + - * / // % **, parentheses, a few functions, pi, e.

    Returns {"expression": …, "result": int or float}, or {"error": what to change}. Never raises,
    and takes milliseconds at most, whatever the input.
    """
    if not isinstance(expression, str):
        return {"error": "The expression must be a string, e.g. 2 + 3."}
    if len(expression) > MAX_LENGTH:
        return {"error": f"The expression is longer than {MAX_LENGTH} characters. Split it."}
    text = expression.strip().translate(_SPELLINGS)
    depth = max(accumulate((c == "(") - (c == ")") for c in text), default=0)
    try:
        if depth > MAX_DEPTH or _FOREIGN.search(text):
            raise _Refused(_TOO_DEEP if depth > MAX_DEPTH else _ALLOWED)
        result = _value(ast.parse(text, mode="eval").body)
        return {"expression": expression, "result": _readable(result)}
    except _Refused as refused:
        return {"error": str(refused)}
    except Exception as error:  # also MemoryError, which Python's parser can raise
        return {"error": next(text for kind, text in _SENTENCES if isinstance(error, kind))}
