package io.dstl.flink;

import static org.assertj.core.api.Assertions.assertThat;

import io.dstl.flink.DstlOptions.Inner;
import java.time.Duration;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.apache.flink.api.common.state.ListStateDescriptor;
import org.apache.flink.api.common.state.StateTtlConfig;
import org.apache.flink.api.common.typeutils.base.IntSerializer;
import org.apache.flink.api.common.typeutils.base.StringSerializer;
import org.apache.flink.runtime.state.VoidNamespace;
import org.apache.flink.runtime.state.VoidNamespaceSerializer;
import org.apache.flink.runtime.state.internal.InternalListState;
import org.junit.jupiter.api.Test;

class ListTtlTest {
    private static final int ELEMENTS = 400;
    private static final Duration TTL = Duration.ofSeconds(10);

    @Test
    void a_list_of_many_pages_loses_no_living_element_while_the_daemon_removes_expired_ones() throws Exception {
        try (Daemon daemon = Daemon.start("rpc.max-message-size = \"128 KiB\"", "rpc.max-value-size = \"16 KiB\"")) {
            Map<Inner, DstlKeyedStateBackend<Integer>> backends = new LinkedHashMap<>();
            for (Inner inner : new Inner[] {Inner.HASHMAP, Inner.ROCKSDB}) {
                DstlKeyedStateBackend<Integer> backend = new TestTask(Backends.options(daemon, inner)).open(IntSerializer.INSTANCE);
                backends.put(inner, backend);
                add(backend, "old");
            }
            Thread.sleep(TTL.toMillis() + 100);
            for (DstlKeyedStateBackend<Integer> backend : backends.values()) {
                Added added = add(backend, "new");
                List<String> found = new ArrayList<>();
                list(backend).get().forEach(found::add);
                int living = added.notOlderThan(System.currentTimeMillis() - TTL.toMillis());
                assertThat(found.size()).isBetween(living, ELEMENTS);
                assertThat(found).isEqualTo(added.elements.subList(ELEMENTS - found.size(), ELEMENTS));
                backend.dispose();
            }
        }
    }

    /**
     * What was added, in order.
     *
     * @param elements what
     * @param times when each was about to be added
     */
    private record Added(List<String> elements, List<Long> times) {
        /** How many of them. */
        int notOlderThan(long time) {
            return (int) times.stream().filter(added -> added > time).count();
        }
    }

    /** Adds elements, so many that the cache does not keep them, and returns them. */
    private static Added add(DstlKeyedStateBackend<Integer> backend, String name) throws Exception {
        Added added = new Added(new ArrayList<>(), new ArrayList<>());
        InternalListState<Integer, VoidNamespace, String> list = list(backend);
        for (int i = 0; i < ELEMENTS; i++) {
            added.elements.add(name + i + "x".repeat(1000));
            added.times.add(System.currentTimeMillis());
            list.add(added.elements.get(i));
        }
        backend.path().flush(true);
        return added;
    }

    @SuppressWarnings("unchecked")
    private static InternalListState<Integer, VoidNamespace, String> list(DstlKeyedStateBackend<Integer> backend) throws Exception {
        ListStateDescriptor<String> descriptor = new ListStateDescriptor<>("list", StringSerializer.INSTANCE);
        descriptor.enableTimeToLive(StateTtlConfig.newBuilder(TTL).build());
        InternalListState<Integer, VoidNamespace, String> list = (InternalListState<Integer, VoidNamespace, String>) (Object)
                backend.getOrCreateKeyedState(VoidNamespaceSerializer.INSTANCE, descriptor);
        list.setCurrentNamespace(VoidNamespace.INSTANCE);
        backend.setCurrentKey(1);
        return list;
    }
}
