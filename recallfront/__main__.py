"""The command line's entry: an error that the user can fix is one sentence and exit code 2, never a traceback.

What a command needs is imported where it is first used, so that `--help` and `--version` start fast.
"""

import errno
import os
import sys
import traceback
from typing import TextIO

from recallfront.platform.tracking.garbage import collect_seldom
from recallfront.terminal import INTERRUPTED

USAGE, READER_LEFT = 2, 141  # exit codes
_OF_THE_MACHINE = (errno.ENOSPC, errno.EDQUOT, errno.EIO)  # a full or broken disk: a sentence says it all


def main() -> None:
    """Run the `recallfront` command."""
    collect_seldom()
    try:
        sys.exit(run(sys.argv[1:] or ["--help"]))
    except Exception:
        from recallfront.platform.errors import printable_lines, without_secrets

        print(printable_lines(without_secrets(traceback.format_exc())), end="", file=sys.stderr)
        sys.exit(1)


def run(arguments: list[str]) -> int:
    """Run one command -> its exit code; an error that the user can fix is one line on stderr."""
    _prepare_streams()
    try:
        return _run(arguments)
    except KeyboardInterrupt:
        return _interrupted(arguments)
    except Exception as error:
        from recallfront.platform.plugins import blame

        said = blame(error)
        if said is None:
            raise
        return _told(said)


def _run(arguments: list[str]) -> int:
    import typer

    from recallfront.cli import app

    try:
        code = app(arguments, prog_name="recallfront", standalone_mode=False) or 0
        sys.stdout.flush()
        return _interrupted(arguments) if code == INTERRUPTED else code  # typer's own way to say so
    except SystemExit as end:  # how a command says that it did not go well, and typer that the reader left
        return READER_LEFT if isinstance(end.__context__, BrokenPipeError) else int(end.code or 0)
    except typer.Abort:
        return _interrupted(arguments)
    except _of_the_user() as error:
        return _told(str(error))
    except BrokenPipeError:  # whoever read the output has enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return READER_LEFT
    except OSError as error:
        if error.filename is None and error.errno not in _OF_THE_MACHINE:
            raise
        if error.filename is None and _is_full(sys.stdout):
            # else the interpreter fails at its end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _told(f"{error.filename or 'writing failed'}: {error.strerror}")
    except Exception as error:
        # of typer's errors about arguments, under any of its versions
        if not hasattr(error, "format_message"):
            raise
        return _told(f"{error.format_message()} (--help lists what is allowed)")


def _interrupted(arguments: list[str]) -> int:
    """Say so; of a sweep, that nothing is lost."""
    how = "; run the sweep again to resume it" if arguments[:1] == ["run"] else ""
    return _told(f"interrupted{how}", INTERRUPTED)


def _is_full(stream: TextIO) -> bool:
    """Whether what waits to be written cannot be."""
    try:
        stream.flush()
    except OSError:
        return True
    return False


def _of_the_user() -> tuple[type[Exception], ...]:
    """The errors that the user can fix; asked for when there is one, as importing them takes half a second."""
    from recallfront.platform.errors import UsageError
    from recallfront.sweeps.base import SpecError

    return UsageError, SpecError


def _prepare_streams() -> None:
    """What a terminal's encoding lacks becomes `?`; a stream that is closed swallows what it is given."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def _told(message: str, code: int = USAGE) -> int:
    from recallfront.platform.errors import one_line

    print("recallfront:", one_line(message, most=10_000), file=sys.stderr)
    return code


if __name__ == "__main__":
    main()
