package io.dstl.flink;

import java.nio.ByteBuffer;
import org.apache.flink.api.common.typeutils.base.IntSerializer;
import org.apache.flink.runtime.state.InternalPriorityQueue;
import org.apache.flink.runtime.state.InternalPriorityQueueTestBase;
import org.apache.flink.runtime.state.KeyGroupRangeAssignment;
import org.apache.flink.runtime.state.VoidNamespaceSerializer;
import org.apache.flink.streaming.api.operators.TimerSerializer;
import org.junit.jupiter.api.AfterEach;

/** Flink's suite for queues, as it is, on timers with pages of three. */
class TimerQueueSuite extends InternalPriorityQueueTestBase {
    private DstlKeyedStateBackend<Integer> backend;

    @AfterEach
    void close() {
        if (backend != null) {
            backend.dispose();
        }
    }

    @Override
    protected InternalPriorityQueue<TestElement> newPriorityQueue(int initialCapacity) {
        try {
            TestTask task = new TestTask();
            backend = task.open(IntSerializer.INSTANCE);
            // Registers the state; the queue itself is the one under test.
            backend.create("timers", new TimerSerializer<>(IntSerializer.INSTANCE, VoidNamespaceSerializer.INSTANCE));
            return new DstlTimerQueue<>(backend.path(), backend.state("timers"), new Elements(), 3, true);
        } catch (Exception e) {
            throw new IllegalStateException(e);
        }
    }

    @Override
    protected boolean testSetSemanticsAgainstDuplicateElements() {
        return true;
    }

    /** The suite's elements as timers. */
    private static final class Elements implements TimerCodec<TestElement> {
        @Override
        public long time(TestElement element) {
            return element.getPriority();
        }

        @Override
        public byte[] key(TestElement element) {
            return ByteBuffer.allocate(8).putLong(element.getKey()).array();
        }

        @Override
        public byte[] namespace(TestElement element) {
            return new byte[0];
        }

        @Override
        public int group(TestElement element) {
            return KeyGroupRangeAssignment.assignToKeyGroup(element.getKey(), TestTask.KEY_GROUPS);
        }

        @Override
        public TestElement element(long time, byte[] key, byte[] namespace) {
            return new TestElement(ByteBuffer.wrap(key).getLong(), time);
        }
    }
}
