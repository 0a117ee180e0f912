"""The words of a command on their way to the ranks: secrets in them travel in the environment.

Everyone on a machine can read the arguments of its processes; the environment, only the user can. So ranks are started
with words in which secrets are hidden, and find the whole ones in FD_SCALE_SECRET_WORDS.
"""

import json
import os
import sys
from collections.abc import Sequence

from fd_scale.redaction import redacted_words, remember

SECRET_WORDS = "FD_SCALE_SECRET_WORDS"
"""Environment variable: the words that hold secrets, as JSON by their numbers from the last word on (-1), because
a launcher on another host has them behind words of its own."""


def for_ranks(words: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The words as the arguments of a process, and the environment that completes them."""
    public = redacted_words(words)
    secret = {number - len(words): word for number, word in enumerate(words) if word != public[number]}
    return public, {SECRET_WORDS: json.dumps(secret)} if secret else {}


def own_words() -> list[str]:
    """The words that this process was started with, whole. Whoever asks `sys.argv` later, such as trackers do, finds
    them without secrets; and so do processes that are started from here.
    """
    words = sys.argv[1:]
    secret = json.loads(os.environ.pop(SECRET_WORDS, "{}"))
    whole = [secret.get(str(number - len(words)), word) for number, word in enumerate(words)]
    if redacted_words(whole) == words:  # else the variable is of another command
        words = whole
    public = redacted_words(words)
    remember([word for word, shown in zip(words, public, strict=True) if word != shown])
    sys.argv[1:] = public
    return words
