"""Running averages of the pairs of a socket, from the second one of a key on, with a checkpoint every 2 seconds.

What was once `env.set_state_backend(FsStateBackend(uri))` is a class of the same name here, and its state is in dstl.
"""

import common
from pyflink.common import Types
from pyflink.datastream import StreamExecutionEnvironment
from pyflink.datastream.functions import FlatMapFunction, RuntimeContext
from pyflink.datastream.state import ValueStateDescriptor

from dstl.pyflink import FsStateBackend, set_state_backend


class Average(FlatMapFunction):
    """Count and sum of each key."""

    def open(self, context: RuntimeContext):
        self.count_and_sum = context.get_state(ValueStateDescriptor("count and sum", common.PAIR))

    def flat_map(self, pair):
        count, total = self.count_and_sum.value() or (0, 0)
        count, total = count + 1, total + pair[1]
        self.count_and_sum.update((count, total))
        if count >= 2:
            yield pair[0], total // count


def main() -> None:
    given = common.options()
    environment = StreamExecutionEnvironment.get_execution_environment()
    environment.enable_checkpointing(2000)
    backend = FsStateBackend(given.checkpoints).set_job_name("averages")
    set_state_backend(environment, backend.set_socket(given.socket) if given.socket else backend)
    averages = common.pairs(environment, given).key_by(lambda pair: pair[0], Types.LONG()).flat_map(Average(), common.PAIR)
    common.write(averages.map(lambda average: f"{average[0]} {average[1]}", Types.STRING()), given)
    environment.execute("averages")


if __name__ == "__main__":
    main()
