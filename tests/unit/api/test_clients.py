"""Who is asking."""

from __future__ import annotations

import pytest

from lemonade_serve import errors
from lemonade_serve.api.clients import Clients

KEYED = Clients({"alice": "one key", "bob": "another kéy"})
KEYLESS = Clients({})


def headers(**said: str) -> list[tuple[bytes, bytes]]:
    return [(name.replace("_", "-").encode(), value.encode()) for name, value in said.items()]


@pytest.mark.parametrize(
    ("authorization", "client"),
    [
        ("Bearer one key", "alice"),
        ("bearer one key", "alice"),
        ("BEARER   one key ", "alice"),
        ("Bearer another kéy", "bob"),
    ],
)
def test_a_key_names_its_client(authorization: str, client: str) -> None:
    assert KEYED.identify(headers(authorization=authorization)) == client


@pytest.mark.parametrize(
    "authorization",
    [
        "",
        "Bearer",
        "Bearer ",
        "one key",
        "Basic one key",
        "Bearer one",
        "Bearer one key2",
        "Bearer x",
    ],
)
def test_what_is_no_key_is_refused(authorization: str) -> None:
    with pytest.raises(errors.Unauthenticated, match="Authorization: Bearer"):
        KEYED.identify(headers(authorization=authorization, x_client_id="alice"))


def test_an_empty_key_opens_nothing() -> None:
    careless = Clients({"nobody": ""})
    with pytest.raises(errors.Unauthenticated):
        careless.identify(headers(authorization="Bearer "))


def test_saying_nothing_is_refused_where_a_key_is_needed() -> None:
    with pytest.raises(errors.Unauthenticated):
        KEYED.identify([])


def test_the_first_of_two_keys_counts() -> None:
    both = headers(authorization="Bearer one key") + headers(authorization="Bearer another kéy")
    assert KEYED.identify(both) == "alice"


def test_with_a_key_a_client_id_is_a_client_of_the_key_and_never_another_keys() -> None:
    said = headers(authorization="Bearer one key", x_client_id="bob")
    assert KEYED.identify(said) == "alice/bob"


def test_without_keys_authorization_is_ignored() -> None:
    assert KEYLESS.identify(headers(authorization="Bearer sk-none")) == "default"
    assert not KEYLESS.known


@pytest.mark.parametrize("name", ["a", "A.b_c:d-9", "x" * 64])
def test_without_keys_a_client_says_who_it_is(name: str) -> None:
    assert KEYLESS.identify(headers(x_client_id=name)) == name


@pytest.mark.parametrize("name", ["", " ", "a b", "a/b", "é", "x" * 65, "a\n", "a,b"])
@pytest.mark.parametrize("clients", [KEYLESS, KEYED])
def test_what_cannot_be_a_client_id_is_refused(clients: Clients, name: str) -> None:
    with pytest.raises(errors.InvalidRequest) as raised:
        clients.identify(headers(authorization="Bearer one key", x_client_id=name))
    assert raised.value.param == "X-Client-Id"
