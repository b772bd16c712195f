package io.dstl.flink;

import java.io.IOException;
import org.apache.flink.api.common.typeutils.TypeSerializer;
import org.apache.flink.core.memory.DataInputDeserializer;
import org.apache.flink.core.memory.DataOutputSerializer;
import org.apache.flink.runtime.state.KeyGroupRangeAssignment;
import org.apache.flink.streaming.api.operators.TimerHeapInternalTimer;
import org.apache.flink.streaming.api.operators.TimerSerializer;
import org.apache.flink.util.FlinkRuntimeException;

/** Elements of a queue as timers of dstl: a time, a key and a namespace. */
interface TimerCodec<T> {
    long time(T element);

    byte[] key(T element);

    byte[] namespace(T element);

    int group(T element);

    T element(long time, byte[] key, byte[] namespace);

    /** Flink's timers: the parts that its own serializer writes. */
    final class OfFlink<K, N> implements TimerCodec<TimerHeapInternalTimer<K, N>> {
        private final TypeSerializer<K> keys;
        private final TypeSerializer<N> namespaces;
        private final int keyGroups;
        private final DataOutputSerializer output = new DataOutputSerializer(64);
        private final DataInputDeserializer input = new DataInputDeserializer();

        OfFlink(TimerSerializer<K, N> serializer, int keyGroups) {
            this.keys = serializer.getKeySerializer();
            this.namespaces = serializer.getNamespaceSerializer();
            this.keyGroups = keyGroups;
        }

        @Override
        public long time(TimerHeapInternalTimer<K, N> element) {
            return element.getTimestamp();
        }

        @Override
        public byte[] key(TimerHeapInternalTimer<K, N> element) {
            try {
                return KeyBytes.of(element.getKey(), keys, output);
            } catch (IOException e) {
                throw new FlinkRuntimeException("serializing the key of a timer", e);
            }
        }

        @Override
        public byte[] namespace(TimerHeapInternalTimer<K, N> element) {
            try {
                output.clear();
                namespaces.serialize(element.getNamespace(), output);
                return output.getCopyOfBuffer();
            } catch (IOException e) {
                throw new FlinkRuntimeException("serializing the namespace of a timer", e);
            }
        }

        @Override
        public int group(TimerHeapInternalTimer<K, N> element) {
            return KeyGroupRangeAssignment.assignToKeyGroup(element.getKey(), keyGroups);
        }

        @Override
        public TimerHeapInternalTimer<K, N> element(long time, byte[] key, byte[] namespace) {
            try {
                K k = KeyBytes.read(key, keys, input);
                input.setBuffer(namespace);
                return new TimerHeapInternalTimer<>(time, k, namespaces.deserialize(input));
            } catch (IOException e) {
                throw new FlinkRuntimeException("deserializing a timer", e);
            }
        }
    }
}
