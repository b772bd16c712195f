package io.dstl.flink;

import org.apache.flink.api.common.functions.AggregateFunction;
import org.apache.flink.runtime.state.internal.InternalAggregatingState;

/** One accumulator per key and namespace. */
final class DstlAggregatingState<K, N, I, A, O> extends AbstractMergingDstlState<K, N, I, A, O>
        implements InternalAggregatingState<K, N, I, A, O> {
    private AggregateFunction<I, A, O> function;

    DstlAggregatingState(DstlKeyedStateBackend<K> backend, StateRef ref) {
        super(backend, ref);
    }

    void function(AggregateFunction<I, A, O> to) {
        function = to;
    }

    @Override
    public O get() {
        A accumulator = getInternal();
        return accumulator == null ? null : function.getResult(accumulator);
    }

    @Override
    public void add(I value) {
        A before = getInternal();
        updateInternal(function.add(value, before == null ? function.createAccumulator() : before));
    }

    @Override
    A merge(A one, A other) {
        return function.merge(one, other);
    }
}
