"""A calculator tool that is safe to give to a model: without eval, and with limits.

Python parses the expression; `_value` evaluates the kinds of nodes it knows and refuses the rest.
Numbers are exact fractions, so 0.1 + 0.2 is 0.3; a root, a logarithm, an angle, a constant or a
very long number goes on as a float. This file imports nothing from the package, so it can be copied
by itself.
"""

import ast
import math
import operator
import re
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from typing import Any

MAX_LENGTH = 500  # characters
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


def calculate(expression: str) -> dict[str, Any]:
    """Evaluate `expression`: numbers, + - * / // % **, parentheses, a few functions, pi, e.

    Returns {"expression": …, "result": int or float}, or {"error": what to change}. Never raises,
    and takes milliseconds at most, whatever the input.
    """
    if not isinstance(expression, str):
        return {"error": "The expression must be a string, e.g. 2 + 3."}
    if len(expression) > MAX_LENGTH:
        return {"error": f"The expression is longer than {MAX_LENGTH} characters. Split it."}
    text = " ".join(expression.translate(_SPELLINGS).split())
    try:
        for pattern, advice in _REFUSED:
            if pattern.search(text):
                raise _Refused(advice)
        value = _value(ast.parse(text, mode="eval").body, text)
        if isinstance(value, Fraction):
            result = value.numerator if value.denominator == 1 else float(value)
        else:
            result = int(value) if value.is_integer() and abs(value) < 1e15 else value
        return {"expression": expression, "result": result}
    except _Refused as refused:
        return {"error": str(refused)}
    except Exception as error:  # also MemoryError, which Python's parser can raise
        return {"error": next(text for kind, text in _SENTENCES if isinstance(error, kind))}


class _Refused(Exception):
    """Its text goes back to the model."""


# What Python's own exceptions mean here; the first that fits is taken.
_SENTENCES: tuple[tuple[type[Exception], str], ...] = (
    (ZeroDivisionError, "Division by zero. Change the divisor."),
    (OverflowError, "The result is too large. Use smaller numbers."),
    (TypeError, "A function has the wrong number of arguments."),
    (ValueError, "A function is not defined for that value, e.g. sqrt(-1) or log(0)."),
    (RecursionError, "The expression is nested too deeply. Calculate it in several steps."),
    (Exception, "This is not one complete arithmetic expression, e.g. 2 * (3 + 4)."),
)


def _power(a: Any, b: Any) -> Any:
    if not isinstance(a, Fraction) or not isinstance(b, Fraction) or b.denominator != 1:
        return float(a) ** float(b)
    digits = abs(b) * Fraction(math.log10(max(abs(a.numerator), a.denominator)))
    if digits <= MAX_DIGITS:
        return a**b.numerator
    if a.denominator == 1 and b > 0:  # it would take minutes, and all memory
        raise _Refused(f"The result has more than {MAX_DIGITS} digits. Use smaller numbers.")
    return float(a) ** float(b)


def _round(x: Any, digits: Any = Fraction(0)) -> Any:
    if not isinstance(digits, Fraction) or digits.denominator != 1 or abs(digits) > MAX_DIGITS:
        raise _Refused(f"round() takes a whole number of digits, at most {MAX_DIGITS}.")
    return round(x, digits.numerator)


def _trigonometric(function: Callable[[float], float], x: Any) -> float:
    y = function(x)
    # sin(pi) is 0, although pi is rounded: less than the rounding error of x counts as 0.
    return 0.0 if abs(y) < min(math.ulp(x), 1e-12) else y


_OPERATORS: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
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
_ALLOWED = f"Only numbers, + - * / // % ** ( ) pi e and {' '.join(_FUNCTIONS)} are allowed."
# What is refused before Python's parser sees it, and what the model is told to write instead.
_REFUSED = (
    (re.compile(r"\d,(\d{3}(?!\d)|0\d)"),
     "Write 1000, not 1,000; between two arguments write a space after the comma."),
    (re.compile(r"[\d.]%( ?[-+]|$)"), "% is the remainder. Write 10 / 100 for ten percent."),
    # Python would print warnings about 1if or "\d".
    (re.compile(r"[^\w\s.,+\-*/%()^]|\d([a-df-z]|e(?![\d+-]))|\.[a-z]", re.I | re.ASCII), _ALLOWED),
)  # fmt: skip


def _value(node: ast.AST, text: str) -> Fraction | float:
    """The value of a node of the parsed `text`: exact if it is a Fraction."""
    value: Any
    match node:
        case ast.Constant() if type(node.value) in (int, float):
            value = _literal(text[node.col_offset : node.end_col_offset])
        case ast.Name() if node.id in _CONSTANTS:
            value = _CONSTANTS[node.id]
        case ast.BinOp() if type(node.op) in _OPERATORS:
            value = _OPERATORS[type(node.op)](_value(node.left, text), _value(node.right, text))
        case ast.UnaryOp() if type(node.op) in _OPERATORS:
            value = _OPERATORS[type(node.op)](_value(node.operand, text))
        case ast.Call(func=ast.Name(id=name), keywords=[]):
            if name not in _FUNCTIONS:
                raise _Refused(f"Unknown function {name}. Known: {' '.join(_FUNCTIONS)}.")
            value = _FUNCTIONS[name](*[_value(argument, text) for argument in node.args])
        case ast.BinOp(op=ast.BitXor()):
            raise _Refused("^ is not a power here. Write ** instead, e.g. 2 ** 3.")
        case ast.Tuple():
            raise _Refused("A comma only separates the arguments of a function.")
        case _:
            raise _Refused(_ALLOWED)
    if isinstance(value, complex):
        raise _Refused("The result is not a real number.")
    if isinstance(value, float):
        if not math.isfinite(value):
            raise _Refused("A value is too large or undefined.")
        return value
    value = Fraction(value)
    if value.denominator == 1 and abs(value) >= 10**MAX_DIGITS:
        raise _Refused(f"A whole number has more than {MAX_DIGITS} digits. Use smaller numbers.")
    return float(value) if value.denominator >= 10**MAX_DIGITS else value


def _literal(written: str) -> Fraction | float:
    """A number as it was written; as a float if it is very long, like 1e305 or 1e-999999999."""
    exponent = written.lower().partition("e")[2]
    if abs(int(exponent or 0)) > MAX_DIGITS or exponent and float(written) >= 1e300:
        return float(written)
    return Fraction(written.replace("_", ""))
