"""Aggregating state: the mean amount of each user, in thousandths; what is kept is a sum and a count."""

import common
from pyflink.common import Types
from pyflink.datastream import StreamExecutionEnvironment
from pyflink.datastream.functions import AggregateFunction, KeyedProcessFunction, RuntimeContext
from pyflink.datastream.state import AggregatingStateDescriptor


class Thousandths(AggregateFunction):
    def create_accumulator(self):
        return 0, 0

    def add(self, amount, accumulator):
        return accumulator[0] + amount, accumulator[1] + 1

    def get_result(self, accumulator):
        return 1000 * accumulator[0] // accumulator[1]

    def merge(self, one, other):
        return one[0] + other[0], one[1] + other[1]


class Mean(KeyedProcessFunction):
    def open(self, context: RuntimeContext):
        self.mean = context.get_aggregating_state(AggregatingStateDescriptor("mean", Thousandths(), common.PAIR))

    def process_element(self, event, context):
        self.mean.add(event[2])
        yield f"{event[0]} {event[1]} mean {self.mean.get()}"


def main() -> None:
    given = common.options()
    environment = StreamExecutionEnvironment.get_execution_environment()
    environment.enable_checkpointing(500)
    users = common.events(environment, given).key_by(lambda event: event[1], Types.STRING())
    common.write(users.process(Mean(), Types.STRING()), given)
    environment.execute("means")


if __name__ == "__main__":
    main()
