"""Errors that the user can fix, and what any error says in one line: never a secret."""

import errno
import os
import re
from typing import Final
from urllib.parse import unquote, urlsplit

# Of environment variables whose values are secrets; a path is none. PWD alone is the working directory.
_SECRET_NAME: Final = re.compile(
    r"(PASSWORD|PASSWD|PASSPHRASE|(?<=_)(PASS|PWD)|TOKEN|SECRET|API_?KEY|CREDENTIALS?|CONNECTION_STRING"
    r"|(ACCESS|ACCOUNT|PRIVATE|SECRET|STORAGE)_KEY(_ID)?)$",
    re.IGNORECASE,
)
# a full disk, a broken or unmounted one, too many open files
_MACHINE_FAULTS: Final = frozenset(
    {
        *(errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS),
        *(errno.ESTALE, errno.EMFILE, errno.ENFILE),
    }
)
_LEAST_LENGTH: Final = 8  # of a value that is searched for: a shorter one is part of other words
_LONGEST_WORD: Final = 15  # letters: a text that is stored may hold a shorter value by chance
# passwords that everybody knows, and ordinary texts hold
_PUBLISHED: Final = frozenset({"recallfront", "postgres", "password", "changeme", "minioadmin", "anonymous"})
# A terminal obeys these; tabs are text. Half of a surrogate pair cannot be written at all.
_CONTROL: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\ud800-\udfff]")
_SECRET_QUERY: Final = (
    r"[?&](?:(?:ssl)?password|passwd|token|access_token|(?:client_)?secret|api_?key|sig|signature"
    r"|x-amz-(?:signature|security-token))="
)
# A password may have slashes in it; digits or a variable before one are a port, and nothing is the next folder of a
# PATH. A quote with an operator after it, or at the beginning, ends a text of code.
_PASSWORD_IN_URI: Final = re.compile(
    r"(?P<name>:/{1,2})[^\s/:@'\"{}$<>\[]*:(?!\d*/|\d+['{}<>]|'|\$\{?\w+\}?[/:])"
    r"(?!\$\{?([A-Za-z_]\w*|\d)\}?@|\$\(|\{(\w+\}|[^{}\s@]*\}@)|<[^<>\s@]*>@)"
    r"(?:(?!'[,)\]+>}:;])[^\s@\"]){1,512}(?=@)"
)
# A setting, or a part of a text, with the name of a secret and a value that has letters and is no template's, nor a
# number such as 1e-05. `token`, `key` and `secret` alone are words of models and texts.
_NAMED_SECRET: Final = re.compile(
    r"(?<![^\W_])(?P<name>password|passwd|passphrase|pwd|[a-z]+[_-]secret|connection_string|api[_-]?key"
    r"|(?:access|account|private|secret|storage)[_-]?key|(?:access|api|auth|bearer|hf|refresh)[_-]?token)"
    r"[\\\"']*[ \t]*[:=][ \t]*[\\\"']*"
    r"(?!(?:null|none|true|false)\b|[-+]?[\d.]+e[-+]?\d+(?![^\s\\\"',;&{}\])]))"
    r"[^\s\\\"',;&{}$<>\[]*[a-z]",
    re.IGNORECASE,
)
_KEY: Final = "a private key"
_KEY_LINE: Final = r"(?:[\w+/=-]{16,76}|[\w+/]*={1,2}|(?:Proc-Type|DEK-Info): \S+)"
# What looks like a secret wherever it stands, and what it is. A whole `{...}`, `<...>` or `$NAME` is a template's.
_SHAPES: Final = (
    # one slash: a URI that was taken for a path
    (_PASSWORD_IN_URI, "a URI with a password in it"),
    (re.compile(r"(?P<name>\bhttps?:/{1,2})[^\s/:@'\"{}$<>]+(?=@)"), "a URI with a user in it"),
    (re.compile(rf"(?i:(?P<name>{_SECRET_QUERY}))[^&\s'\"{{}}$<>]+"), "a URI with a password in it"),
    (re.compile(r"(?P<name>\b(?:Bearer|Basic)\s+)[\w.~+/=-]{16,}"), "an authorization"),
    (re.compile(r"\bAKIA[0-9A-Z]{16}\b"), "an access key of AWS"),
    (re.compile(r"\b(?:gh[pousr]_|github_pat_|hf_|glpat-|xox[abp]-)[\w-]{20,}"), "a token"),
    (
        re.compile(
            r"-----BEGIN [A-Z ]*PRIVATE KEY-----.{0,20000}?-----END [A-Z ]*PRIVATE KEY-----", re.DOTALL
        ),
        _KEY,
    ),
    # one whose last lines are not part of the text: what looks like a line of it
    (re.compile(rf"-----BEGIN [A-Z ]*PRIVATE KEY-----(?:\s+{_KEY_LINE}(?=\s|\Z))*"), _KEY),
    # nor are the first ones
    (re.compile(r"\A.*-----END [A-Z ]*PRIVATE KEY-----", re.DOTALL), _KEY),
)


