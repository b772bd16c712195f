"""The average of every two pairs of a key; one that waits alone for longer than `--ttl-ms` is forgotten."""

import common
from pyflink.common import Time, Types
from pyflink.datastream import StreamExecutionEnvironment
from pyflink.datastream.functions import FlatMapFunction, RuntimeContext
from pyflink.datastream.state import StateTtlConfig, ValueStateDescriptor

WINDOW = 2


class Average(FlatMapFunction):
    def __init__(self, ttl_ms: int):
        self.ttl_ms = ttl_ms

    def open(self, context: RuntimeContext):
        descriptor = ValueStateDescriptor("count and sum", common.PAIR)
        descriptor.enable_time_to_live(
            StateTtlConfig.new_builder(Time.milliseconds(self.ttl_ms))
            .set_update_type(StateTtlConfig.UpdateType.OnCreateAndWrite)
            .set_state_visibility(StateTtlConfig.StateVisibility.NeverReturnExpired)
            .build()
        )
        self.count_and_sum = context.get_state(descriptor)

    def flat_map(self, pair):
        count, total = self.count_and_sum.value() or (0, 0)
        count, total = count + 1, total + pair[1]
        if count < WINDOW:
            self.count_and_sum.update((count, total))
        else:
            self.count_and_sum.clear()
            yield pair[0], total // count


def main() -> None:
    given = common.options()
    environment = StreamExecutionEnvironment.get_execution_environment()
    environment.enable_checkpointing(500)
    averages = common.pairs(environment, given).key_by(lambda pair: pair[0], Types.LONG()).flat_map(Average(given.ttl_ms), common.PAIR)
    common.write(averages.map(lambda average: f"{average[0]} {average[1]}", Types.STRING()), given)
    environment.execute("count window average")


if __name__ == "__main__":
    main()
