"""The state backend and every setting of checkpoints in the program.

In Java, the source of this program keeps its own position. PyFlink has no sources in Python, so here it is Flink's source of numbers.
"""

import common
from pyflink.common import Types
from pyflink.datastream import CheckpointingMode, ExternalizedCheckpointRetention, StreamExecutionEnvironment
from pyflink.datastream.functions import KeyedProcessFunction, RuntimeContext
from pyflink.datastream.state import ValueStateDescriptor

from dstl.pyflink import EmbeddedRocksDBStateBackend, set_state_backend


class Numbering(KeyedProcessFunction):
    def open(self, context: RuntimeContext):
        self.count = context.get_state(ValueStateDescriptor("count", Types.LONG()))

    def process_element(self, number, context):
        count = (self.count.value() or 0) + 1
        self.count.update(count)
        yield f"{context.get_current_key()} {count}"


def main() -> None:
    given = common.options()
    environment = StreamExecutionEnvironment.get_execution_environment()
    backend = EmbeddedRocksDBStateBackend(enable_incremental_checkpointing=True).set_job_name("checkpoint-settings")
    if given.socket:
        backend.set_socket(given.socket)
    if given.checkpoints:
        backend.set_option("execution.checkpointing.dir", given.checkpoints)
    backend.set_option("execution.checkpointing.num-retained", "3")
    set_state_backend(environment, backend)
    environment.enable_checkpointing(700, CheckpointingMode.EXACTLY_ONCE)
    settings = environment.get_checkpoint_config()
    settings.set_min_pause_between_checkpoints(200)
    settings.set_checkpoint_timeout(60_000)
    settings.set_max_concurrent_checkpoints(1)
    settings.set_tolerable_checkpoint_failure_number(10)
    settings.set_externalized_checkpoint_retention(ExternalizedCheckpointRetention.RETAIN_ON_CANCELLATION)
    numbers = common.numbers(environment, given.events, given.per_second).key_by(lambda number: number % 53, Types.LONG())
    common.write(numbers.process(Numbering(), Types.STRING()), given)
    environment.execute("checkpoint settings")


if __name__ == "__main__":
    main()
