"""The command line's entry: what is the user's to mend is one sentence and exit code 2, never a traceback."""

import sys


def main() -> None:
    """Run the `recallfront` command."""
    from recallfront.cli import app
    from recallfront.platform.errors import UsageError
    from recallfront.sweeps.load import SpecError

    try:
        app()
    except (UsageError, SpecError) as error:
        print(f"recallfront: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
