"""Generation parameters and clients, as they are settled (docs/api.md), against a real daemon.

That a write that was answered survives a kill at any moment is in test_durability.py; that a seed
repeats a text in test_openai_client.py.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from tests.daemon import MODEL, Daemon
from tests.gallery import TWIN, Gallery

PARAMS = "/api/v0/params"
DEFAULTS = {
    "temperature": 0.7,
    "top_p": 0.95,
    "top_k": 50,
    "min_p": 0.0,
    "min_length": 0,
    "max_length": 2048,
    "do_sample": True,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "seed": None,
    "stop": [],
}
"""The specification's, and what goes beyond it."""
ROUTES = {
    "/api/v0/completions": {"prompt": "Hi"},
    "/v1/completions": {"prompt": "Hi"},
    "/api/v1/completions": {"prompt": "Hi"},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "Hi"}]},
    "/api/v0/chat/completions": {"messages": [{"role": "user", "content": "Hi"}]},
}
_numbers = itertools.count(1)


class Client:
    """Whoever sends these headers."""

    def __init__(self, daemon: Daemon, **headers: str) -> None:
        self._daemon = daemon
        self._headers = {name.replace("_", "-"): value for name, value in headers.items()}

    def ask(self, verb: str, path: str = PARAMS, **how: Any) -> httpx.Response:
        return self._daemon.client.request(verb, path, headers=self._headers, **how)

    def set(self, **changes: Any) -> dict[str, Any]:
        """Returns all that is in force then."""
        answer = self.ask("POST", json=changes)
        assert answer.status_code == 200, answer.text
        params: dict[str, Any] = answer.json()["params"]
        return params

    def shown(self, name: str, **query: str) -> tuple[Any, str]:
        """A parameter's value, and where it came from."""
        answer = self.ask("GET", params=query).json()
        return answer["params"][name], answer["sources"][name]

    def tokens(self, path: str = "/api/v0/completions", model: str = MODEL, **said: Any) -> int:
        """How many a request gets."""
        body = {"model": model, **ROUTES[path], **said}
        answer = self.ask("POST", path, json=body)
        assert answer.status_code == 200, answer.text
        count: int = answer.json()["usage"]["completion_tokens"]
        return count


