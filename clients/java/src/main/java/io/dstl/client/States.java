package io.dstl.client;

import io.dstl.proto.v1.RegisteredState;
import io.dstl.proto.v1.SchemaChange;
import io.dstl.proto.v1.StateDescriptor;
import java.util.List;

/** Registers one typed state. */
final class States {
    private States() {}

    static RegisteredState register(Backend backend, StateDescriptor.Builder descriptor, StateOptions options)
            throws InterruptedException {
        List<SchemaChange> changes = options.change() == SchemaChange.Mode.MODE_UNSPECIFIED
                ? List.of()
                : List.of(SchemaChange.newBuilder().setState(descriptor.getName()).setMode(options.change()).build());
        return backend.register(List.of(descriptor.build()), changes).await().get(0);
    }
}
