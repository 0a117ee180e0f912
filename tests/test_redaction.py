"""Secrets never survive, all else does, and hiding twice is hiding once."""

import random
import string

import pytest

from fd_scale import redaction
from fd_scale.redaction import is_redacted, redacted, redacted_text, redacted_words, remember, without_secrets

SECRET = "hunter2Pass"


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        (f"https://user:{SECRET}@host:80/a@b?v=2", "https://user:***@host:80/a@b?v=2"),
        (f"https:/user:{SECRET}@host/a", "https:/user:***@host/a"),  # `Path` takes one slash away
        (f"https://user:{SECRET}@pass@host/a", "https://user:***@host/a"),
        (f"https://user:x/{SECRET}@host/a", "https://user:***@host/a"),
        (f"https://{SECRET}@host/a", "https://***@host/a"),
        (f"https://{SECRET}:x-oauth-basic@host/a", "https://***:***@host/a"),
        (f"ftp://:{SECRET}@host", "ftp://:***@host"),
        (f"mysql+pymysql://user:{SECRET}@host:3306/db", "mysql+pymysql://user:***@host:3306/db"),
        (f"s3://AKIAIOSFODNN7EXAMPLE:{SECRET}@bucket/run", "s3://***:***@bucket/run"),
        (f"https://host/{{000..009}}.tar?token={SECRET}&v=2", "https://host/{000..009}.tar?token=***&v=2"),
        (f"https://host/a#access_token={SECRET}&x=1", "https://host/a#access_token=***&x=1"),
        (f"https://host/a?Access%2DToken={SECRET}", "https://host/a?Access%2DToken=***"),
        (
            f"https://host/a?X-Amz-Date=20260101&X-Amz-Signature={SECRET}&x=1",
            "https://host/a?X-Amz-Date=***&X-Amz-Signature=***&x=1",
        ),
        (f"https://host/a?sv=2022&se=2026&sig={SECRET}&x=1", "https://host/a?sv=***&se=***&sig=***&x=1"),
        (f"https://host/a?token={SECRET};{SECRET}&x=1", "https://host/a?token=***&x=1"),
        (
            f"https://a::https://u:{SECRET}@b/c?key={SECRET}::s3://d/e",
            "https://a::https://u:***@b/c?key=***::s3://d/e",
        ),
        (f"https://a/b?token={SECRET},https://c:80/d?e=f", "https://a/b?token=***,https://c:80/d?e=f"),
        (f"pipe:curl -H 'Authorization: Bearer {SECRET}' https://h/x", "pipe:curl -H 'Authorization: ***' https://h/x"),
        (f"pipe:curl -u me:{SECRET} https://h/x", "pipe:curl -u me:*** https://h/x"),
        (f"pipe:curl -H 'X-Auth-Token: {SECRET}' https://h/x", "pipe:curl -H 'X-Auth-Token: ***' https://h/x"),
        (f"fails at '/a/b?token={SECRET}' (Caused by x)", "fails at '/a/b?token=***' (Caused by x)"),
        (f"storage.password={SECRET}", "storage.password=***"),
        (f"S3FileSystem(anon=False, secret='{SECRET}')", "S3FileSystem(anon=False, secret='***')"),
        (f'{{"api_key":"{SECRET}","n":1}}', '{"api_key":"***","n":1}'),
        (f"n: 1\npassword: {SECRET}\nm: 2", "n: 1\npassword: ***\nm: 2"),
        (f"unrecognized arguments: --token {SECRET} --seed 1", "unrecognized arguments: --token *** --seed 1"),
        (f"https://user:{SECRET}", "https://user:***"),  # cut off
    ],
)
def test_a_secret_is_hidden_and_nothing_else(text, hidden):
    assert redacted(text) == hidden
    assert redacted(hidden) == hidden
    assert SECRET not in without_secrets(text)


@pytest.mark.parametrize(
    "text",
    [
        "https://host:8080/a@b, or http://[::1]:80/c.",
        "sftp://alice@host/runs",
        "abfs://container-of-2024-images@account.dfs.core.windows.net/runs",
        "s3://bucket/runs/a?versionId=3",
        "tcp://127.0.0.1:29500",
        "teacher timm:vit_small_patch16_224.dino@weights.pth",
        "file:/data/a:b@c/teacher.safetensors",
        "student.weights_key=model with_cls_token=True pad_token=0",
        "no class token: set target.kind=tokens",
        "run.mlflow=null password=None",
        "C:\\x /a/b user@host",
        "step 3/8  loss 0.2  00:01 left",
    ],
)
def test_what_is_no_secret_stays(text):
    assert redacted(text) == text
    assert not is_redacted(text)


def test_settings_are_hidden_by_their_names_in_trees():
    given = {
        "storage": {"key": "id", "secret": SECRET, "anon": False},
        "password": 1234567,
        "session_token": None,
        "tokens": ("a", SECRET),
        "with_cls_token": True,
        "train": {f"https://u:{SECRET}@h/a": 0.5},
        "n": [1, 2.5],
    }
    assert redacted(given) == {
        "storage": {"key": "***", "secret": "***", "anon": False},
        "password": "***",
        "session_token": None,
        "tokens": ("***", "***"),
        "with_cls_token": True,
        "train": {"https://u:***@h/a": 0.5},
        "n": [1, 2.5],
    }
    assert given["storage"]["secret"] == SECRET