@pytest.fixture(scope="module")
def keyless(gallery: Gallery, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """It has a word of its own on lengths."""
    settings = {
        "LEMONADE_CACHE_DIR": str(gallery.root),
        "LEMONADE_PARAMETERS__MAX_LENGTH": "6",
        "LEMONADE_PARAMETERS__IGNORE_EOS": "true",
    }
    with Daemon.start(tmp_path_factory.mktemp("keyless"), settings) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def keyed(cache_dir: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    settings = {
        "LEMONADE_CACHE_DIR": str(cache_dir),
        "LEMONADE_API_KEYS__ALICE": "alice's-key",
        "LEMONADE_API_KEYS__BOB": "bob's-key",
    }
    with Daemon.start(tmp_path_factory.mktemp("keyed"), settings) as daemon:
        yield daemon


@pytest.fixture
def client(keyless: Daemon) -> Client:
    """A new one each time."""
    return Client(keyless, X_Client_Id=f"client-{next(_numbers)}")


def test_top_k_is_50_and_the_other_defaults_are_the_specification_s(keyed: Daemon) -> None:
    answer = Client(keyed, Authorization="Bearer alice's-key").ask("GET").json()
    assert answer["params"] == DEFAULTS
    assert answer["sources"] == dict.fromkeys(DEFAULTS, "default")


def test_the_nearest_word_counts(client: Client) -> None:
    """The settings', the client's, its word for the model, the request's."""
    assert client.shown("max_length") == (6, "settings")
    assert client.tokens() == 6
    client.set(max_length=5)
    client.set(max_length=3, model=TWIN)
    assert client.shown("max_length") == (5, "client")
    assert client.shown("max_length", model=TWIN) == (3, "model")
    assert client.shown("max_length", model=MODEL) == (5, "client")
    assert client.shown("top_k", model=TWIN) == (50, "default")
    assert (client.tokens(), client.tokens(model=TWIN)) == (5, 3)
    assert client.tokens(max_length=2) == client.tokens(model=TWIN, max_length=2) == 2
    assert client.shown("max_length", model=TWIN) == (3, "model")


@pytest.mark.parametrize("path", ROUTES)
def test_parameters_hold_on_every_route_that_leaves_them_out(client: Client, path: str) -> None:
    said = "max_length" if path == "/api/v0/completions" else "max_tokens"
    client.set(max_length=4)
    assert client.tokens(path) == 4
    assert client.tokens(path, **{said: 1}) == 1


@pytest.mark.parametrize("path", ["/api/v0/completions", "/v1/completions"])
def test_every_parameter_that_is_kept_is_honoured(client: Client, path: str) -> None:
    def text(**kept: Any) -> str:
        client.ask("DELETE")
        client.set(max_length=5, **kept)
        body = {"model": MODEL, "prompt": "One, two, three,"}
        answer = client.ask("POST", path, json=body).json()
        return str(answer["text"] if "text" in answer else answer["choices"][0]["text"])

    greedy = text(temperature=0)
    wild = {"temperature": 2, "top_p": 1, "top_k": 0}
    assert text(**{**wild, "do_sample": False}) == greedy
    assert text(**{**wild, "top_k": 1}) == greedy
    assert text(**{**wild, "top_p": 1e-9}) == greedy
    assert text(**wild, min_p=1) == greedy
    assert text(**wild, seed=1) == text(**wild, seed=1) != text(**wild, seed=2)
    assert text(temperature=0, repetition_penalty=2) != greedy
    assert text(temperature=0, stop=greedy[3:5]) == greedy[: greedy.index(greedy[3:5])]


def test_setting_merges_and_null_puts_a_field_back(client: Client) -> None:
    client.set(temperature=0.1)
    params = client.set(top_k=7, stop=["a", "b"])
    assert params == {
        **DEFAULTS,
        "max_length": 6,
        "temperature": 0.1,
        "top_k": 7,
        "stop": ["a", "b"],
    }
    params = client.set(temperature=None, max_length=None, stop=None)
    assert params == {**DEFAULTS, "max_length": 6, "top_k": 7}
    assert client.shown("temperature") == (0.7, "default")
    assert client.shown("top_k") == (7, "client")
    client.set(top_k=9, model=MODEL)
    assert client.set(top_k=None, model=MODEL)["top_k"] == 7


def test_forgetting_takes_one_model_s_or_everything(client: Client) -> None:
    client.set(top_k=7)
    for model in (MODEL, TWIN):
        client.set(top_k=8, model=model)
    assert client.ask("DELETE", params={"model": TWIN}).json()["status"] == "success"
    assert client.shown("top_k", model=TWIN) == (7, "client")
    assert client.shown("top_k", model=MODEL) == (8, "model")
    assert client.ask("DELETE").status_code == 200
    assert client.shown("top_k") == client.shown("top_k", model=MODEL) == (50, "default")


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        *(("temperature", value) for value in (-0.1, 2.1, "warm", True)),
        *(("top_p", value) for value in (0, 1.1)),
        *(("top_k", value) for value in (-1, 1001, 1.5)),
        *(("min_length", value) for value in (-1, 7)),
        *(("max_length", value) for value in (0, -1)),
        ("do_sample", "perhaps"),
        *(("min_p", value) for value in (-0.1, 1.1)),
        *(("repetition_penalty", value) for value in (0, 2.1)),
        *(("presence_penalty", value) for value in (-2.1, 2.1)),
        *(("frequency_penalty", value) for value in (-2.1, 2.1)),
        ("seed", 1 << 63),
        *(("stop", value) for value in ("", [], [""], ["x"] * 17, "x" * 257, ["x", 1])),
        ("top_q", 1),
        ("ignore_eos", True),
    ],
)
def test_what_is_wrong_is_refused_by_name_and_nothing_is_kept(
    client: Client, name: str, wrong: Any
) -> None:
    before = client.ask("GET").json()
    answer = client.ask("POST", json={"seed": 3, name: wrong})
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request_error")
    assert name in answer.json()["message"]
    assert client.ask("GET").json() == before
    if name not in ("top_q", "ignore_eos"):
        asked = client.ask("POST", "/api/v0/completions", json={"prompt": "Hi", name: wrong})
        assert asked.status_code == 400
        assert name in asked.json()["message"]


@pytest.mark.parametrize(
    "right",
    [
        {"temperature": 0, "top_p": 1, "top_k": 0, "min_length": 0, "max_length": 1},
        {"temperature": 2, "top_p": 1e-9, "top_k": 1000, "min_length": 6, "repetition_penalty": 2},
        {"min_length": 10, "max_length": 10, "repetition_penalty": 1e-9, "seed": -(1 << 63)},
        {"stop": ["x"] * 16, "do_sample": False},
        {"stop": ["x" * 256]},
    ],
)
def test_the_bounds_themselves_are_within(client: Client, right: dict[str, Any]) -> None:
    assert client.set(**right).items() >= right.items()


def test_parameters_of_a_model_that_is_not_there_are_not_kept(client: Client) -> None:
    answer = client.ask("POST", json={"top_k": 7, "model": "nobody"})
    assert (answer.status_code, answer.json()["code"]) == (404, "model_not_found")
    assert client.shown("top_k") == (50, "default")


