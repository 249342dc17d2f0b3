"""Run one stack through a list of faults and judge every trade and result of the run."""

import json
import math
import signal
import subprocess
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from types import MappingProxyType

from faults import truth
from faults.clock import Clocks
from faults.stack import REJECTED_TOPIC, TOPIC, LabError, Stack, wait_for
from faults.verdict import NO_FAULT, Injection, Row, row
from feed import recording, retime
from pipeline import outputs
from pipeline.ingest.loader import LAG_SECONDS
from tests import golden

#: Seconds within which the stack must work again after a fault.
RECOVERY_SECONDS = 240.0
#: Seconds in which the last records must reach every result.
SETTLE_SECONDS = 120.0
#: Seconds without a change after which the stream has read everything.
QUIET_SECONDS = 8.0
#: The stack of most faults, the stack of the kills, and the stack with a small disk.
MAIN, KILLS, SMALL_DISK = "main", "kills", "small-disk"
#: The stack whose services have clocks that the lab shifts. Its feed sends trades with the present
#: time, at the recorded speed.
CLOCK = "clock"
#: The size of the small disk, bytes.
SMALL_DISK_BYTES = 512 << 20
#: The trades of a recording that begins now are up to an hour ahead of the clock.
A_DAY = timedelta(days=1)
#: Messages in the first part, and the seconds that sending a part should take.
FIRST_PART, PART_SECONDS = 500, 2.0
#: The run ends after this number of injections in a row without recovery.
GIVE_UP = 3
#: Longest random wait between two injections, seconds.
PAUSE_SECONDS = 1.0


class RecordingEndedError(LabError):
    """The feed has no more trades, so no further fault can be tested."""


@dataclass(frozen=True)
class Fault:
    """A fault of the catalogue.

    Attributes:
        name: for the table and `--only`.
        claim: what the pipeline promises.
        inject: injects the fault and returns when it is over.
        times: how often it is injected.
        seconds: expected time of one injection with its recovery.
        stack: faults with the same text share one stack.
        small_disk: whether the data directory must be a small file system.
        starts_stack: whether it starts the stack itself.
        mixed: whether its injections are mixed with those of other faults.
        late_is_expected: whether windows may lack trades that arrived after the watermark.
        missing: returns why this machine cannot inject it; None if it can.
    """

    name: str
    claim: str
    inject: "Callable[[Lab], None]"
    times: int = 1
    seconds: float = 15.0
    stack: str = MAIN
    small_disk: bool = False
    starts_stack: bool = False
    mixed: bool = False
    late_is_expected: bool = False
    missing: Callable[[], str | None] = lambda: None


@dataclass
class Lab:
    """A running stack under test, for the functions that inject faults.

    Attributes:
        clocks: the clocks of the services. None: the lab cannot shift them.
        rewritten: the messages that the lab changed on their way to the producer, by trade id.
        sent: the messages that the lab itself sent to the producer.
        deleted: the records that the lab deleted in Kafka.
        killed: targets that got SIGKILL in this injection, and their pids.
        problems: what was not as the current fault promises.
    """

    stack: Stack
    random: Random
    log: Callable[[str], None]
    clocks: Clocks | None
    rewritten: dict[int, bytes] = field(default_factory=dict)
    sent: list[bytes] = field(default_factory=list)
    deleted: list[truth.Record] = field(default_factory=list)
    killed: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def kill(self, *targets: str) -> None:
        """Send SIGKILL to targets, all at about the same time."""
        for target in targets:
            self.killed[target] = self.stack.signal(target, signal.SIGKILL)

    def send(self, messages: Sequence[bytes]) -> None:
        """Send malformed messages to the producer between those of the feed.

        It sends them in parts and waits until the producer has rejected each part. Otherwise the
        heartbeats of the feed would wait in the buffers behind them, and the producer would
        reconnect.

        Raises:
            LabError: the connection did not take all of them.
        """
        done, size = 0, FIRST_PART
        while done < len(messages):
            began, before = time.monotonic(), self._rejected()
            part = messages[done : done + size]
            sent = self.stack.proxy.send(part)
            self.sent += part[:sent]
            done += sent
            if sent < len(part):
                raise LabError(f"only {done} of {len(messages)} messages were sent")
            wait_for(lambda: self._rejected() - before >= sent, 60, "rejected messages")  # noqa: B023
            change = PART_SECONDS / max(0.1, time.monotonic() - began)
            size = max(1, int(size * min(2.0, change)))

    def _rejected(self) -> int:
        return int(outputs.part(self.stack.status("producer"), "counters").get("rejected", 0))

    wait_for = staticmethod(wait_for)

    def sleep(self, low: float, high: float | None = None) -> float:
        """Wait for a random time between two limits; return it."""
        seconds = self.random.uniform(low, low if high is None else high)
        time.sleep(seconds)
        return seconds


