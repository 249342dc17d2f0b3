"""The faults: what each does, how often, and what the pipeline promises."""

from functools import partial

from faults import clock, injections, messages, servers
from faults.lab import CLOCK, KILLS, SMALL_DISK, Fault

#: Targets that take longer than a few seconds to come back.
SLOW = ("spark_processor", "stream_jvm", "kafka", "batch_run")
#: Targets that nothing else waits for: they are paused once, all others twice.
HARMLESS = ("batch_scheduler", "batch_run", "dashboard")
#: Injections of each fault that kills one process.
KILL_TIMES = 20
#: The faults of `--quick`. Other integration tests kill the producer, the scheduler and both
#: processes of the stream.
QUICK = ("kill-consumer", "kill-kafka", "server-drop", "malformed-kinds")
EXACT = "no trade lost or doubled, every result right"
#: Trades recovered after a fault of the connection can reach the stream after the watermark.
RECOVERED = f"missing trades are recovered; {EXACT}"


def catalogue() -> list[Fault]:
    """Return every fault, in the order of the table."""
    return [
        *kills(),
        *pauses(),
        *server_faults(),
        *message_faults(),
        *storage_faults(),
        *broker_faults(),
        *late_faults(),
        *clock_faults(),
    ]


# --- processes ----------------------------------------------------------------------------------


def kills() -> list[Fault]:
    """Return the faults that kill processes at a random moment."""
    single = [
        Fault(
            name=f"kill-{target}",
            claim=f"SIGKILL of {what}: {EXACT}",
            inject=partial(injections.kill, targets=(target,)),
            times=KILL_TIMES,
            seconds=13 if target in SLOW else 4,
            stack=KILLS,
            mixed=True,
            late_is_expected=target == "producer",
        )
        for target, what in injections.TARGETS.items()
    ]
    several = [
        Fault(
            name=f"kill-{name}",
            claim=f"SIGKILL of {count} random processes at once: {EXACT}",
            inject=partial(injections.kill_some, count=count),
            times=3,
            seconds=20,
            stack=KILLS,
            late_is_expected=True,
        )
        for name, count in (("two", 2), ("three", 3))
    ]
    everything = Fault(
        name="kill-stack",
        claim=f"SIGKILL of every process and a new start: {EXACT}",
        inject=injections.kill_stack,
        times=3,
        seconds=60,
        stack=KILLS,
        late_is_expected=True,
    )
    return [*single, *several, everything]


def pauses() -> list[Fault]:
    """Return the faults that suspend a process for 5 to 40 seconds."""
    return [
        Fault(
            name=f"pause-{target}",
            claim=f"SIGSTOP of {what} for 5 to 40 s: {EXACT}",
            inject=partial(injections.pause, target=target),
            times=1 if target in HARMLESS else 2,
            seconds=28,
            late_is_expected=target == "producer",
        )
        for target, what in injections.TARGETS.items()
    ]


# --- the server of the feed ---------------------------------------------------------------------

ERROR_PAGE = servers.http_answer("503 Service Unavailable", "<html><h1>Maintenance</h1></html>")
#: The beginning of a handshake answer, sent slowly.
SLOW_ANSWER = b"HTTP/1.1 101 Switching Protocols\r\nX-Padding: " + b"x" * 10_000


def server_faults() -> list[Fault]:
    """Return the faults of the WebSocket server and of the connection to it."""
    part = servers.header(servers.CONTINUATION, 1, final=False) + b"x"
    first = servers.header(servers.TEXT, 1, final=False) + b"x"
    ping = servers.header(servers.PING, 0)
    huge = servers.header(servers.TEXT, 1 << 62)
    behaviours: dict[str, tuple[str, servers.MakeBehaviour, float]] = {
        "half-frame": ("half a frame, then an aborted connection", lambda: servers.HalfFrame(0), 3),
        "stuck-frame": ("half a frame, then nothing", lambda: servers.HalfFrame(20), 20),
        "trickle": ("one byte every 0.5 s", lambda: servers.Trickle(0.5), 20),
        "pings-only": ("a ping every 0.2 s", lambda: servers.Endless(ping, 0.2), 20),
        "endless-message": (
            "continuation frames without end",
            lambda: servers.Endless(part, 0.02, first),
            20,
        ),
        "huge-length": ("a frame of 2^62 bytes", lambda: servers.Instead(huge), 20),
        "silence": ("nothing", servers.Silence, 20),
        "heartbeats-only": ("no trades", lambda: servers.Only(lambda f: not f.is_ticker), 25),
        "trades-only": ("no heartbeats", lambda: servers.Only(lambda f: not f.is_heartbeat), 20),
        "error-page": ("HTTP 503", lambda: servers.Answer(ERROR_PAGE), 15),
        "slow-handshake": (
            "a handshake at one byte every 0.5 s",
            lambda: servers.Answer(SLOW_ANSWER, 0.5),
            20,
        ),
    }
    sends = [
        Fault(
            name=f"server-{name}",
            claim=f"the server sends {what}: {RECOVERED}",
            inject=partial(injections.behave, make=make, seconds=seconds),
            seconds=seconds + 10,
            late_is_expected=True,
        )
        for name, (what, make, seconds) in behaviours.items()
    ]
    closes = [
        Fault(
            name=f"server-{name}",
            claim=f"the server {what}: {RECOVERED}",
            inject=partial(injections.close, after=after, code=code, times=times),
            seconds=seconds,
            late_is_expected=True,
        )
        for name, what, after, code, times, seconds in (
            ("close", "closes 5 connections", 20, 1001, 5, 15),
            ("drop", "drops 5 connections", 20, None, 5, 15),
            ("200-reconnects", "closes 200 connections after 5 frames", 5, 1000, 200, 150),
        )
    ]
    refused = Fault(
        name="server-refused",
        claim=f"the server refuses connections for {injections.AWAY_SECONDS} s: {RECOVERED}",
        inject=injections.refuse,
        seconds=injections.AWAY_SECONDS + 10,
        late_is_expected=True,
    )
    oversized = Fault(
        name="server-oversized",
        claim=f"a message of 2 MB is rejected: {EXACT}",
        inject=injections.oversized,
        seconds=10,
    )
    return [*sends, *closes, refused, oversized]


