"""Secrets in addresses and settings: recognised, and hidden from everything that is written down or printed.

    https://user:***@host/shards/{000..009}.tar?v=2&token=***      storage.password=***

Recognised are the password of an address, or a token in the user's place; parameters and settings whose name says that
they are secret; the parameters of a signed address (AWS, Google, Azure), which change with every signature; headers
and options of commands. Addresses may stand anywhere in a text, in lists and pipes, and may be cut off. What is hidden
twice is the same as what is hidden once.

Leaves out what no name gives away: a secret in a path or a host name, and a setting with a harmless name. A leaf: it
imports nothing else of the package.
"""

import os
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar
from urllib.parse import quote, unquote

MARK = "***"
SHORTEST = 6
"""Of a secret that is looked for by its value: a shorter one would be found in the middle of harmless words."""
V = TypeVar("V")
D = TypeVar("D", bound=dict)
Hide = Callable[[str], str]

# The end of an address before the next one in a list such as a::b, a,b or a|b.
_NEXT = r"(?!(?:::|[,|;])[A-Za-z][\w+.-]*:/)"
_ADDRESS = re.compile(r"(?<![A-Za-z0-9+.-])(?P<scheme>[A-Za-z0-9+.-]+):(?P<slashes>/+)")  # `Path` makes one of two
_AUTHORITY = re.compile(rf'(?:{_NEXT}[^\s/?#"<>])*')
_UP_TO_AT = re.compile(rf'(?:{_NEXT}[^\s"<>]){{0,300}}@')
_USER = re.compile(rf'{_ADDRESS.pattern}(?:{_NEXT}[^\s/?#"<>])*@')
# "user:pass" where a port would be a number: the password holds a slash, or the text is cut off.
_NO_PORT = re.compile(r"(?:\[[^\]]*\]|[^:\[]*):(?!\d*\W*$)")
_QUERY = re.compile(rf'[?#&](?:{_NEXT}[^\s"<>])+')
_ENDS_TEXT = "'`)]},.;:"
"""Of the sentence around an address rather than of the address."""
_ASSIGNED = re.compile(r"""(?<![\w.%?&;#-])(?P<name>-{0,2}[\w.-]*\w)=(?P<value>'[^']*'|"[^"]*"|[^\s"']+)""")
_QUOTED = re.compile(r"""(?P<name>(?P<q>["'])[\w.-]+(?P=q)\s*:\s*)(?P<value>'[^']*'|"[^"]*"|[^\s,}\]]+)""")
_HEADER = re.compile(r"""(?P<name>["'][\w-]+:\s*)(?P<value>[^"'\s][^"']*)""")
_LINE = re.compile(r"^(?P<name>\s*[\w.-]+:\s+)(?P<value>\S.*)$", re.MULTILINE)
_OPTION = re.compile(r"(?<!\S)(?P<name>--?[A-Za-z][\w-]*\s+)(?P<value>[^\s-]\S*)")
_SCHEMED = re.compile(
    r"(?P<name>\bbearer\s+|\bauthorization[\"']?\s*[:=]\s*[\"']?(?:\w+\s+)?)(?P<value>[\w.~+/=-]{8,})", re.IGNORECASE
)
# Options of curl.
_CREDENTIALS = re.compile(r"(?<!\S)(?P<name>(?:-u|--(?:proxy-)?user)[ =]?\s*[\"']?[^\s:]+:)(?P<value>[^\s\"']+)")

_SECRET_NAME = re.compile(
    r"(password|passwd|passphrase|secret|credential)s?$|secret_(id|value)$"
    r"|(^|_|auth|access|session|refresh|security|api|sas|private)tokens?$"
    r"|(api|access|secret|account|private|shared|storage|signing|encryption|master|subscription)_?key(_?id)?$"
    r"|(^|_)(pwd|pw|auth|authorization|bearer|jwt|sas|signature|cookie|connection_?string|dsn)$"
)
# Of models and not of access: cls_token of a ViT, pad_token of a text model.
_TOKEN_OF_MODEL = re.compile(
    r"(cls|class|mask|dist|reg|register|pad|unk|bos|eos|sep|special|prefix|num|max|min|image|text|patch|extra)_tokens?$"
)
_SECRET_PARAMETER = re.compile(
    r"token|secret|passw|signature|credential|api_?key|access_?(key|id)|^x_(amz|goog|ms)_"
    r"|^(key|sig|sign|auth|pass|pwd|pw|code|policy|key_pair_id|expires|hmac|jwt|sas)$"
)
_OF_SHARED_ACCESS = re.compile(r"s[epvrtis]|spr|sip|srt|sdd|skoid|sktid|sk[testv]")
"""Azure's parameters beside `sig`: they change with it."""
_TOKEN = re.compile(
    r"(gh[a-z]_|github_pat_|glpat-|hf_|xox|AKIA|ASIA|sk-|dapi)\w+|(?=\S*\d)(?=\S*[A-Za-z])[\w.~+/=-]{20,}"
)
_USER_NAMES_STORE = re.compile(r"(abfss?|wasbs?|az|adl)$")
_PLAIN_VALUES = ("", MARK, "none", "null", "true", "false", "~")

