"""Reducing state: the running total and the largest amount of each user."""

import common
from pyflink.common import Types
from pyflink.datastream import StreamExecutionEnvironment
from pyflink.datastream.functions import KeyedProcessFunction, RuntimeContext
from pyflink.datastream.state import ReducingStateDescriptor


class Total(KeyedProcessFunction):
    def open(self, context: RuntimeContext):
        self.total = context.get_reducing_state(ReducingStateDescriptor("total", lambda one, other: one + other, Types.LONG()))
        self.largest = context.get_reducing_state(ReducingStateDescriptor("largest", max, Types.LONG()))

    def process_element(self, event, context):
        number, user, amount = event
        self.total.add(amount)
        self.largest.add(amount)
        yield f"{number} {user} total {self.total.get()} largest {self.largest.get()}"


def main() -> None:
    given = common.options()
    environment = StreamExecutionEnvironment.get_execution_environment()
    environment.enable_checkpointing(500)
    users = common.events(environment, given).key_by(lambda event: event[1], Types.STRING())
    common.write(users.process(Total(), Types.STRING()), given)
    environment.execute("totals")


if __name__ == "__main__":
    main()