def test_layers_that_contradict_each_other_are_refused_when_they_meet(client: Client) -> None:
    client.set(min_length=5)
    answer = client.ask("POST", json={"max_length": 4})
    assert answer.status_code == 400
    assert "min_length" in answer.json()["message"]
    asked = client.ask("POST", "/v1/completions", json={"prompt": "Hi", "max_tokens": 4})
    assert asked.status_code == 400
    assert asked.json()["error"]["param"] == "min_tokens"


def test_parameters_are_kept_over_restarts(start_daemon: Callable[..., Daemon]) -> None:
    daemon = start_daemon()
    Client(daemon).set(top_k=7)
    Client(daemon, X_Client_Id="a").set(top_k=8, model=MODEL)
    daemon.kill()
    daemon = start_daemon()
    assert Client(daemon).shown("top_k") == (7, "client")
    assert Client(daemon, X_Client_Id="a").shown("top_k", model=MODEL) == (8, "model")
    assert Client(daemon, X_Client_Id="a").shown("top_k") == (50, "default")
    assert daemon.terminate() == 0
    assert Client(start_daemon()).shown("top_k") == (7, "client")


def test_without_keys_a_client_is_who_it_says_or_the_default_one(keyless: Daemon) -> None:
    names = ("a", "A", "a.b_c:d-9", "x" * 64)
    clients = [Client(keyless, X_Client_Id=name) for name in names]
    for top_k, client in enumerate(clients):
        client.set(top_k=top_k)
    nameless = Client(keyless)
    assert nameless.shown("top_k") == (50, "default")
    assert [client.shown("top_k")[0] for client in clients] == [0, 1, 2, 3]
    nameless.set(top_k=4)
    assert Client(keyless, X_Client_Id="default").shown("top_k") == (4, "client")
    assert Client(keyless, Authorization="Bearer anything").shown("top_k") == (4, "client")
    clients[0].ask("DELETE")
    assert [client.shown("top_k")[0] for client in clients] == [50, 1, 2, 3]
    nameless.ask("DELETE")


@pytest.mark.parametrize("name", ["", "a b", "x" * 65, "a/b", "\u00fc"])
def test_a_client_id_that_cannot_be_one_is_refused(
    keyless: Daemon, keyed: Daemon, name: str
) -> None:
    headers = {"X-Client-Id": name.encode("latin-1"), "Authorization": b"Bearer alice's-key"}
    for daemon in (keyless, keyed):
        spec = daemon.client.get(PARAMS, headers=headers)
        assert (spec.status_code, spec.json()["code"]) == (400, "invalid_request_error")
        assert "X-Client-Id" in spec.json()["message"]
        openai = daemon.client.post("/v1/completions", json={"prompt": "Hi"}, headers=headers)
        assert openai.status_code == 400
        assert openai.json()["error"]["param"] == "X-Client-Id"


def test_a_key_is_a_client_and_a_client_id_is_one_under_it(keyed: Daemon) -> None:
    alice = Client(keyed, Authorization="Bearer alice's-key")
    bob = Client(keyed, Authorization="Bearer bob's-key")
    alice_s_bob = Client(keyed, Authorization="Bearer alice's-key", X_Client_Id="bob")
    alice_s_alice = Client(keyed, Authorization="Bearer alice's-key", X_Client_Id="alice")
    bob_s_alice = Client(keyed, Authorization="Bearer bob's-key", X_Client_Id="alice")
    clients = [alice, bob, alice_s_bob, alice_s_alice, bob_s_alice]
    for top_k, client in enumerate(clients):
        client.set(top_k=top_k)
    assert [client.shown("top_k")[0] for client in clients] == [0, 1, 2, 3, 4]
    alice.ask("DELETE")
    assert [client.shown("top_k")[0] for client in clients] == [50, 1, 2, 3, 4]


def test_two_clients_see_and_change_only_their_own(client: Client, keyless: Daemon) -> None:
    other = Client(keyless, X_Client_Id=f"client-{next(_numbers)}")
    client.set(max_length=2)
    client.set(max_length=1, model=TWIN)
    assert other.shown("max_length") == other.shown("max_length", model=TWIN) == (6, "settings")
    assert other.tokens("/v1/chat/completions") == 6
    other.set(max_length=3)
    other.ask("DELETE", params={"model": TWIN})
    assert client.shown("max_length") == (2, "client")
    assert client.shown("max_length", model=TWIN) == (1, "model")
    other.ask("DELETE")
    assert client.tokens("/v1/chat/completions") == 2
