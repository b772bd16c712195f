"""Where the programs read from and write to. None of it knows of dstl."""

import argparse
import time

from pyflink.common import Encoder, Types, WatermarkStrategy
from pyflink.datastream import DataStream, StreamExecutionEnvironment
from pyflink.datastream.connectors.file_system import FileSink
from pyflink.datastream.connectors.number_seq import NumberSequenceSource

EVENT = Types.TUPLE([Types.LONG(), Types.STRING(), Types.LONG()])
PAIR = Types.TUPLE([Types.LONG(), Types.LONG()])


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--events", type=int, default=4_000)
    parser.add_argument("--per-second", type=int, default=400)
    parser.add_argument("--host", default="localhost")
    parser.add_argument("--port", type=int, default=9999)
    parser.add_argument("--ttl-ms", type=int, default=60_000)
    parser.add_argument("--output", help="a directory for files of lines; without it, lines are printed")
    parser.add_argument("--socket", help="the daemon's, where a program chooses its state backend itself")
    parser.add_argument("--checkpoints", help="the directory for metadata of checkpoints, likewise")
    return parser.parse_args()


def numbers(environment: StreamExecutionEnvironment, count: int, per_second: float) -> DataStream:
    """Numbers from 0 on, which a restore can read again."""

    def pace(number):
        time.sleep(1 / per_second)
        return number

    source = environment.from_source(NumberSequenceSource(0, count - 1), WatermarkStrategy.no_watermarks(), "numbers", Types.LONG())
    return source.set_parallelism(1).map(pace, Types.LONG()).set_parallelism(1)


def events(environment: StreamExecutionEnvironment, given: argparse.Namespace) -> DataStream:
    """Events (number, user, amount)."""
    paced = numbers(environment, given.events, given.per_second)
    return paced.map(lambda number: (number, f"user-{number % 53}", number * number % 1009), EVENT).set_parallelism(1)


def pairs(environment: StreamExecutionEnvironment, given: argparse.Namespace) -> DataStream:
    """Lines "key value" of a socket, as pairs in their order. A socket cannot be read again. PyFlink has no such source of its own; Flink has."""
    lines = environment._j_stream_execution_environment.socketTextStream(given.host, given.port)
    return DataStream(lines).map(lambda line: tuple(int(word) for word in line.split()), PAIR).set_parallelism(1)


def write(lines: DataStream, given: argparse.Namespace) -> None:
    """Writes each line once to files, which checkpoints complete; or prints them."""
    if given.output:
        lines.sink_to(FileSink.for_row_format(given.output, Encoder.simple_string_encoder()).build())
    else:
        lines.print()