# --- messages -----------------------------------------------------------------------------------

#: Generated malformed messages.
GENERATED = 200_000


def message_faults() -> list[Fault]:
    """Return the faults of single messages."""
    return [
        Fault(
            name="malformed-kinds",
            claim=f"each malformed message has one dead letter; {EXACT}",
            inject=lambda lab: lab.send(messages.kinds()),
            times=3,
            seconds=8,
        ),
        Fault(
            name="malformed-generated",
            claim=f"{GENERATED:,} malformed messages have one dead letter each; {EXACT}",
            inject=lambda lab: lab.send(list(messages.generated(lab.random, GENERATED))),
            seconds=120,
        ),
    ]


def late_faults() -> list[Fault]:
    """Return the faults of late trades.

    They come after the damaged files: a stream that reads the topic again reads many records in one
    micro-batch, and counts trades that it had dropped as late.
    """
    return [
        Fault(
            name="late-within-watermark",
            claim=f"every seventh trade is up to 50 s late: {EXACT}",
            inject=partial(injections.late, low=0.0, high=50.0),
            seconds=25,
        ),
        Fault(
            name="late-beyond-watermark",
            claim="every seventh trade is 150 to 600 s late: the batch counts it, the stream does "
            "not",
            inject=partial(injections.late, low=150.0, high=600.0),
            seconds=25,
            late_is_expected=True,
        ),
    ]


# --- storage ------------------------------------------------------------------------------------


def storage_faults() -> list[Fault]:
    """Return the faults of the database, the files and the disk."""
    damaged = [
        Fault(
            name=f"damaged-{name}",
            claim=f"{what}, while the stream is stopped: {EXACT}",
            inject=partial(injections.damage, damage=damage),
            seconds=25,
        )
        for name, (what, damage) in injections.DAMAGES.items()
    ]
    deleted = [
        Fault(
            name=f"deleted-{name}",
            claim=f"{what} is deleted while the stream runs: {EXACT}",
            inject=partial(injections.delete, path_of=path_of),
            seconds=25,
        )
        for name, (what, path_of) in injections.DELETIONS.items()
    ]
    return [
        Fault(
            name="database-locked",
            claim=f"another program locks the database for 10 to 20 s: {EXACT}",
            inject=injections.lock_database,
            times=2,
            seconds=20,
        ),
        *damaged,
        *deleted,
        Fault(
            name="read-only-folder",
            claim=f"the directories of the results are read-only for 15 s: {EXACT}",
            inject=injections.read_only,
            seconds=35,
            missing=partial(injections.cannot_mount, "read-only directories"),
        ),
        Fault(
            name="disk-full",
            claim=f"the disk is full for 15 to 25 s: {EXACT}",
            inject=injections.fill_disk,
            times=2,
            seconds=50,
            stack=SMALL_DISK,
            small_disk=True,
            late_is_expected=True,
            missing=partial(injections.cannot_mount, "a small file system"),
        ),
    ]


# --- the clock ----------------------------------------------------------------------------------


#: How a clock is wrong: the name, the description, and the shifts in seconds.
SHIFTS = (
    ("ahead", "an hour ahead", (3600,)),
    ("behind", "an hour behind", (-3600,)),
    ("stepped", "set forward and back five times", (30, -30, 3600, -3600, 3)),
)


def clock_faults() -> list[Fault]:
    """Return the faults of the clock of one service."""
    return [
        Fault(
            name=f"clock-{name}-{service}",
            claim=f"the clock of {what} is {how} for {injections.CLOCK_SECONDS} s: {RECOVERED}",
            inject=partial(injections.shift_clock, service=service, shifts=shifts),
            seconds=injections.CLOCK_SECONDS + 8,
            stack=CLOCK,
            late_is_expected=service == "producer",
            missing=clock.problem,
        )
        for service, what in clock.SERVICES.items()
        for name, how, shifts in SHIFTS
    ]


# --- the broker ---------------------------------------------------------------------------------


def broker_faults() -> list[Fault]:
    """Return the faults of Kafka, except kills and pauses."""
    return [
        Fault(
            name="topics-missing",
            claim=f"the topics do not exist when the services start: {EXACT}",
            inject=injections.start_without_topics,
            seconds=60,
            stack=SMALL_DISK,
            starts_stack=True,
        ),
        Fault(
            name="retention",
            claim="Kafka deletes records that the stream has not read: only windows with a deleted "
            "record differ",
            inject=injections.delete_records,
            seconds=90,
            stack=SMALL_DISK,
            late_is_expected=True,
        ),
        Fault(
            name="broker-away",
            claim=f"no broker for {injections.BROKER_AWAY_SECONDS} s: {EXACT}",
            inject=injections.stop_broker,
            seconds=injections.BROKER_AWAY_SECONDS + 30,
            late_is_expected=True,
        ),
    ]
