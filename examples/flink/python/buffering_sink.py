"""A sink that gathers rows and writes fifty at once. Each row is written at least once.

In Java, what such a sink has gathered is operator state. PyFlink offers functions of Python no operator state but broadcast maps, so
here it is a list of keyed state, with a key for each bucket of users, and thus in dstl.
"""

import os
import pathlib

import common
from pyflink.common import Types
from pyflink.datastream import StreamExecutionEnvironment
from pyflink.datastream.functions import KeyedProcessFunction, RuntimeContext
from pyflink.datastream.state import ListStateDescriptor

BUCKETS = 4
THRESHOLD = 50
# The end of the input: Flink's last watermark is one later.
END = 2**63 - 2


class Buffer(KeyedProcessFunction):
    def __init__(self, directory: str):
        self.directory = directory

    def open(self, context: RuntimeContext):
        self.gathered = context.get_list_state(ListStateDescriptor("gathered", common.EVENT))

    def process_element(self, row, context):
        self.gathered.add(row)
        context.timer_service().register_event_time_timer(END)
        rows = list(self.gathered.get())
        if len(rows) >= THRESHOLD:
            self.write(context.get_current_key(), rows)

    def on_timer(self, timestamp, context):
        self.write(context.get_current_key(), list(self.gathered.get()))
        return []

    def write(self, bucket, rows):
        pathlib.Path(self.directory).mkdir(parents=True, exist_ok=True)
        lines = "".join(f"{number} {user} {amount}\n" for number, user, amount in rows)
        file = os.open(f"{self.directory}/rows-{bucket}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(file, lines.encode())
        os.close(file)
        self.gathered.clear()


def main() -> None:
    given = common.options()
    environment = StreamExecutionEnvironment.get_execution_environment()
    environment.enable_checkpointing(500)
    buckets = common.events(environment, given).key_by(lambda event: int(event[1].removeprefix("user-")) % BUCKETS, Types.LONG())
    buckets.process(Buffer(given.output))
    environment.execute("buffering sink")


if __name__ == "__main__":
    main()