class Run:
    """One stack from its start to its verdict.

    Args:
        folder: an empty directory.
        faults: the rows of the table.
        source: the recording.
        speed: multiple of the recorded speed.
        seed: of all random choices.
        log: prints a line of progress.
        order: the injections in their order; if empty, they follow from `faults`.
        every_s: least seconds from the beginning of an injection to the next.
        environment: additional environment variables of all services.
        watch: called when the stack runs.
    """

    def __init__(
        self,
        folder: Path,
        faults: Sequence[Fault],
        *,
        source: Path,
        speed: float,
        seed: int,
        log: Callable[[str], None],
        order: Sequence[Fault] = (),
        every_s: float = 0.0,
        environment: Mapping[str, str] = MappingProxyType({}),
        watch: Callable[[Stack], None] = lambda _: None,
    ) -> None:
        self._folder = folder
        self._faults = faults
        self._source = source
        self._speed = speed
        self._seed = seed
        self._log = log
        self._order = order
        self._every_s = every_s
        self._environment = environment
        self._watch = watch
        self._slices: list[truth.Slice] = []
        self._injections: list[Injection] = []
        self._rows: list[Row] = []
        #: What the stack had not finished when it was judged.
        self._unsettled: list[str] = []
        self._stack: Stack
        self._lab: Lab
        #: For each trade that the recording issues: its line, id and event time.
        self._issued: list[tuple[int, int, float]] = []

    def run(self) -> list[Row]:
        """Run everything and return one row for each fault, and one for the time without."""
        try:
            self._run()
        except Exception as error:
            if not self._rows:
                raise
            self._log(f"the stack failed while it was stopped: {error!r}")
        return self._rows

    def _run(self) -> None:
        order = self._order or plan(self._faults, Random(self._seed))
        path, speed, clocks = self._prepare(order)
        with ExitStack() as resources:
            self._open(resources, path, speed, clocks)
            self._slices.append(truth.Slice(NO_FAULT, 0, time.time()))
            if not order[0].starts_stack:
                self._stack.start()
                self._stack.wait_until_healthy()
                self._wait_for_recovery()
            self._watch(self._stack)
            self._inject_all(order)
            with suppress(RecordingEndedError):
                self._begin_slice(NO_FAULT)
            self._settle()
            self._rows = self._judge(path)

    def _prepare(self, order: Sequence[Fault]) -> tuple[Path, float, Clocks | None]:
        """Write a recording that is long enough; return it, its speed, and the shifted clocks."""
        # On a machine with a load average of 28, injections took 2.5 times as long as expected.
        seconds = 600 + 4.0 * sum(max(fault.seconds, self._every_s) for fault in order)
        path = self._folder / "recording.jsonl"
        speed, start, clocks = self._speed, retime.ORIGIN, None
        if self._faults[0].stack == CLOCK:
            speed, start = 1.0, int(time.time() * 1e6)
            (self._folder / "clocks").mkdir()
            clocks = Clocks(self._folder / "clocks")
        prepare(self._source, path, seconds * speed, start)
        found = truth.issued(path, {}, datetime.now(UTC) + A_DAY)
        self._issued = sorted(
            (line, trade_id, found.trades[trade_id].time / 1e6)
            for trade_id, line in found.lines.items()
        )
        return path, speed, clocks

    def _open(self, resources: ExitStack, path: Path, speed: float, clocks: Clocks | None) -> None:
        """Open the stack and the lab. Services do not run yet."""
        if any(fault.small_disk for fault in self._faults):
            resources.enter_context(small_disk(self._folder / "data"))
        if clocks:  # as recorded, the replay would send trades with future times at once
            due = [line.received or 0.0 for line in recording.read(path)]
            environment = {**self._environment, **clocks.environment}
            self._stack = Stack(self._folder, self._source, speed, environment, due)
        else:
            self._stack = Stack(self._folder, path, speed, self._environment)
        resources.enter_context(self._stack)
        self._lab = Lab(self._stack, Random(self._seed), self._log, clocks)

    def _inject_all(self, order: Sequence[Fault]) -> None:
        """Inject the faults until the recording ends or the stack no longer recovers."""
        for number, fault in enumerate(order, 1):
            began = time.monotonic()
            # The random choices of an injection do not depend on those before it.
            self._lab.random.seed(f"{self._seed} {number}")
            try:
                self._inject(fault, f"{number}/{len(order)}")
            except RecordingEndedError as error:
                self._unsettled.append(
                    f"{error}: {len(order) - number + 1} injections were not done"
                )
                return
            newest = self._injections[-GIVE_UP:]
            if len(newest) == GIVE_UP and all(each.recovery_s is None for each in newest):
                self._log(f"the stack did not recover {GIVE_UP} times: no further faults")
                return
            time.sleep(max(0.0, began + self._every_s - time.monotonic()))

    def _begin_slice(self, fault: str) -> None:
        position = self._stack.feed.position()
        if position >= self._issued[-1][0]:
            raise RecordingEndedError("the recording ended before the last fault")
        self._slices.append(truth.Slice(fault, position, time.time()))

    def _inject(self, fault: Fault, place: str) -> None:
        lab = self._lab
        lab.sleep(0, PAUSE_SECONDS)
        self._begin_slice(fault.name)
        lab.killed.clear()
        lab.problems.clear()
        began = time.monotonic()
        recovery: float | None = None
        try:
            fault.inject(lab)
            lasted = time.monotonic() - began
            recovery = self._wait_for_recovery()
            text = f"lasted {lasted:.1f} s, recovered in {recovery:.1f} s"
        except Exception as error:  # noqa: BLE001 - the other faults continue
            known = isinstance(error, LabError)
            lab.problems.append(str(error) if known else f"{type(error).__name__}: {error}")
            lab.problems += self._stack.problems()
            text = f"NOT RECOVERED: {'; '.join(lab.problems)}"
        self._injections.append(Injection(fault.name, recovery, tuple(lab.problems)))
        self._log(
            f"{place} {fault.name}: {text}; {self._stack.status('consumer').get('rows')} rows"
        )

    def _wait_for_recovery(self) -> float:
        """Wait until a trade that is issued from now on has reached every result.

        Raises:
            LabError: it did not happen in time.
        """
        began, moment = time.monotonic(), time.time()
        place = bisect_left(self._issued, (self._stack.feed.position() + 1,))
        _, trade_id, event_time = self._issued[min(place, len(self._issued) - 1)]
        stack, killed = self._stack, self._lab.killed
        seen_id, seen_time = 0, 0.0

        def works() -> bool:
            nonlocal seen_id, seen_time
            seen_id = max(seen_id, stack.stored_up_to())
            seen_time = max(seen_time, stack.streamed_up_to())
            if seen_id < trade_id or seen_time < event_time:
                return False
            return all(self._is_back(*item, moment) for item in killed.items()) and (
                stack.is_healthy()
            )

        wait_for(works, RECOVERY_SECONDS, "recovery")
        return time.monotonic() - began

    def _is_back(self, target: str, pid: int, moment: float) -> bool:
        """Return whether a killed process has a successor that works."""
        if target == "batch_run":
            run = self._stack.last_run()
            started = datetime.fromisoformat(run["started"]).timestamp() if run else 0
            return run.get("status") == outputs.RUN_OK and started >= moment
        process = self._stack.process(target)
        if process is None or process.pid == pid:
            return False
        status = self._stack.status(target)
        return not status or status.get("pid") == process.pid

    def _settle(self) -> None:
        """Stop the feed as soon as nothing is missing; wait until every result has everything."""
        self._log("waiting until every trade has reached every result")
        stack = self._stack
        # The feed sent trades with lower ids before the first start.
        first = min(stack.stored_ids(), default=0)
        wanted = {
            trade_id
            for line, trade_id, _ in self._issued
            if line < self._slices[-1].first and trade_id >= first
        }
        try:
            wait_for(lambda: wanted <= stack.stored_ids(), SETTLE_SECONDS, "a complete store")
        except LabError as error:
            self._log(str(error))  # the verdict names the missing trades
        stack.proxy.refuse()
        stack.feed.stop()
        settled = Settled(stack)
        try:
            time.sleep(LAG_SECONDS)  # after this, the consumer has measured its lag again
            wait_for(settled.is_stored, SETTLE_SECONDS, "the last rows")
            # A scheduler that starts begins a run at once, so the last run has every row.
            stack.stop_program("batch_scheduler")
            stack.start_program("batch_scheduler")
            wait_for(settled.is_reached, SETTLE_SECONDS, "the last results")
        except LabError as error:
            self._unsettled.append(f"{error}: {settled.missing}")
            self._log(self._unsettled[-1])

    def _judge(self, path: Path) -> list[Row]:
        """Return one row for each fault and one for the time without a fault."""
        root = self._stack.data.root
        offered = truth.issued(path, self._lab.rewritten, datetime.now(UTC) + A_DAY)
        kafka = truth.topic([*self._lab.deleted, *self._stack.records(TOPIC)])
        kafka.late |= dict.fromkeys(truth.ids(self._lab.deleted), math.inf)
        judge = truth.Judge(self._slices, offered, kafka)
        judge.judge_table(self._stack.data.database)
        judge.judge_windows(truth.window_rows(root), truth.micro_batches(root))
        judge.judge_batch(truth.batch_rows(root))
        data = self._stack.data
        names = {path.stem for path in data.batch_output.glob("*.csv")}
        log = data.batch_log.read_text(encoding="utf-8") if data.batch_log.exists() else ""
        judge.judge_log(log, names)
        judge.outcomes[NO_FAULT].problems += [*self._unsettled, *truth.order_problems(root)]
        rejected = [record.value for record in self._stack.records(REJECTED_TOPIC)]
        if self._faults[0].stack != CLOCK:  # with a wrong clock, valid trades are rejected
            of_recording = (line.frame for line in recording.read(path))
            judge.outcomes[NO_FAULT].problems += truth.unexplained_rejections(
                rejected, self._lab.sent, of_recording
            )
        judge.outcomes[NO_FAULT].problems += self._stack.unexplained_differences()
        rows = []
        for fault in (*self._faults, Fault(NO_FAULT, "every result is right", lambda _: None)):
            injections = [i for i in self._injections if i.fault == fault.name]
            outcome = judge.outcomes.get(fault.name, truth.Outcome())
            late = fault.late_is_expected
            rows.append(row(fault.name, fault.claim, injections, outcome, late_is_expected=late))
        return rows