def test_words_behind_an_option_are_hidden_whole():
    words = ["--token", SECRET, "--seed", "3", f"x.password={SECRET}", "--key", "model", "--secret-key", "--force"]
    hidden = ["--token", "***", "--seed", "3", "x.password=***", "--key", "model", "--secret-key", "--force"]
    assert redacted_words(words) == hidden
    assert redacted_words([]) == []


def test_another_secret_is_the_same_identity_and_another_place_is_not():
    def address(password: str, token: str, host: str = "host") -> dict:
        return {"spec": f"sftp://user:{password}@{host}/a?token={token}&v=1", "password": password, "n": 1}

    assert without_secrets(address("a1", "b1")) == without_secrets(address("a2", "b2"))
    assert without_secrets(address("a1", "b1")) == without_secrets(redacted(address("a2", "b2")))
    assert without_secrets(address("a1", "b1"))["spec"] == without_secrets("sftp://host/a?v=1")
    assert without_secrets("abfs://a@host/b") != without_secrets("abfs://c@host/b")
    assert without_secrets(address("a1", "b1")) != without_secrets(address("a1", "b1", "elsewhere"))


def test_what_was_written_down_is_recognised():
    for text in ("https://u:***@h/a", "https://***@h/a", "https://h/a?token=***&x=1", "***", "pipe:x --token=***"):
        assert is_redacted(text)
    assert not is_redacted("shards/***/a")


def test_a_secret_that_was_given_is_hidden_wherever_it_is_repeated(monkeypatch):
    monkeypatch.setattr(redaction, "_known", {})
    remember({"url": "https://user:p%40ss%2Fword@host/a?token=b1b2b3b4"})
    assert redacted_text("login of p@ss/word failed: b1b2b3b4, not xb1b2b3b4x") == (
        "login of *** failed: ***, not xb1b2b3b4x"
    )


NAMES = (
    "token",
    "access_token",
    "sig",
    "X-Amz-Signature",
    "X-Goog-Signature",
    "key",
    "apiKey",
    "password",
    "auth_token",
)
ALPHABET = string.ascii_letters + string.digits + "-._~!$*+%="
PLAIN = string.ascii_lowercase


def _generated(draw: random.Random) -> tuple[str, list[str], list[str]]:
    """An address in some surroundings, its secrets, and what else stands in it."""

    def word(alphabet: str, least: int, most: int) -> str:
        return "".join(draw.choices(alphabet, k=draw.randint(least, most)))

    secrets, others = [], []

    def secret() -> str:
        secrets.append("Zq9" + word(ALPHABET, 4, 30) + "x")
        return secrets[-1]

    def other() -> str:
        others.append(word(PLAIN, 3, 12))
        return others[-1]

    scheme = draw.choice(["https", "http", "sftp", "s3", "ftp", "webdavs", "mysql+pymysql"])
    slashes = draw.choice(["://", "://", ":/"])
    forms = [lambda: "", lambda: f"{other()}:{secret()}@"]
    if scheme.startswith("http"):
        forms.append(lambda: f"{secret()}@")
    user = draw.choice(forms)()
    host = other() + draw.choice(["", ".example.org", ":8080"])
    path = "".join(f"/{other()}" for _ in range(draw.randint(0, 3))) + draw.choice(["", "/{000..009}.tar", "/a@b"])
    pairs = [f"{draw.choice(NAMES)}={secret()}" for _ in range(draw.randint(0, 2))]
    pairs += [f"v{other()}={other()}" for _ in range(draw.randint(0, 2))]
    draw.shuffle(pairs)
    query = (draw.choice("?#") if pairs else "") + "&".join(pairs)
    address = f"{scheme}{slashes}{user}{host}{path}{query}"
    form = draw.choice(["{}", "{}", "data.train={}", "cannot read '{}': {}", "{}::https://b/c", "pipe:cat {} | tar x"])
    return form.replace("{}", address), secrets, others


def test_generated_addresses_lose_their_secrets_and_nothing_else():
    draw = random.Random(0)
    for _ in range(600):
        text, secrets, others = _generated(draw)
        hidden = redacted(text)
        assert not [secret for secret in secrets if secret in hidden], (text, hidden)
        assert not [other for other in others if other not in hidden], (text, hidden)
        assert redacted(hidden) == hidden, (text, hidden)
        assert is_redacted(hidden) == bool(secrets), (text, hidden)
        assert without_secrets(hidden) == without_secrets(text), (text, hidden)


def test_long_text_takes_no_longer_than_its_length():
    for piece in ("a", "a.b-", "://", "=", "https://a:b", "?token=", "-u a:", "'a:"):
        redacted(piece * (20_000 // len(piece)))
