"""Keys: a secret opens its own entry, and no message shows what may be one."""

import hashlib
import hmac
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stock_assets.errors import SetupError
from stock_assets.keys import Key, Scope, key_of, new_key, parse_keys

DIGEST = "0123456789abcdef" * 4


def a_key(name: str, digest: str = DIGEST) -> Key:
    return Key(name, frozenset({Scope.READ}), digest)


def test_a_secret_opens_its_own_key_and_no_other() -> None:
    (secret, key), (other, _) = new_key("ops", [Scope.READ]), new_key("ops", [Scope.READ])
    assert key_of(secret, [a_key("before"), key, a_key("after")]) is key
    for wrong in (other, "", secret[:-1], secret + "x", secret.swapcase(), key.sha256, str(key)):
        assert key_of(wrong, [a_key("before"), key]) is None
    assert key_of(secret, []) is None


def test_secrets_are_long_and_differ() -> None:
    secrets = {new_key("ops", [Scope.READ])[0] for _ in range(50)}
    assert len(secrets) == 50
    assert min(map(len, secrets)) >= 43  # 256 bits


def test_an_entry_does_not_tell_its_secret() -> None:
    secret, key = new_key("ops", list(Scope))
    assert secret not in str(key)
    assert secret not in repr(key)


@settings(deadline=None)
@given(
    names=st.lists(st.from_regex(r"[A-Za-z0-9._-]{1,40}", fullmatch=True), unique=True),
    scopes=st.sets(st.sampled_from(Scope), min_size=1),
    between=st.sampled_from([",", ", ", " ", "\n", "\t", "\r\n", ",\n,"]),
)
def test_what_is_written_is_what_is_read(
    names: list[str], scopes: set[Scope], between: str
) -> None:
    keys = tuple(new_key(name, scopes)[1] for name in names)
    assert parse_keys(between.join(map(str, keys))) == keys


@pytest.mark.parametrize("text", ["", " ", ",", "\t\r\n", " , ,\n"])
def test_nothing_is_no_keys(text: str) -> None:
    assert parse_keys(text) == ()


@pytest.mark.parametrize(
    "entry",
    [
        "hunter2",
        "hunter2:read",
        f"hunter2:{DIGEST}",
        f"hunter2:read:{DIGEST[:-1]}",
        f"hunter2:read:{DIGEST}0",
        f"hunter2:read:{DIGEST.upper()}",
        f"hunter2:read:{DIGEST}:x",
        f":read:{DIGEST}",
        f"{'n' * 41}:read:{DIGEST}",
        f"hunter²:read:{DIGEST}",
        f"hunter2::{DIGEST}",
        f"hunter2:Read:{DIGEST}",
        f"hunter2:admin:{DIGEST}",
        f"hunter2:read+admin:{DIGEST}",
        f"hunter2:read++train:{DIGEST}",
        f"hunter2:read+:{DIGEST}",
    ],
)
def test_a_bad_entry_is_told_by_its_place_and_never_shown(entry: str) -> None:
    with pytest.raises(SetupError) as refused:
        parse_keys(f"{a_key('one')},{entry}\n{a_key('three')}")
    assert str(refused.value) == (
        "Entry 2 of STOCK_ASSETS_API_KEYS is no key. Expected name:scopes:sha256 with scopes of "
        "read+upload+train, as `stock-assets key NAME` prints it."
    )


def test_no_two_keys_have_one_name() -> None:
    with pytest.raises(SetupError, match=r"names b, c twice\.$"):
        parse_keys(" ".join(map(str, map(a_key, "abcbcc"))))


@pytest.mark.parametrize("secret", ["", "password", "changeme", "secret", "ops"])
def test_a_key_that_anybody_would_guess_is_refused(secret: str) -> None:
    weak = a_key("ops", hashlib.sha256(secret.encode()).hexdigest())
    with pytest.raises(SetupError, match=r"^Of the keys ops the secret can be guessed"):
        parse_keys(f"{a_key('sound')} {weak}")


def test_no_two_keys_have_one_secret() -> None:
    with pytest.raises(SetupError, match=r"^Of the keys one, two the secret .* is another's too\."):
        parse_keys(f"{a_key('one')} {a_key('two')} {a_key('three', DIGEST[::-1])}")


@pytest.mark.parametrize("name", ["", "a b", "a:read", "a,b", "a\n", "ä", "n" * 41])
def test_a_name_that_no_entry_could_have_is_refused(name: str) -> None:
    with pytest.raises(SetupError) as refused:
        new_key(name, [Scope.READ])
    assert repr(name) in str(refused.value)


@pytest.mark.parametrize("owner", [0, 1, 2, None])
def test_every_key_is_compared_whichever_it_is(
    monkeypatch: pytest.MonkeyPatch, owner: int | None
) -> None:
    made = [new_key(str(n), [Scope.READ]) for n in range(4)]
    keys = [key for _, key in made[:3]]
    compared = []
    compare: Callable[[str, str], bool] = hmac.compare_digest

    def note(one: str, other: str) -> bool:
        compared.append(other)
        return compare(one, other)

    monkeypatch.setattr(hmac, "compare_digest", note)
    secret = made[3 if owner is None else owner][0]
    assert key_of(secret, keys) is (None if owner is None else keys[owner])
    assert compared == [key.sha256 for key in keys]
