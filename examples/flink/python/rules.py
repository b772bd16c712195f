"""Broadcast state: rules that arrive one after the other, and events that wait, in keyed state, for the rule of their kind.

Rules are operator state, which Flink keeps itself; the events that wait, and a timer for each user, are in dstl.
"""

import common
from pyflink.common import Types
from pyflink.datastream import StreamExecutionEnvironment
from pyflink.datastream.functions import KeyedBroadcastProcessFunction, RuntimeContext
from pyflink.datastream.state import ListStateDescriptor, MapStateDescriptor

KINDS = 7
RULES = MapStateDescriptor("rules", Types.LONG(), Types.STRING())
# The end of both inputs: Flink's last watermark is one later.
END = 2**63 - 2


class Apply(KeyedBroadcastProcessFunction):
    def open(self, context: RuntimeContext):
        self.waiting = context.get_list_state(ListStateDescriptor("waiting", common.EVENT))

    def process_broadcast_element(self, rule, context):
        context.get_broadcast_state(RULES).put(rule[0], rule[1])

    def process_element(self, event, context):
        self.waiting.add(event)
        # The last events of a user may wait until then.
        context.timer_service().register_event_time_timer(END)
        yield from self.apply(context.get_broadcast_state(RULES))

    def on_timer(self, timestamp, context):
        yield from self.apply(context.get_broadcast_state(RULES))

    def apply(self, rules):
        still = []
        for number, user, amount in self.waiting.get():
            kind = amount % KINDS
            if rules.contains(kind):
                yield f"{number} {user} {rules.get(kind)}"
            else:
                still.append((number, user, amount))
        self.waiting.update(still)


def main() -> None:
    given = common.options()
    environment = StreamExecutionEnvironment.get_execution_environment()
    environment.enable_checkpointing(500)
    kinds = common.numbers(environment, KINDS, 1)
    rules = kinds.map(lambda kind: (kind, f"rule-{kind * 10}"), Types.TUPLE([Types.LONG(), Types.STRING()])).set_parallelism(1)
    users = common.events(environment, given).key_by(lambda event: event[1], Types.STRING())
    common.write(users.connect(rules.broadcast(RULES)).process(Apply(), Types.STRING()), given)
    environment.execute("rules")


if __name__ == "__main__":
    main()
