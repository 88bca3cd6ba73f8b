"""Passwords and tokens: recognised in names, addresses and texts, and masked in all that is kept or shown."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import unquote

MASK = "***"
SHORTEST = 4  # characters of a secret that is looked for in other texts
NO_SECRETS = ("", "true", "false", "none")
WORDS = r"token|passw|pwd|secret|credential|signature|(?:api|access|private|account)[-_]?key"
SHORT = r"key|sig|sas|auth"  # a whole name, or the last part of one
NAME = re.compile(rf"{WORDS}|(?:^|[-_])(?:{SHORT})$", re.IGNORECASE)
# Each finds one kind of secret, in the group `secret`. What repeats is bounded, so that long texts take no time.
PATTERNS = [
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        # scheme://user:password@host, and without a scheme
        r"(?<![\w.+-])[a-z][\w+.-]{0,20}:/{1,2}[^\s/:@'\"<>]{0,99}:(?P<secret>[^\s/'\"<>]{1,500})@",
        r"(?<![\w/.:@+-])(?!mailto:)[\w.+-]{1,99}:(?P<secret>[^\s/@:'\"<>]{3,99})@(?:localhost|[\w-]{1,99}\.\w)",
        # ?sig=..., &api_key=...
        rf"[?&;#](?:[\w.~-]{{0,40}}(?:{WORDS})[\w.~-]{{0,40}}|(?:[\w.~-]{{0,40}}[-_])?(?:{SHORT}))="
        r"(?P<secret>[^\s&;#'\"<>]+)",
        # ids of Amazon's keys; tokens of GitHub, GitLab and Hugging Face
        r"\b(?P<secret>(?-i:AKIA|ASIA|AROA|AIDA)(?-i:[A-Z0-9]{16}))\b",
        r"\b(?P<secret>(?:gh[pousr]|github_pat|glpat|hf)[_-]\w{16,99})\b",
        # password=... in a text
        rf"(?<![\w-])[\w-]{{0,40}}(?:{WORDS})[\w-]{{0,40}}[\"']?\s?[=:]\s?[\"']?(?P<secret>[\w+/.~%-]{{6,}})",
    )
]


def mask(text: str, known: Iterable[str] = ()) -> str:
    """The text without what looks like a secret, nor any of the `known` ones.

    >>> mask("s3://me:hunter2@host/a.tar?sig=abc&part=1")
    's3://me:***@host/a.tar?sig=***&part=1'
    """
    for each in sorted(known, key=len, reverse=True):
        text = text.replace(each, MASK)
    for pattern in PATTERNS:
        text = pattern.sub(_without, text)
    return text


def masked(value: Any, known: Iterable[str] = (), name: str = "") -> Any:
    """Plain values (of settings, parameters, JSON) without their secrets; `name` is that of the value."""
    if isinstance(value, Mapping):
        kept = {key for key in value if str(key).startswith("image/")}
        return {key: each if key in kept else masked(each, known, str(key)) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(masked(each, known, name) for each in value)
    if not isinstance(value, str):
        return value
    return MASK if _secret(name, value) else mask(value, known)


def secrets(values: Mapping[str, Any]) -> set[str]:
    """The secrets in plain values, as they may turn up in other texts."""
    found = {each for name, value in values.items() if isinstance(value, str) for each in _of(name, value)}
    return {each for each in found | {unquote(each) for each in found} if len(each) >= SHORTEST}


def _of(name: str, value: str) -> Iterator[str]:
    if _secret(name, value):
        yield value
    for pattern in PATTERNS:
        yield from (each["secret"] for each in pattern.finditer(value))


def _secret(name: str, value: str) -> bool:
    return bool(NAME.search(name)) and value.strip().lower() not in NO_SECRETS


def _without(found: re.Match[str]) -> str:
    start, end = (each - found.start() for each in found.span("secret"))
    return found[0][:start] + MASK + found[0][end:]
