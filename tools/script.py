"""What the two scripts share: flags, startup, the lines about config, key and model, and output."""

import argparse
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any

from . import endpoint
from .endpoint import DEFAULT_BASE_URL, DEFAULT_MODEL, Settings
from .errors import SettingError, explain, mask
from .loop import MODES
from .messages import json_object

COULD_NOT_START = (SettingError, ImportError)  # exit status 2


class CleanOutput:
    """A stream that leaves out control characters and `key`, and shows every text at once."""

    def __init__(self, stream: Any) -> None:
        self._stream, self.key = stream, ""
        self.line = ""  # what the last line shows so far
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # an ASCII pipe has no degree sign

    def write(self, text: str) -> int:
        shown = mask(re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "", text), self.key)
        self.line = (self.line + shown).rpartition("\n")[2]
        self._stream.write(shown)
        self._stream.flush()
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        super().error(mask(message, os.environ.get("MOONSHOT_API_KEY", "")))


def _json_object(text: str) -> Any:
    """The value of a flag that takes a JSON object."""
    value = json_object(text)
    if not text.strip() or "invalid_arguments" in value:
        raise argparse.ArgumentTypeError("not a JSON object, like '{\"top_p\": 0.9}'")
    return value


def flag_parser(description: str | None, mode: str) -> argparse.ArgumentParser:
    """An argument parser with the flags that both scripts have; `mode` is the default mode."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = _Parser(description=description, formatter_class=raw, allow_abbrev=False)
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--offline", action="store_true", help="use a mock server; no key needed")
    where.add_argument("--base-url", help=f"default: MOONSHOT_BASE_URL or {DEFAULT_BASE_URL}")
    parser.add_argument("--model", help=f"default: MOONSHOT_MODEL or {DEFAULT_MODEL}")
    how = f"how to ask (see API_README.md); default: {mode}"
    parser.add_argument("--mode", choices=[*MODES, "all"], default=mode, help=how)
    more = 'fields to add to each request, like \'{"reasoning_effort": "low"}\''
    parser.add_argument("--extra-body", type=_json_object, metavar="JSON", help=more)
    return parser


def run_script(run: Callable[[Settings], int | None], args: argparse.Namespace) -> int:
    """Call `run` with the settings. Return the exit status: what `run` returns (None: 0), 130 after
    Ctrl-C; after an exception, which is explained on stderr, 2 if it could not start, else 1."""
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # the SDK's, about unusual replies
    for name in [name for name in os.environ if name.startswith("OPENAI_")]:
        del os.environ[name]  # meant for other programs, but the SDK would use them
    out: Any = CleanOutput(sys.stdout)
    err: Any = CleanOutput(sys.stderr)
    with redirect_stdout(out), redirect_stderr(err):
        try:
            if not args.offline:
                settings = endpoint.read_settings(args.base_url, args.model)
                out.key = err.key = settings.api_key
                return run(settings) or 0
            from .offline import serve

            with serve() as url:
                print("Offline: a mock server on this machine answers, not Kimi-K2.")
                named, model = bool(args.model), args.model or DEFAULT_MODEL
                return run(Settings("offline", url, model, "the mock server", named)) or 0
        except BrokenPipeError:  # the reader of our output has left, as in `... | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        except (KeyboardInterrupt, Exception) as error:
            print(end="\n" if out.line else "")
            if isinstance(error, KeyboardInterrupt):
                return 130
            print(explain(error), file=sys.stderr)
            return 2 if isinstance(error, COULD_NOT_START) else 1


@contextmanager
def prepared(settings: Settings) -> Iterator[tuple[Any, str]]:
    """Yield a client and the model to use, in a `with` block; print a line for each step."""

    def announce(notice: str) -> None:
        """Say why a check waits, where it waits; what follows stands below, in the same column."""
        indent = " " * len(getattr(sys.stdout, "line", ""))
        print(f"{notice}\n{indent}", end="", file=sys.stderr)

    end = f" ...{settings.api_key[-4:]}" if len(settings.api_key) > 8 else ""
    print(f"config  {settings.base_url}, key{end} from {settings.key_source}")
    with endpoint.make_client(settings, announce) as client:
        print("key     ", end="")
        served = endpoint.list_models(client)
        # Some endpoints list their models to anybody, so this does not prove that the key is valid.
        models = f"{len(served)} model{'s' * (len(served) > 1)}" if served else ""
        print(f"not refused so far; {models} listed" if served else "no models listed here")
        print("model   ", end="")
        model, remark = endpoint.choose_model(settings, served)
        print(f"{model}\n        {remark}".rstrip())
        yield client, model
