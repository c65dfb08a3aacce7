"""The command line's entry: an error that the user can fix is one sentence and exit code 2, never a traceback."""

import sys

USAGE, INTERRUPTED = 2, 130  # exit codes
_INTERRUPTION = "interrupted; run the sweep again to resume it"


def main() -> None:
    """Run the `recallfront` command."""
    sys.exit(run(sys.argv[1:] or ["--help"]))


def run(arguments: list[str]) -> int:
    """Run one command -> its exit code; an error that the user can fix is one line on stderr."""
    import typer

    from recallfront.cli import app
    from recallfront.platform.errors import UsageError
    from recallfront.sweeps.load import SpecError

    try:
        code = app(arguments, prog_name="recallfront", standalone_mode=False) or 0
        return _told(_INTERRUPTION, INTERRUPTED) if code == INTERRUPTED else code  # typer's own way to say so
    except SystemExit as end:  # how a command says that it did not go well
        return int(end.code or 0)
    except (typer.Abort, KeyboardInterrupt):
        return _told(_INTERRUPTION, INTERRUPTED)
    except (UsageError, SpecError) as error:
        return _told(str(error))
    except OSError as error:
        if error.filename is None:
            raise
        return _told(f"{error.filename}: {error.strerror}")
    except Exception as error:
        # of typer's errors about arguments, under any of its versions
        if not hasattr(error, "format_message"):
            raise
        return _told(f"{error.format_message()} (--help lists what is allowed)")


def _told(message: str, code: int = USAGE) -> int:
    print("recallfront:", " ".join(message.split()), file=sys.stderr)
    return code


if __name__ == "__main__":
    main()
