"""A calculator tool that is safe to give to a model: without eval, and with limits.

Python parses the expression; `_value` evaluates the kinds of nodes it knows and refuses the rest.
Numbers are exact fractions, so 0.1 + 0.2 is 0.3; a root, a logarithm, an angle, a constant or a
very long fraction goes on as a float. This file can be copied by itself.
"""

import ast
import math
import operator
import re
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

MAX_LENGTH = 500  # characters
MAX_DIGITS = 300  # of an exact number before its point, and of its denominator
_ALLOWED = (  # for the model: before it writes an expression, and after a wrong one
    "Only numbers, + - * / // % **, parentheses, the functions sqrt abs round min max floor ceil "
    "log log10 exp sin cos tan (radians) and the constants pi and e are allowed; a comma only "
    "separates arguments. Example: sqrt(2) * (3 + 4) ** 2"
)
CALCULATOR_TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "calculate",
        "description": "Evaluate an arithmetic expression.",
        "parameters": {
            "type": "object",
            "required": ["expression"],
            "properties": {"expression": {"type": "string", "description": _ALLOWED}},
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
    for pattern, advice in _REFUSED:
        if re.search(pattern, text, re.ASCII | re.IGNORECASE):
            return {"error": advice}
    try:
        value = _value(ast.parse(text, mode="eval").body, text)
    except Exception as error:  # also MemoryError, which Python's parser can raise
        return {"error": next(says for kind, says in _SENTENCES if isinstance(error, kind))}
    is_whole = value % 1 == 0 and (isinstance(value, Fraction) or abs(value) < 1e15)
    return {"expression": expression, "result": int(value) if is_whole else float(value)}


_SPELLINGS = str.maketrans({"×": "*", "·": "*", "÷": "/", "−": "-"})
# What is refused before Python's parser sees it, and what the model is told to write instead.
_REFUSED = (
    (r"\d,(\d{3}(?!\d)|0\d)",
     "Write 1000, not 1,000; between two arguments write a space after the comma."),
    (r"[\d.]%( ?[-+]|$)", "% is the remainder. Write 10 / 100 for ten percent."),
    (r"\^", "^ is not a power here. Write ** instead, e.g. 2 ** 3."),
    # Python would print warnings about 1if or "\d".
    (r"[^\w\s.,+\-*/%()]|\d([a-df-z]|e(?![\d+-]))|\.[a-z]", _ALLOWED),
)  # fmt: skip
# What an exception means here; the first that fits is taken.
_SENTENCES: tuple[tuple[type[Exception], str], ...] = (
    (ZeroDivisionError, "Division by zero. Change the divisor."),
    (ArithmeticError, f"A number is too large (over {MAX_DIGITS} digits). Use smaller ones."),
    (ValueError, "A value is not defined, or not real, e.g. sqrt(-1), log(0), round(2, 0.5)."),
    (TypeError, "A function has the wrong number of arguments."),
    (LookupError, _ALLOWED),
    (RecursionError, "The expression is nested too deeply. Calculate it in several steps."),
    (Exception, "This is not one complete arithmetic expression, e.g. 2 * (3 + 4)."),
)


def _power(a: Any, b: Any) -> Any:
    if isinstance(a, Fraction) and isinstance(b, Fraction) and b.denominator == 1:
        if abs(b) * math.log10(max(abs(a.numerator), a.denominator)) <= MAX_DIGITS:
            return a**b
    return math.pow(a, b)  # a float: an exact power could take minutes, and all memory


def _round(x: Any, digits: Any = 0) -> Any:
    if digits % 1 or abs(digits) > MAX_DIGITS:
        raise ValueError
    return round(x, int(digits))


_OPERATORS: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod, ast.Pow: _power,
    ast.UAdd: operator.pos, ast.USub: operator.neg,
}  # fmt: skip
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "sqrt": math.sqrt, "abs": abs, "round": _round, "min": min, "max": max, "floor": math.floor,
    "ceil": math.ceil, "log": math.log, "log10": math.log10, "exp": math.exp, "sin": math.sin,
    "cos": math.cos, "tan": math.tan,
}  # fmt: skip
_CONSTANTS = {"pi": math.pi, "e": math.e}


def _value(node: ast.AST, text: str) -> Fraction | float:
    """The value of a node of the parsed `text`: exact if it is a Fraction."""
    value: Any
    match node:
        case ast.Constant() if type(node.value) in (int, float):
            written = Decimal(text[node.col_offset : node.end_col_offset])
            value = node.value if abs(written.adjusted()) > MAX_DIGITS else Fraction(written)
        case ast.Name(name):
            value = _CONSTANTS[name]
        case ast.BinOp(left, symbol, right):
            value = _OPERATORS[type(symbol)](_value(left, text), _value(right, text))
        case ast.UnaryOp(symbol, operand):
            value = _OPERATORS[type(symbol)](_value(operand, text))
        case ast.Call(ast.Name(name), arguments, []):
            values = [_value(argument, text) for argument in arguments]
            value = _FUNCTIONS[name](*values)
            # Less than the rounding error of the argument counts as 0, so that sin(pi) is 0.
            if name in ("sin", "cos", "tan") and abs(value) < min(math.ulp(values[0]), 1e-12):
                value = 0
        case _:
            raise LookupError
    if isinstance(value, float):
        if not math.isfinite(value):
            raise OverflowError
        return value
    if abs(value) >= 10**MAX_DIGITS:
        raise OverflowError
    return Fraction(value) if value.denominator < 10**MAX_DIGITS else float(value)
