package io.dstl.flink;

import static org.assertj.core.api.Assertions.assertThat;

import java.util.ArrayList;
import java.util.List;
import org.apache.flink.api.common.state.ValueStateDescriptor;
import org.apache.flink.api.common.typeutils.base.IntValueSerializer;
import org.apache.flink.api.common.typeutils.base.StringSerializer;
import org.apache.flink.runtime.state.InternalPriorityQueue;
import org.apache.flink.runtime.state.VoidNamespace;
import org.apache.flink.runtime.state.VoidNamespaceSerializer;
import org.apache.flink.runtime.state.internal.InternalValueState;
import org.apache.flink.streaming.api.operators.TimerHeapInternalTimer;
import org.apache.flink.streaming.api.operators.TimerSerializer;
import org.apache.flink.types.IntValue;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

/** Operators of SQL use one object for many keys, since the backend says that it keeps none: {@code isSafeToReuseKVState()}. */
class ReuseTest {
    private final IntValue key = new IntValue();
    private DstlKeyedStateBackend<IntValue> backend;

    @BeforeEach
    void open() throws Exception {
        backend = new TestTask().open(new IntValueSerializer());
        assertThat(backend.isSafeToReuseKVState()).isTrue();
    }

    @AfterEach
    void close() {
        backend.dispose();
    }

    @Test
    void timers_keep_the_keys_that_they_were_registered_with_though_the_object_is_used_again() {
        InternalPriorityQueue<TimerHeapInternalTimer<IntValue, VoidNamespace>> timers = backend.create("_timer_state/event_x",
                new TimerSerializer<>(new IntValueSerializer(), VoidNamespaceSerializer.INSTANCE));
        for (int i = 0; i < 5; i++) {
            key.setValue(i);
            timers.add(new TimerHeapInternalTimer<>(10 + i, key, VoidNamespace.INSTANCE));
        }
        key.setValue(3);
        timers.remove(new TimerHeapInternalTimer<>(13, key, VoidNamespace.INSTANCE));
        key.setValue(99);
        List<Integer> found = new ArrayList<>();
        while (!timers.isEmpty()) {
            assertThat(timers.peek().getKey()).isNotSameAs(key);
            found.add(timers.poll().getKey().getValue());
        }
        assertThat(found).containsExactly(0, 1, 2, 4);
    }

    @Test
    void state_belongs_to_the_key_that_was_set_though_its_object_is_used_again() throws Exception {
        @SuppressWarnings("unchecked")
        InternalValueState<IntValue, VoidNamespace, String> state = (InternalValueState<IntValue, VoidNamespace, String>) (Object)
                backend.getOrCreateKeyedState(VoidNamespaceSerializer.INSTANCE,
                        new ValueStateDescriptor<>("text", StringSerializer.INSTANCE));
        state.setCurrentNamespace(VoidNamespace.INSTANCE);
        key.setValue(1);
        backend.setCurrentKey(key);
        key.setValue(2);
        state.update("one");
        backend.setCurrentKey(new IntValue(1));
        assertThat(state.value()).isEqualTo("one");
        backend.setCurrentKey(new IntValue(2));
        assertThat(state.value()).isNull();
    }
}
