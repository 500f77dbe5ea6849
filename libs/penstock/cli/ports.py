"""A port that people choose for the page."""

import socket


def port_problem(port: int | None) -> str:
    """Why the page cannot be served there; empty if it can, as far as one can see."""
    if port is None:
        return ""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            return f"--page-port: {port} cannot be served: {(error.strerror or str(error)).lower()}"
    return ""