class UsageError(Exception):
    """What was asked for cannot be done as asked; the message names the input, its value and what is allowed.

    The command line prints it in one sentence and exits with 2. Secrets in it are shown as `...`.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(without_secrets(str(message)))


def is_machine_fault(error: Exception) -> bool:
    """Whether an error is the machine's or the store's, and says nothing of the file that was asked for."""
    return isinstance(error, OSError) and error.errno in _MACHINE_FAULTS


def without_secrets(text: str) -> str:
    """Text with `...` for passwords in URIs, tokens, keys, and the values of variables such as RAY_AUTH_TOKEN."""
    for value in sorted({value for _, value in _secret_values()}, key=len, reverse=True):
        # of letters alone it may be part of another word
        edges = (r"(?<![^\W\d_])", r"(?![^\W\d_])") if value.isalpha() else ("", "")
        text = re.sub(re.escape(value).join(edges), "...", text)
    for shape, _ in _SHAPES:
        text = shape.sub(lambda found: f"{found.groupdict().get('name') or ''}...", text)
    return text


def secret_in(text: str) -> str | None:
    """What secret a text holds, in words that do not show it; None if there is none. A plain word is held by chance."""
    for name, value in _secret_values():
        if not _is_word(value) and value in text:
            return f"the value of {name}"
    return next((what for shape, what in _SHAPES if shape.search(text)), None)


def refuse_secrets(what: str, text: str, *, is_code: bool = False) -> None:
    """Raise UsageError if a text that is stored with runs holds a secret; `what` names it.

    If it is not code, it also holds what it calls a password, even if that is a plain word.
    """
    found = secret_in(text)
    if found is None and not is_code and (named := _NAMED_SECRET.search(text)):
        found = f"a secret named {named['name']!r}"
    if found is not None:
        raise UsageError(
            f"{what} holds {found}, and is stored with the runs: take it out, and let what needs it read it from the "
            "environment"
        )


def refuse_credentials(what: str, uri: str, instead: str) -> None:
    """Raise UsageError if a URI cannot be read, or holds a user or a password: it would be printed and stored.

    `instead` says where they belong.
    """
    try:
        parts = urlsplit(uri)
        holds = parts.password is not None or (parts.scheme in ("http", "https") and bool(parts.username))
    except ValueError as error:
        told = f"{what} {_without_user(uri)!r} cannot be read ({error}): write http://HOST:PORT"
        raise UsageError(told) from None
    # a password with a slash in it: what follows the colon is no port
    slashed = re.match(r"[^/]+://[^/@]+:(?!\d+(/|$))[^@]*@", uri)
    if holds or slashed or re.search(_SECRET_QUERY, uri, re.IGNORECASE):
        raise UsageError(f"{what} {_without_user(uri)!r} has a password in it: {instead}")


def one_line(text: object, most: int = 500) -> str:
    """Text, or what an error says, in one line of at most so many characters."""
    return printable(" ".join(without_secrets(str(text)).split()))[:most]


def printable(text: str) -> str:
    """Text without a character that a terminal obeys: another one's text shall not forge lines, or set a title."""
    if text.isprintable():  # which is quick, and true of nearly all
        return text
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def printable_lines(text: str) -> str:
    """The same of what may have several lines: tracebacks, notices and logs."""
    return "\n".join(map(printable, text.split("\n")))


def root_cause(error: BaseException) -> str:
    """The reason in one short line: of a failed request, what the network said ("Connection refused")."""
    reason, link = error, _behind(error)
    while link is not None:
        if isinstance(link, OSError):
            reason = link
        link = _behind(link)
    text = str(getattr(reason, "strerror", None) or reason).strip() or type(reason).__name__
    return printable(without_secrets(text).splitlines()[0])[:300]


def _without_user(uri: str) -> str:
    """Also where the password has characters that a URI's should not have."""
    return re.sub(r"(?<=//).*(?=@)", "...", uri)


def _secret_values() -> list[tuple[str, str]]:
    """The environment's secrets, each after the name of its variable: all of it, or the passwords in its URIs."""
    found: list[tuple[str, str]] = []
    for name, value in os.environ.items():
        secrets = [value.strip()] if _SECRET_NAME.search(name) else _passwords(value)
        found += [(name, secret) for secret in secrets]
    return [
        (name, secret)
        for name, secret in found
        # a file that holds the secret may be named
        if len(secret) >= _LEAST_LENGTH and secret.lower() not in _PUBLISHED and not os.path.exists(secret)
    ]


def _passwords(text: str) -> set[str]:
    """The passwords in a text's URIs, as they stand there and as they are sent."""
    users = (found[0].removeprefix(found["name"]) for found in _PASSWORD_IN_URI.finditer(text))
    return {form for user in users for given in [user.partition(":")[2]] for form in (given, unquote(given))}


def _is_word(value: str) -> bool:
    is_short = value.isalpha() and len(value) <= _LONGEST_WORD
    return is_short and (value.islower() or value.isupper() or value.istitle())


def _behind(error: BaseException) -> BaseException | None:
    """What an error arose from; urllib3 hands some over as an argument."""
    inner = next((argument for argument in error.args if isinstance(argument, BaseException)), None)
    return error.__cause__ or error.__context__ or inner
