"""What the two scripts share: flags, startup, connection and output."""

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
from .errors import COULD_NOT_START, explain, hide, mask
from .loop import MODES


class _Output:
    """A filter over stdout or stderr that removes control characters, and a key in one piece.
    Output appears at once. On stderr it begins a new line if stdout is in the middle of one."""

    unfinished: bool  # whether stdout is in the middle of a line; one value for both streams

    def __init__(self, stream: Any, is_stderr: bool) -> None:
        self._stream, self._is_stderr = stream, is_stderr
        _Output.unfinished = False
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # an ASCII pipe has no degree sign

    def write(self, text: str) -> int:
        if self._is_stderr and _Output.unfinished:
            self._stream.write("\n")
        if text:
            _Output.unfinished = not self._is_stderr and not text.endswith("\n")
        self._stream.write(mask(re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "", text)))
        self._stream.flush()
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        hide(os.environ.get("MOONSHOT_API_KEY", ""))  # it may be among the arguments
        super().error(mask(message))


def flag_parser(description: str, mode: str) -> argparse.ArgumentParser:
    """An argument parser with the flags that both scripts have; `mode` is the default mode."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = _Parser(description=description, formatter_class=raw, allow_abbrev=False)
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--offline", action="store_true", help="use a mock server; no key needed")
    where.add_argument("--base-url", help=f"default: MOONSHOT_BASE_URL or {DEFAULT_BASE_URL}")
    parser.add_argument("--model", help=f"default: MOONSHOT_MODEL or {DEFAULT_MODEL}")
    parser.add_argument("--mode", choices=[*MODES, "all"], default=mode, help=f"default: {mode}")
    return parser


def run_script(run: Callable[[Settings], int | None], args: argparse.Namespace) -> int:
    """Call `run` with the settings and return the exit status: what `run` returns (None means 0),
    or 130 after Ctrl-C. Any other exception is printed on stderr as a sentence; the status is then
    2 if the script could not start, else 1."""
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # the SDK's, about unusual replies
    for name in [name for name in os.environ if name.startswith("OPENAI_")]:
        del os.environ[name]  # meant for other programs, but the SDK would use them
    out: Any = _Output(sys.stdout, is_stderr=False)
    err: Any = _Output(sys.stderr, is_stderr=True)
    with redirect_stdout(out), redirect_stderr(err):
        try:
            if not args.offline:
                return run(endpoint.read_settings(args.base_url, args.model)) or 0
            from .offline import serve

            with serve() as url:
                print("Offline: a mock server on this machine answers, not Kimi-K2.")
                model = (args.model or DEFAULT_MODEL, bool(args.model))
                return run(Settings("offline", "the mock server", url, *model)) or 0
        except KeyboardInterrupt:
            print(end="\n" if _Output.unfinished else "")
            return 130
        except BrokenPipeError:  # the reader of our output has left, as in `... | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        except Exception as error:
            print(explain(error), file=sys.stderr)
            return 2 if isinstance(error, COULD_NOT_START) else 1


@contextmanager
def connect(settings: Settings) -> Iterator[tuple[Any, str]]:
    """Yield a client and the model to use, in a `with` block; print a line for each step."""
    end = f" ...{settings.api_key[-4:]}" if len(settings.api_key) > 8 else ""
    print(f"config  {settings.base_url}, key{end} from {settings.key_source}")
    with endpoint.make_client(settings) as client:
        print("key     ", end="")
        served = endpoint.list_models(client)
        # Some endpoints list their models to anybody, so this does not prove that the key is valid.
        print(f"not rejected; models listed: {len(served)}" if served else "no models listed here")
        print("model   ", end="")
        model, remark = endpoint.choose_model(settings, served)
        print(f"{model}\n        {remark}".rstrip())
        yield client, model
