"""List state: the amounts of a user, five at a time, in order of size."""

import common
from pyflink.common import Types
from pyflink.datastream import StreamExecutionEnvironment
from pyflink.datastream.functions import KeyedProcessFunction, RuntimeContext
from pyflink.datastream.state import ListStateDescriptor


class Fives(KeyedProcessFunction):
    def open(self, context: RuntimeContext):
        self.amounts = context.get_list_state(ListStateDescriptor("amounts", Types.LONG()))

    def process_element(self, event, context):
        self.amounts.add(event[2])
        five = list(self.amounts.get())
        if len(five) == 5:
            self.amounts.clear()
            yield f"{event[1]} {sorted(five)}"


def main() -> None:
    given = common.options()
    environment = StreamExecutionEnvironment.get_execution_environment()
    environment.enable_checkpointing(500)
    users = common.events(environment, given).key_by(lambda event: event[1], Types.STRING())
    common.write(users.process(Fives(), Types.STRING()), given)
    environment.execute("fives in order")


if __name__ == "__main__":
    main()
