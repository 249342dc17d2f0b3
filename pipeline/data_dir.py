"""The data directory: the paths of all files below `DATA_DIR`, and where it must not be."""

from dataclasses import dataclass
from pathlib import Path

#: The action for a data directory that holds other data.
ANOTHER_FOLDER = (
    "choose another directory (DATA_DIR=DIRECTORY), or delete these results with make clean "
    "(in containers: docker compose down --volumes)"
)
#: System directories with programs and configurations. They and all directories below them are
#: refused as DATA_DIR. /proc and /sys are not listed, because no file can be created there.
_PROGRAM_FOLDERS = tuple(
    Path("/", name)
    for name in (
        *("bin", "boot", "etc", "lib", "lib32", "lib64", "sbin"),
        *("usr/bin", "usr/include", "usr/lib", "usr/lib32", "usr/lib64", "usr/libexec"),
        *("usr/sbin", "usr/share"),
    )
)
#: System directories that hold directories of users and programs. They are refused as DATA_DIR, but
#: the directories below them are not, unless they are listed.
_SHARED_FOLDERS = tuple(
    Path("/", name)
    for name in (
        *("", "dev", "home", "opt", "root", "run", "usr", "usr/local", "var", "var/cache"),
        *("var/lib", "var/log", "var/spool"),
    )
)


@dataclass(frozen=True)
class DataDir:
    """The paths below `DATA_DIR`."""

    root: Path

    @property
    def database(self) -> Path:
        return self.root / "crypto_prices.db"

    @property
    def stream_csv(self) -> Path:
        return self.root / "stream_csv"

    @property
    def stream_live(self) -> Path:
        return self.root / "stream_live.csv"

    @property
    def alerts_stream(self) -> Path:
        """The alerts of the stream: `pipeline.alerts`."""
        return self.root / "alerts_stream.csv"

    @property
    def alerts_batch(self) -> Path:
        """The alerts of the batch."""
        return self.root / "alerts_batch.csv"

    @property
    def batch_output(self) -> Path:
        return self.root / "batch_output"

    @property
    def batch_windows(self) -> Path:
        return self.root / "batch_windows.csv"

    @property
    def batch_sums(self) -> Path:
        """The sums of all windows, from which an incremental run continues."""
        return self.root / "batch_sums.json"

    @property
    def batch_log(self) -> Path:
        return self.root / "batch_log.txt"

    @property
    def batch_run(self) -> Path:
        """The result of the current or the last batch run, as the run itself reports it."""
        return self.status / "batch_processor.json"

    @property
    def stream_progress(self) -> Path:
        """A row for each of the latest micro-batches: `stream.progress`."""
        return self.status / "stream_progress.csv"

    @property
    def stream_latency(self) -> Path:
        """For each of the latest final windows, how long its trades were visible as open."""
        return self.status / "stream_latency.csv"

    @property
    def stream_versions(self) -> Path:
        """A row for each version of a final window that another one with more trades replaces."""
        return self.status / "stream_versions.csv"

    @property
    def stream_drops(self) -> Path:
        """A row for each micro-batch in which the stream dropped records."""
        return self.status / "stream_drops.csv"

    @property
    def stream_position(self) -> Path:
        """One row: the offsets that the stream has read since its last row in `stream_drops`."""
        return self.status / "stream_position.csv"

    @property
    def stream_starts(self) -> Path:
        """The first offset that each checkpoint of the stream read, one row per checkpoint."""
        return self.status / "stream_starts.csv"

    def thresholds_of(self, service: str) -> Path:
        """The thresholds that a path used, one row per period: see `pipeline.thresholds`."""
        return self.status / f"{service}_thresholds.csv"

    def minutes_of(self, service: str) -> Path:
        """A row for each minute of a service: its counters and its cost."""
        return self.status / f"{service}_minutes.csv"

    def rejected_by(self, service: str) -> Path:
        """The trade ids in the latest messages that a service rejected."""
        return self.status / f"{service}_rejected.csv"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def status(self) -> Path:
        return self.root / "status"

    @property
    def report(self) -> Path:
        return self.root / "report"

    @property
    def broker(self) -> Path:
        """The files of the broker that a local stack starts."""
        return self.root / "kafka"

    @property
    def logs(self) -> Path:
        """The logs of all programs of a local stack."""
        return self.root / "logs"

    @property
    def run(self) -> Path:
        """The files of supervisor, and the lock of a local stack."""
        return self.root / "run"

    @property
    def temporary(self) -> Path:
        """Temporary files of Java, if no other directory allows it to load a library."""
        return self.root / "tmp"

    @property
    def source(self) -> Path:
        """What this data directory holds: `pipeline.source`."""
        return self.root / "source.json"

    def status_of(self, service: str) -> Path:
        return self.status / f"{service}.json"


def is_of_system(folder: Path) -> bool:
    """Return whether a directory is a system directory, so that no output may be written to it.

    A directory with `source.json` is not refused, because it already holds outputs.
    """
    path = folder.resolve()
    if path not in _SHARED_FOLDERS and not any(map(path.is_relative_to, _PROGRAM_FOLDERS)):
        return False
    try:
        return not DataDir(path).source.exists()
    except OSError:  # a directory of root
        return True
