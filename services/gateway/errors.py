"""Why a call of an agent is not answered, in the shape of OpenAI's API.

    {"error": {"message": "…", "type": "invalid_request_error", "param": "temperature", "code": "sampling_fixed"}}

A client that repeats failed calls by itself is told where that would not help (`x-should-retry`).
"""

from __future__ import annotations

from starlette.responses import JSONResponse


class CallRefused(Exception):
    """A call that gets an error. The text is one sentence for people; `param` names the field of the request."""

    status = 400
    kind = "invalid_request_error"
    code = "invalid_value"

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param

    def response(self) -> JSONResponse:
        """As HTTP."""
        error = {"message": str(self), "type": self.kind, "param": self.param, "code": self.code}
        return JSONResponse({"error": error}, self.status, {"x-should-retry": "false"})


class Unsupported(CallRefused):
    """The gateway cannot do what is asked."""

    code = "unsupported_value"


class SamplingFixed(CallRefused):
    """The call asks for another distribution than the run's."""

    code = "sampling_fixed"


class ContextFull(CallRefused):
    """The conversation leaves no room for an answer."""

    code = "context_length_exceeded"


class KeyUnknown(CallRefused):
    """The key is of no session, or its time is over."""

    status = 401
    kind = "authentication_error"
    code = "invalid_api_key"


class BudgetSpent(CallRefused):
    """The sample may draw no more."""

    status = 429
    kind = "insufficient_quota"
    code = "insufficient_quota"


class EnginesFailed(CallRefused):
    """No engine drew an answer: the sample has failed."""

    status = 503
    kind = "server_error"
    code = "generation_failed"


class NotFound(CallRefused):
    """No such thing here."""

    status = 404
    code = "not_found"