_known: dict[str, re.Pattern[str]] = {}
"""Values of secrets that this process was given, as they are looked for in text."""


def redacted(value: V) -> V:
    """Replace each secret in a value by `***`.

    Args:
        value: text, or a tree of mappings and sequences; keys of mappings are text as well. All else stays as it is.

    Returns:
        Of the same types; containers are new.
    """
    return _walk(value, lambda _: MARK)


def redacted_text(text: str) -> str:
    """Hide secrets in a text to print or log, also those that were given to `remember`."""
    text = redacted(text)
    for secret, found in _known.items():
        if secret in text:
            text = found.sub(MARK, text)
    return text


def redacted_words(words: Sequence[str]) -> list[str]:
    """Hide secrets in a command line, word by word; a word behind an option such as `--token` is hidden whole."""
    before = ["", *words][: len(words)]
    return [
        MARK if _is_option(option) and not word.startswith("-") else redacted(word)
        for option, word in zip(before, words, strict=True)
    ]


def without_secrets(value: Any) -> Any:
    """Strip a value of its secrets, and its addresses of their users.

    Two values that differ in how somebody is let in, and in nothing else, are equal then.
    """
    if isinstance(value, dict):
        kept = ((key, entry) for key, entry in redacted(value).items() if entry != MARK)
        return _dict_as(value, ((without_secrets(key), without_secrets(entry)) for key, entry in kept))
    if isinstance(value, list | tuple):
        return type(value)(without_secrets(entry) for entry in value)
    return _without_marks(_USER.sub(_without_user, redacted(value))) if isinstance(value, str) else value


def is_redacted(text: str) -> bool:
    """Whether a secret is missing in an address or a setting: it was written down, and is now given as it stands."""
    return MARK in text and (text == MARK or _without_marks(text) != text)


def remember(value: Any) -> None:
    """Hide the secrets of a value in all text of this process from now on, also where no name gives them away."""
    found: list[str] = []
    _walk(value, lambda secret: found.append(secret) or MARK)  # type: ignore[func-returns-value]
    _look_for(found, SHORTEST)


def remember_environment() -> None:
    """Remember the environment variables whose names say that they are secret."""
    named = [value for name, value in os.environ.items() if is_secret(name) and not value.startswith(("/", "~"))]
    _look_for(named, SHORTEST + 2)
    remember([value for name, value in os.environ.items() if "://" in value])


def is_secret(name: str) -> bool:
    """Whether a setting, an option or a variable of that name holds a secret."""
    short = _plain(name.rsplit(".", 1)[-1])
    return _SECRET_NAME.search(short) is not None and _TOKEN_OF_MODEL.search(short) is None


def _look_for(secrets: Iterable[str], shortest: int) -> None:
    for secret in secrets:
        for form in (secret, unquote(secret), quote(secret, safe="")):
            if len(form) >= shortest and form not in _known and form != MARK:
                _known[form] = re.compile(rf"(?<![A-Za-z0-9]){re.escape(form)}(?![A-Za-z0-9])")


def _walk(value: Any, hide: Hide) -> Any:
    if isinstance(value, str):
        return _text(value, hide)
    if isinstance(value, dict):
        names = {key for key in value if isinstance(key, str) and is_secret(key)}
        if "secret" in value:
            names.add("key")  # s3fs calls the two so
        return _dict_as(
            value,
            ((_walk(key, hide), (_setting if key in names else _walk)(entry, hide)) for key, entry in value.items()),
        )
    if type(value) in (list, tuple):
        return type(value)(_walk(entry, hide) for entry in value)
    return value


def _dict_as(given: D, entries: Iterable[tuple[Any, Any]]) -> D:
    """A new one of the same type, such as MMEngine's ConfigDict."""
    made = type(given)()
    made.update(dict(entries))
    return made


