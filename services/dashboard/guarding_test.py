"""The page answers its own names and the browsers that were given its key, and nobody else."""

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from services.dashboard.guarding import Guard, host_of

KEY, PLACE = "k" * 43, "http://127.0.0.1:8080"


async def secret(request: Request) -> Response:
    return PlainTextResponse("samples")


def client(key: str = KEY, names: tuple[str, ...] = ("page.example",)) -> TestClient:
    page = Starlette(routes=[Route("/", secret)], middleware=[Middleware(Guard, names=names, key=key)])
    return TestClient(page, base_url=PLACE, follow_redirects=False)


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8080", "127.0.0.1.evil.example:8080", "", "localhost.:1", "[::2]:80", "page"]
)
def test_other_names_are_refused_also_with_the_key(host: str) -> None:
    with client() as browser:
        assert browser.get(f"/?key={KEY}", headers={"host": host}).status_code == 421


@pytest.mark.parametrize(
    "host", ["localhost:8080", "127.0.0.1", "[::1]:8080", "PAGE.example:8080", "[0:0:0:0:0:0:0:1]:1"]
)
def test_the_pages_own_names_are_answered(host: str) -> None:
    with client(key="") as browser:
        assert browser.get("/", headers={"host": host}).text == "samples"


def test_the_key_is_shown_once_and_then_kept_out_of_addresses() -> None:
    with client() as browser:
        assert browser.get("/").status_code == 403
        assert browser.get("/?key=wrong").status_code == 403
        first = browser.get(f"/?key={KEY}")
        assert (first.status_code, first.headers["location"]) == (303, "/")
        flags = first.headers["set-cookie"].lower()
        assert flags.startswith("penstock-8080=") and "httponly" in flags and "samesite=strict" in flags
        assert browser.get("/").text == "samples"


@pytest.mark.parametrize(
    ("header", "name"), [("a:1", "a"), ("a", "a"), ("[::1]:80", "::1"), ("[::1]", "::1"), ("A.B:", "a.b:"), ("", "")]
)
def test_a_host_header_is_read_without_its_port(header: str, name: str) -> None:
    assert host_of(header) == name
