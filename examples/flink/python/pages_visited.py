"""Map state: how often each user has seen each page, and how many pages that are."""

import common
from pyflink.common import Types
from pyflink.datastream import StreamExecutionEnvironment
from pyflink.datastream.functions import KeyedProcessFunction, RuntimeContext
from pyflink.datastream.state import MapStateDescriptor


class Visits(KeyedProcessFunction):
    def open(self, context: RuntimeContext):
        self.visits = context.get_map_state(MapStateDescriptor("visits", Types.LONG(), Types.LONG()))

    def process_element(self, event, context):
        number, user, amount = event
        page = amount % 11
        count = self.visits.get(page) + 1 if self.visits.contains(page) else 1
        self.visits.put(page, count)
        pages = sum(1 for _ in self.visits.keys())
        yield f"{number} {user} page {page} visit {count} of {pages} pages"


def main() -> None:
    given = common.options()
    environment = StreamExecutionEnvironment.get_execution_environment()
    environment.enable_checkpointing(500)
    users = common.events(environment, given).key_by(lambda event: event[1], Types.STRING())
    common.write(users.process(Visits(), Types.STRING()), given)
    environment.execute("pages visited")


if __name__ == "__main__":
    main()
