"""Who may see the page: a browser that was given its key, under a name by which the page may be called.

The page is served on loopback, where every user of the machine and every site in a browser can reach it.
A site cannot read it by DNS rebinding, because the Host header must be one of the page's names; another user
cannot, because he lacks the key. The key comes once, in the address that `penstock train` prints, and stays in a cookie
of this port that no script reads.

    GET /?key=...  ->  303 /, Set-Cookie: penstock-<port>=...      GET /  ->  403 without it
"""

import hmac
import ipaddress
from collections.abc import Collection

from starlette.datastructures import URL
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

LOCAL = ("localhost", "127.0.0.1", "::1")


class Guard:
    """Lets through what the module says; everything else is answered here.

    Args:
        names: by which the page may be called, besides those of loopback. key: empty where anybody may look.
    """

    def __init__(self, app: ASGIApp, names: Collection[str], key: str) -> None:
        self._app, self._names, self._key = app, {*LOCAL, *names}, key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        answer = self._refusal(Request(scope))
        await (self._app if answer is None else answer)(scope, receive, send)

    def _refusal(self, request: Request) -> Response | None:
        """The answer to a request that must not reach the page; None for one that may."""
        host = host_of(request.headers.get("host", ""))
        if host not in self._names:
            return PlainTextResponse(f"this page is not called {host!r}; see --host\n", status_code=421)
        if not self._key:
            return None
        cookie = f"penstock-{request.url.port or 80}"
        if _equal(request.query_params.get("key", ""), self._key):
            answer = RedirectResponse(URL(scope=request.scope).remove_query_params("key").path, status_code=303)
            answer.set_cookie(cookie, self._key, httponly=True, samesite="strict", secure=request.url.scheme == "https")
            return answer
        if _equal(request.cookies.get(cookie, ""), self._key):
            return None
        return PlainTextResponse("open the address that penstock train printed: it has the key\n", status_code=403)


def host_of(header: str) -> str:
    """The name or address of a Host header, without its port."""
    name = header.rpartition(":")[0] if header.rpartition(":")[2].isdigit() else header
    name = name.strip("[]").lower()
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        return name


def _equal(shown: str, key: str) -> bool:
    return hmac.compare_digest(shown.encode(), key.encode())
