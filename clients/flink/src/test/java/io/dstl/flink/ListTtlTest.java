package io.dstl.flink;

import static org.assertj.core.api.Assertions.assertThat;

import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import org.apache.flink.api.common.state.ListStateDescriptor;
import org.apache.flink.api.common.state.StateTtlConfig;
import org.apache.flink.api.common.typeutils.base.IntSerializer;
import org.apache.flink.api.common.typeutils.base.StringSerializer;
import org.apache.flink.runtime.state.VoidNamespace;
import org.apache.flink.runtime.state.VoidNamespaceSerializer;
import org.apache.flink.runtime.state.internal.InternalListState;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;

class ListTtlTest {
    private static final int ELEMENTS = 400;

    @ParameterizedTest
    @EnumSource(value = DstlOptions.Inner.class, names = {"HASHMAP", "ROCKSDB"})
    void a_list_of_many_pages_loses_no_living_element_while_the_daemon_removes_expired_ones(DstlOptions.Inner inner) throws Exception {
        try (Daemon daemon = Daemon.start("rpc.max-message-size = \"64 KiB\"", "rpc.max-value-size = \"16 KiB\"")) {
            TestTask task = new TestTask(Backends.options(daemon, inner));
            DstlKeyedStateBackend<Integer> backend = task.open(IntSerializer.INSTANCE);
            ListStateDescriptor<String> descriptor = new ListStateDescriptor<>("list", StringSerializer.INSTANCE);
            descriptor.enableTimeToLive(StateTtlConfig.newBuilder(Duration.ofSeconds(2)).build());
            @SuppressWarnings("unchecked")
            InternalListState<Integer, VoidNamespace, String> list = (InternalListState<Integer, VoidNamespace, String>) (Object)
                    backend.getOrCreateKeyedState(VoidNamespaceSerializer.INSTANCE, descriptor);
            list.setCurrentNamespace(VoidNamespace.INSTANCE);
            backend.setCurrentKey(1);
            for (int i = 0; i < ELEMENTS; i++) {
                list.add("old" + i + "x".repeat(1000));
            }
            backend.path().flush(true);
            Thread.sleep(2100);
            List<String> living = new ArrayList<>();
            long before = System.nanoTime();
            for (int i = 0; i < ELEMENTS; i++) {
                living.add("new" + i + "x".repeat(1000));
                list.add(living.get(i));
            }
            backend.path().flush(true);
            List<String> found = new ArrayList<>();
            list.get().forEach(found::add);
            assertThat(Duration.ofNanos(System.nanoTime() - before)).as("the living ones still live").isLessThan(Duration.ofSeconds(2));
            assertThat(found).isEqualTo(living);
            backend.dispose();
        }
    }
}
