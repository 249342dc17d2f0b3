"""Every program refuses a data directory that holds other data, with the same sentence."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pipeline import outputs, source, text_files
from pipeline.data_dir import DataDir
from pipeline.settings import Settings
from tests.conftest import Run

SERVICES = ("producer.py", "consumer.py", "spark_processor.py", "batch_scheduler.py")
READERS = ("pipeline.compare", "report")
RUN = ("batch_processor.py", "--run", "20251202T051000Z", "--began", "0")


@pytest.fixture
def data(tmp_path: Path) -> DataDir:
    """A folder with one final window of a minute."""
    folder = DataDir(tmp_path / "data")
    source.claim(folder, Settings())
    start = datetime(2025, 12, 2, 5, tzinfo=UTC)
    edges = {"window_start": start, "window_end": start + timedelta(minutes=1)}
    cells = text_files.cells(outputs.WINDOW_COLUMNS, edges) | {"trade_count": "1"}
    outputs.write_final_windows(folder, [cells])
    return folder


@pytest.mark.parametrize(
    ("setting", "programs", "sentence"),
    [
        (
            {"PRODUCT_ID": "ETH-USD"},
            (*SERVICES, *READERS, RUN),
            (
                "PRODUCT_ID is ETH-USD, but the data directory holds the product BTC-USD. Set "
                "PRODUCT_ID=BTC-USD, or choose another directory (DATA_DIR=DIRECTORY)"
            ),
        ),
        (
            {"KAFKA_TOPIC": "other"},
            ("producer.py", "report"),  # `source.check` checks the product and the topic
            (
                "KAFKA_TOPIC is other, but the data directory holds the topic raw_prices. Set "
                "KAFKA_TOPIC=raw_prices, or choose another directory (DATA_DIR=DIRECTORY)"
            ),
        ),
        (
            {"WINDOW": "5 minutes"},
            ("spark_processor.py", "batch_scheduler.py", *READERS, RUN),
            (
                "WINDOW is 5 minutes, but the data directory holds windows of 1 minute. Set "
                "WINDOW='1 minute', or choose another directory (DATA_DIR=DIRECTORY)"
            ),
        ),
    ],
    ids=["product", "topic", "window"],
)
def test_every_program_refuses_a_folder_with_other_data(
    run: Run,
    data: DataDir,
    setting: dict[str, str],
    programs: tuple[str | tuple[str, ...], ...],
    sentence: str,
) -> None:
    before = data.source.read_bytes()
    commands = [(program,) if isinstance(program, str) else program for program in programs]
    started = [run(*command, DATA_DIR=data.root, **setting) for command in commands]
    for process in started:
        assert process.process.wait(120) == 2, process.text()
        assert sentence in process.text()
        assert "Traceback" not in process.text()
    assert data.source.read_bytes() == before
    assert not data.database.exists()
    assert not data.report.exists()
