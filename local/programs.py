"""Which processes make up the stack, and how supervisor keeps them up: its configuration."""

import shlex
import sys
from pathlib import Path
from typing import NamedTuple

from local import stack
from pipeline.outputs import DataDir

#: Holds for every program. One that ends is started again for ever: at once when it had run for
#: `startsecs`, else after 1, 2, 3, ... seconds (`local/supervise.py` caps that). When asked to
#: end it has `stopwaitsecs`; then it and what it started is killed.
COMMON = {
    "directory": stack.ROOT,
    "autorestart": "true",
    "startsecs": 20,
    "startretries": 1_000_000,
    "stopwaitsecs": 5,
    "killasgroup": "true",
    "redirect_stderr": "true",
    "stdout_logfile_maxbytes": "2MB",
    "stdout_logfile_backups": 2,
}
#: A program that has nothing to lose is not waited for long.
BRIEF = {"stopwaitsecs": 2}
#: A program that has one thing to do, and is done then.
ONCE = {"autorestart": "unexpected", "startsecs": 0, **BRIEF}


class Feed(NamedTuple):
    """The replay that stands in for the exchange: what it plays, how, and where it listens.

    `speed` and `backlog` stand as `feed.replay` takes them.
    """

    recording: Path
    retimed: bool
    speed: str
    backlog: str
    port: int


def configuration(
    data: DataDir,
    *,
    kafka_port: int,
    controller_port: int,
    dashboard_port: int,
    feed: Feed | None,
    product: str,
) -> str:
    """The text of a configuration file for supervisord; without a feed the exchange is live."""
    ports = ("--port", kafka_port, "--controller-port", controller_port)
    kafka = _module("local.kafka", "--data-dir", data.root / "kafka", *ports)
    page = (
        *("--server.port", dashboard_port, "--server.address", "127.0.0.1"),
        *("--server.headless", "true", "--server.fileWatcherType", "none"),
        *("--browser.gatherUsageStats", "false"),
    )
    announced = ("--data-dir", data.root, "--dashboard-port", dashboard_port)
    services: dict[str, dict[str, object]] = {
        "topics": {"command": _module("local.topics"), **ONCE},
        "producer": {"command": _python("producer.py")},
        "consumer": {"command": _python("consumer.py")},
        "spark_processor": {"command": _python("spark_processor.py")},
        "batch_scheduler": {"command": _python("batch_scheduler.py")},
        "dashboard": {"command": _module("streamlit", "run", "dashboard.py", *page), **BRIEF},
        # Its output is shown where make was called.
        "announce": {
            "command": _module("local.announce", *announced),
            "stdout_events_enabled": "true",
            **ONCE,
        },
    }
    if feed:
        retime = "--retime" if feed.retimed else "--no-retime"
        options = (retime, "--speed", feed.speed, "--backlog", feed.backlog)
        where = ("--port", feed.port, "--product", product)
        services["feed"] = {
            "command": _module("feed.replay", feed.recording, *options, *where),
            **BRIEF,
        }
    logs = stack.logs(data.root)
    sections: dict[str, dict[str, object]] = {
        "supervisord": {
            "nodaemon": "true",
            "silent": "true",
            "nocleanup": "true",
            "logfile": logs / "supervisord.log",
            "logfile_maxbytes": "1MB",
            "logfile_backups": 1,
            "pidfile": stack.run_folder(data.root) / "supervisord.pid",
        },
        "unix_http_server": {"file": stack.socket_path(data.root), "chmod": "0700"},
        "supervisorctl": {"serverurl": f"unix://{stack.socket_path(data.root)}"},
        "rpcinterface:supervisor": {
            "supervisor.rpcinterface_factory": "supervisor.rpcinterface:make_main_rpcinterface"
        },
        # Started first and stopped last: the lowest priority, and not in the group.
        "program:kafka": {"command": kafka, "priority": 1, **BRIEF},
        # Supervisor stops one group after the other, what is in a group at the same moment.
        "group:pipeline": {"programs": ",".join(services), "priority": 10},
        **{f"program:{name}": own for name, own in services.items()},
    }
    for name, section in sections.items():
        if name.startswith("program:"):
            log = logs / f"{name.removeprefix('program:')}.log"
            sections[name] = {**COMMON, "stdout_logfile": log, **section}
    return "\n".join(_section(name, section) for name, section in sections.items())


def _python(*arguments: object) -> str:
    return shlex.join(map(str, (sys.executable, *arguments)))


def _module(*arguments: object) -> str:
    return _python("-m", *arguments)


def _section(name: str, section: dict[str, object]) -> str:
    """One section; a per cent sign would otherwise stand for one of supervisor's variables."""
    lines = (f"{key}={value}".replace("%", "%%") for key, value in section.items())
    return "\n".join((f"[{name}]", *lines, ""))