def _setting(value: Any, hide: Hide) -> Any:
    """The value of a setting whose name says that it is secret."""
    if isinstance(value, str):
        return value if value.lower() in _PLAIN_VALUES else hide(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return hide(str(value))
    if type(value) in (list, tuple):
        return type(value)(_setting(entry, hide) for entry in value)
    return _walk(value, hide)


def _text(text: str, hide: Hide) -> str:
    if ":/" in text:
        text = _addresses(text, hide)
    if "=" in text:
        text = _QUERY.sub(lambda match: _query(match[0], hide), text)
        text = _ASSIGNED.sub(lambda match: _named(match, hide, "="), text)
    if ":" in text:
        for pattern in (_QUOTED, _HEADER, _LINE):
            text = pattern.sub(lambda match: _named(match, hide), text)
    if "-" in text:
        text = _OPTION.sub(lambda match: _named(match, hide), text)
        text = _CREDENTIALS.sub(lambda match: match["name"] + _hidden(match["value"], hide), text)
    return _SCHEMED.sub(lambda match: match["name"] + _hidden(match["value"], hide), text)


def _addresses(text: str, hide: Hide) -> str:
    """Without passwords, and tokens in the user's place."""
    parts, done = [], 0
    for match in _ADDRESS.finditer(text):
        begin = match.end()
        if begin < done or (match["slashes"] == "/" and match["scheme"] == "file"):
            continue
        authority = _AUTHORITY.match(text, begin)
        assert authority is not None
        info, at, _ = authority[0].rpartition("@")
        if not at and _NO_PORT.match(authority[0]):
            far = _UP_TO_AT.match(text, begin)
            info = far[0][:-1] if far else authority[0]
        if info:
            parts += [text[done:begin], _user(info, match["scheme"].lower(), hide, at or text[begin + len(info) :][:1])]
            done = begin + len(info)
    return "".join([*parts, text[done:]])


def _user(info: str, scheme: str, hide: Hide, behind: str) -> str:
    """Of `user:password` before an @, or before the end of a text that was cut off there."""
    user, colon, password = info.partition(":")
    if colon:
        if behind != "@":
            password, rest = _split_end(password)
            return f"{user}:{_hidden(password, hide)}{rest}"
        if password in ("", "x-oauth-basic") or _TOKEN.fullmatch(user):
            user = _hidden(user, hide)
        return f"{user}:{_hidden(password, hide) if password else ''}"
    lone_token = re.search(r"https?$", scheme) or (_TOKEN.fullmatch(user) and not _USER_NAMES_STORE.search(scheme))
    return _hidden(user, hide) if lone_token else user


def _query(query: str, hide: Hide) -> str:
    """Parameters and fragments: `?a=b&token=c`."""
    pieces = re.split(r"([?&;#])", query)
    names = [_plain(piece.partition("=")[0]) for piece in pieces]
    signed = "sig" in names
    parts: list[str] = []
    hiding = False
    for piece, name in zip(pieces, names, strict=True):
        if "=" in piece:
            written, _, value = piece.partition("=")
            hiding = bool(_SECRET_PARAMETER.search(name)) or (signed and _OF_SHARED_ACCESS.fullmatch(name) is not None)
            if hiding:
                value, end = _split_end(value)
                piece = f"{written}={_hidden(value, hide)}{end}"
        elif hiding and piece and parts[-1] == ";":  # a semicolon in the secret itself
            parts.pop()
            continue
        parts.append(piece)
    return "".join(parts)


def _named(match: re.Match[str], hide: Hide, joint: str = "") -> str:
    name, value = match["name"], match["value"]
    if not is_secret(name.strip().strip("\"':-").rstrip(": \"'")):
        return match[0]
    quoted = value[:1] in "\"'" and value[:1] == value[-1:]
    inside, end = (value[1:-1], "") if quoted else _split_end(value)
    border = value[:1] if quoted else ""
    if inside.lower() in _PLAIN_VALUES:
        return match[0]
    return f"{name}{joint}{border}{_hidden(inside, hide)}{border}{end}"


def _hidden(secret: str, hide: Hide) -> str:
    return secret if secret in ("", MARK) else hide(secret)


def _split_end(value: str) -> tuple[str, str]:
    """The value, and the punctuation behind it that belongs to the sentence."""
    bare = value.rstrip(_ENDS_TEXT)
    return bare, value[len(bare) :]


def _is_option(word: str) -> bool:
    return word.startswith("-") and "=" not in word and is_secret(word.lstrip("-"))


def _plain(name: str) -> str:
    """accessToken, access-token and Access%2DToken -> access_token"""
    parts = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", unquote(name).strip("-"))
    return re.sub(r"[\W_]+", "_", parts).lower()


def _without_user(match: re.Match[str]) -> str:
    scheme = match["scheme"].lower()
    kept = _USER_NAMES_STORE.search(scheme) or (scheme == "file" and match["slashes"] == "/")
    return match[0] if kept else f"{match['scheme']}:{match['slashes']}"


def _without_marks(text: str) -> str:
    mark = re.escape(MARK)
    text = re.sub(rf"(?<=/){mark}(?::(?:{mark})?)?@|(?<=/){mark}$", "", text.replace(f":{MARK}@", "@"))
    text = re.sub(rf"(?<=[?&;#])[^?&;#=\s]+={mark}[&;]?", "", text)
    text = re.sub(rf"(?<=[\w\]]):{mark}(?=/|$)", "", text)
    text = re.sub(r"[?&;#]+(?=$|\s|::)", "", text)
    return re.sub(rf"[\w.-]*(=|:\s?){mark}", "", text)
