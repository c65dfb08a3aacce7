"""Errors that the user can fix, and what any error says in one line."""


class UsageError(Exception):
    """What was asked for cannot be done as asked; the message names the input, its value and what is allowed.

    The command line prints it in one sentence and exits with 2.
    """


def one_line(text: object, most: int = 500) -> str:
    """Text, or what an error says, in one line of at most so many characters."""
    return " ".join(str(text).split())[:most]


def root_cause(error: BaseException) -> str:
    """The reason in one short line: of a failed request, what the network said ("Connection refused")."""
    reason, link = error, _behind(error)
    while link is not None:
        if isinstance(link, OSError):
            reason = link
        link = _behind(link)
    text = str(getattr(reason, "strerror", None) or reason).strip() or type(reason).__name__
    return text.splitlines()[0][:300]


def _behind(error: BaseException) -> BaseException | None:
    """What an error arose from; urllib3 hands some over as an argument."""
    inner = next((argument for argument in error.args if isinstance(argument, BaseException)), None)
    return error.__cause__ or error.__context__ or inner
