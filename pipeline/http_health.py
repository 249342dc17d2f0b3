"""Check the health of a server: it must answer with status 200. The check uses no proxy.

Docker sets `http_proxy` in every container if its user has one. `http.client` does not read it.
"""

import http.client
import sys

#: Seconds to wait for the answer. The script of the page runs meanwhile.
ANSWER_SECONDS = 25.0


def problem(port: int, path: str, seconds: float = ANSWER_SECONDS) -> str | None:
    """Return why a server on this machine is unhealthy, in one sentence; None if it is healthy."""
    address = f"http://127.0.0.1:{port}{path}"
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=seconds)
    try:
        connection.request("GET", path)
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        cause = str(error) or type(error).__name__
        return f"no answer from {address}. Read the log of this container. Cause: {cause}"
    finally:
        connection.close()
    if status == http.HTTPStatus.OK:
        return None
    return f"{address} answers with status {status}. Read the log of this container"


def main() -> None:
    """Run `python -m pipeline.http_health PORT PATH`: status 1 and a sentence if unhealthy."""
    match sys.argv[1:]:
        case [port, path] if port.isdecimal():
            sys.exit(problem(int(port), path))
    sys.exit("usage: python -m pipeline.http_health PORT PATH")


if __name__ == "__main__":
    main()
