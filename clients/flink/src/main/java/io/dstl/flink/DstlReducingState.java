package io.dstl.flink;

import org.apache.flink.api.common.functions.ReduceFunction;
import org.apache.flink.runtime.state.internal.InternalReducingState;

/** One value per key and namespace, to which a function adds. */
final class DstlReducingState<K, N, V> extends AbstractMergingDstlState<K, N, V, V, V>
        implements InternalReducingState<K, N, V> {
    private ReduceFunction<V> function;

    DstlReducingState(DstlKeyedStateBackend<K> backend, StateRef ref) {
        super(backend, ref);
    }

    void function(ReduceFunction<V> to) {
        function = to;
    }

    @Override
    public V get() {
        return getInternal();
    }

    @Override
    public void add(V value) throws Exception {
        V before = getInternal();
        updateInternal(before == null ? value : function.reduce(before, value));
    }

    @Override
    V merge(V one, V other) throws Exception {
        return function.reduce(one, other);
    }
}
