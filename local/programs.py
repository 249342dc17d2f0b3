"""The processes of the stack and how supervisor runs them: its configuration file."""

import shlex
import sys
from pathlib import Path

from local import stack
from local.variables import Variables
from pipeline.data_dir import DataDir
from pipeline.errors import EXIT_OPERATIONAL

#: Options of every program. Supervisor restarts a program whenever it ends: at once if it ran for
#: `startsecs`, else after 1, 2, 3 and more seconds (`local/supervise.py` sets a limit). To stop a
#: program it sends SIGTERM, waits for `stopwaitsecs`, then kills it with its children.
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
#: For a program that loses nothing when it is killed.
SHORT_STOP = {"stopwaitsecs": 2}
#: For a program that ends when its work is done, or with status 2 if a person has to act. After
#: another status, supervisor starts it again.
ONCE = {
    "autorestart": "unexpected",
    "exitcodes": f"0,{EXIT_OPERATIONAL}",
    "startsecs": 0,
    **SHORT_STOP,
}


def configuration(variables: Variables, socket: Path, product: str) -> str:
    """Return supervisord's configuration file.

    Args:
        variables: what runs where.
        socket: where supervisord listens for `make status`.
        product: what the replay offers.
    """
    data = DataDir(variables.data_dir)
    page = (
        *("--server.port", variables.page.number, "--server.address", "127.0.0.1"),
        *("--server.headless", "true", "--server.fileWatcherType", "none"),
        *("--browser.gatherUsageStats", "false"),
    )
    announced = ("--data-dir", data.root, "--dashboard-port", variables.page.number)
    services: dict[str, dict[str, object]] = {
        "topics": {"command": _module("local.topics"), **ONCE},
        "producer": {"command": _python("producer.py")},
        "consumer": {"command": _python("consumer.py")},
        "spark_processor": {"command": _python("spark_processor.py")},
        "batch_scheduler": {"command": _python("batch_scheduler.py")},
        "dashboard": {"command": _module("streamlit", "run", "dashboard.py", *page), **SHORT_STOP},
        # `local.supervise` shows its output in the terminal.
        "announce": {
            "command": _module("local.announce", *announced),
            "stdout_events_enabled": "true",
            **ONCE,
        },
    }
    if feed := variables.replay:
        retime = "--retime" if feed.retimed else "--no-retime"
        options = (retime, "--speed", feed.speed, "--backlog", feed.backlog)
        where = ("--port", feed.port.number, "--product", product)
        services["feed"] = {
            "command": _module("feed.replay", feed.recording, *options, *where),
            **SHORT_STOP,
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
        "unix_http_server": {"file": socket, "chmod": "0700"},
        "supervisorctl": {"serverurl": f"unix://{socket}"},
        "rpcinterface:supervisor": {
            "supervisor.rpcinterface_factory": "supervisor.rpcinterface:make_main_rpcinterface"
        },
        # Supervisor stops one group after the other, and all programs of a group together.
        "group:pipeline": {"programs": ",".join(services), "priority": 10},
        **{f"program:{name}": own for name, own in services.items()},
    }
    if broker := variables.broker:
        ports = ("--port", broker.port.number, "--controller-port", broker.controller.number)
        kafka = _module("local.kafka", "--data-dir", data.broker, *ports)
        # Starts first and stops last: it has the lowest priority and is not in the group.
        sections["program:kafka"] = {"command": kafka, "priority": 1, **SHORT_STOP}
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
    """Return one section; a single per cent sign would start a variable of supervisor."""
    lines = (f"{key}={value}".replace("%", "%%") for key, value in section.items())
    return "\n".join((f"[{name}]", *lines, ""))
