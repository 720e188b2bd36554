"""What the two scripts share: flags, startup, the lines about config, key and model, and output."""

import argparse
import io
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from typing import Any

from . import endpoint
from .endpoint import DEFAULT_BASE_URL, DEFAULT_MODEL, Settings
from .errors import SettingError, explain, mask
from .loop import MODES
from .messages import json_object

COULD_NOT_START = (SettingError, ImportError)  # exit status 2


class CleanOutput(io.TextIOBase):
    """A stream that leaves out control characters and `key`, and shows every text at once."""

    def __init__(self, stream: Any) -> None:
        self.stream, self.key = stream, os.environ.get("MOONSHOT_API_KEY", "")
        self.column = 0  # how many characters the last line shows so far
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # an ASCII pipe has no degree sign

    def write(self, text: str) -> int:
        shown = mask(re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "", text), self.key)
        _, newline, last = shown.rpartition("\n")
        self.column = len(last) + (0 if newline else self.column)
        self.stream.write(shown)
        self.stream.flush()
        return len(text)


def _json_object(text: str) -> Any:
    """The value of a flag that takes a JSON object."""
    value = json_object(text)
    if not text.strip() or "invalid_arguments" in value:
        raise argparse.ArgumentTypeError("not a JSON object, like '{\"top_p\": 0.9}'")
    return value


def flag_parser(about: str | None, mode: str) -> argparse.ArgumentParser:
    """An argument parser with the flags that both scripts have; `mode` is the default mode."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=about, formatter_class=raw, allow_abbrev=False)
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--offline", action="store_true", help="use a mock server; no key needed")
    where.add_argument("--base-url", help=f"default: MOONSHOT_BASE_URL or {DEFAULT_BASE_URL}")
    parser.add_argument("--model", help=f"default: MOONSHOT_MODEL, or one like {DEFAULT_MODEL}")
    how = f"how to ask (see API_README.md); default: {mode}"
    parser.add_argument("--mode", choices=[*MODES, "all"], default=mode, help=how)
    more = 'fields to add to each request, like \'{"reasoning_effort": "low"}\''
    parser.add_argument("--extra-body", type=_json_object, metavar="JSON", help=more)
    return parser


def run_script(run: Callable[[list[str] | None], int | None], argv: list[str] | None) -> int:
    """Call `run(argv)` with clean output. Return the exit status: what `run` returns (None: 0), 130
    after Ctrl-C; after an exception, explained on stderr, 2 if it could not start, else 1."""
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # the SDK's, about unusual replies
    for name in [name for name in os.environ if name.startswith("OPENAI_")]:
        del os.environ[name]  # meant for other programs, but the SDK would use them
    out: Any = CleanOutput(sys.stdout)
    err: Any = CleanOutput(sys.stderr)
    with redirect_stdout(out), redirect_stderr(err):
        try:
            return run(argv) or 0
        except BrokenPipeError:  # the reader of our output has left, as in `... | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), out.stream.fileno())
            return 1
        except (KeyboardInterrupt, Exception) as error:
            print(end="\n" if out.column else "")
            if isinstance(error, KeyboardInterrupt):
                return 130
            print(explain(error), file=err)
            return 2 if isinstance(error, COULD_NOT_START) else 1


@contextmanager
def prepared(args: argparse.Namespace) -> Iterator[tuple[Any, str]]:
    """Within run_script: yield a client and the model to use, and print a line for each step."""
    out: Any = sys.stdout
    err: Any = sys.stderr

    def announce(notice: str) -> None:  # goes on in the same column afterwards
        print(notice, end="\n" + " " * out.column, file=err)

    with ExitStack() as stack:
        if args.offline:
            from .offline import serve  # its imports take a while

            url, model = stack.enter_context(serve()), args.model or DEFAULT_MODEL
            settings = Settings("offline", url, model, "the mock server", bool(args.model))
            print("Offline: a mock server on this machine answers, not Kimi-K2.")
        else:
            settings = endpoint.read_settings(args.base_url, args.model)
        out.key = err.key = settings.api_key
        end = f" ...{settings.api_key[-4:]}" if len(settings.api_key) > 8 else ""
        print(f"config  {settings.base_url}, key{end} from {settings.key_source}")
        client = stack.enter_context(endpoint.make_client(settings, announce))
        print("key     ", end="")
        served = endpoint.list_models(client)
        # Some endpoints list their models to anybody, so this does not prove that the key is valid.
        models = f"{len(served)} model{'s' * (len(served) > 1)}" if served else ""
        print(f"not refused so far; {models} listed" if served else "no models listed here")
        print("model   ", end="")
        model, remark = endpoint.choose_model(settings, served)
        print(f"{model}\n        {remark}".rstrip())
        yield client, model