class Settled:
    """Decides whether every record has reached every result. The feed has stopped.

    Attributes:
        missing: what is not finished yet.
    """

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._windows: object = None
        self._since = 0.0
        self.missing = ""

    def is_stored(self) -> bool:
        """Return whether the consumer has stored everything."""
        self.missing = "the consumer has a lag"
        return self._stack.status("consumer").get("lag") == 0

    def is_reached(self) -> bool:
        """Return whether the consumer, the batch and the stream have everything."""
        stack, now = self._stack, time.monotonic()
        windows = truth.window_rows(stack.data.root)
        if windows != self._windows:
            self._windows, self._since = windows, now
        unfinished = {
            "the consumer has a lag": not self.is_stored(),
            # After a late start, the stream changes nothing until its first micro-batch ends.
            "the stream has a lag": stack.streamed_up_to() < stack.newest_stored(),
            "no batch run over every row": stack.last_run().get("rows") != stack.rows(),
            "the stream still changes windows": now - self._since < QUIET_SECONDS,
        }
        self.missing = ", ".join(what for what, is_so in unfinished.items() if is_so)
        time.sleep(0.5)
        return not self.missing


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """Mount a small file system on a directory."""
    folder.mkdir()
    size = f"size={SMALL_DISK_BYTES}"
    subprocess.run(["mount", "-t", "tmpfs", "-o", size, "none", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def plan(faults: Sequence[Fault], random: Random) -> list[Fault]:
    """Return all injections in their order.

    A fault that starts the stack comes first. The mixed faults follow, in rounds: each round has
    every fault once, in a random order, as long as it has injections left. So a service runs for a
    while before it is killed again.
    """
    order = [fault for fault in faults if fault.starts_stack]
    mixed = [fault for fault in faults if fault.mixed]
    for number in range(max((fault.times for fault in mixed), default=0)):
        of_round = [fault for fault in mixed if fault.times > number]
        random.shuffle(of_round)
        order += of_round
    single = (fault for fault in faults if not (fault.starts_stack or fault.mixed))
    return order + [fault for fault in single for _ in range(fault.times)]


def prepare(source: Path, target: Path, seconds: float, start: int = retime.ORIGIN) -> None:
    """Write a recording of a given length: the source, repeated with new ids and later times.

    Args:
        source: any recording.
        target: the new recording, in the wire form.
        seconds: its length in recorded time.
        start: its begin, microseconds since 1970.
    """
    latest = int(datetime.now(UTC).timestamp() * 1e6) + golden.MINUTE
    tiles = retime.tile(recording.read(source), latest)
    position = tiles.first_after(start)
    with target.open("w", encoding="utf-8") as file:
        while (due := tiles.due(position)) < start + seconds * 1e6:
            text = tiles.frame(position).decode("utf-8", "surrogateescape")
            wire = {"ts": due / 1e6, "pair": golden.PRODUCT, "raw": text}
            file.write(json.dumps(wire) + "\n")
            position += 1
