package io.dstl.client;

import com.google.protobuf.ByteString;
import io.dstl.proto.v1.MergeFunction;
import io.dstl.proto.v1.SchemaChange;
import io.dstl.proto.v1.Serializer;
import io.dstl.proto.v1.StateDescriptor;
import io.dstl.proto.v1.Ttl;

/**
 * What a typed state may be given beside its name and serializers. Immutable.
 *
 * @param merge how the daemon merges; unspecified: not at all
 * @param ttl how long entries live; null: until they are removed
 * @param defaultValue for values: what GET answers where there is none; null: nothing
 * @param namespaceSerializer what the bytes of namespaces mean; null: not told
 * @param change what becomes of the state where its serializers differ from the registered ones; unspecified: refused
 */
public record StateOptions(
        MergeFunction merge, Ttl ttl, byte[] defaultValue, Serializer namespaceSerializer, SchemaChange.Mode change) {
    /** Nothing of it. */
    public static final StateOptions NONE = new StateOptions(
            MergeFunction.MERGE_FUNCTION_UNSPECIFIED, null, null, null, SchemaChange.Mode.MODE_UNSPECIFIED);

    /**
     * Values, or map entries, that the daemon merges.
     *
     * @param function how
     * @return the options
     */
    public static StateOptions merging(MergeFunction function) {
        return NONE.withMerge(function);
    }

    /**
     * With a merge function.
     *
     * @param function how the daemon merges
     * @return a copy
     */
    public StateOptions withMerge(MergeFunction function) {
        return new StateOptions(function, ttl, defaultValue, namespaceSerializer, change);
    }

    /**
     * With a time to live.
     *
     * @param time how long entries live
     * @return a copy
     */
    public StateOptions withTtl(Ttl time) {
        return new StateOptions(merge, time, defaultValue, namespaceSerializer, change);
    }

    /**
     * With a default value.
     *
     * @param value what GET answers where there is none, as bytes
     * @return a copy
     */
    public StateOptions withDefaultValue(byte[] value) {
        return new StateOptions(merge, ttl, value, namespaceSerializer, change);
    }

    /**
     * With a name for what namespaces are written by.
     *
     * @param serializer name and version
     * @return a copy
     */
    public StateOptions withNamespaceSerializer(Serializer serializer) {
        return new StateOptions(merge, ttl, defaultValue, serializer, change);
    }

    /**
     * With serializers that read what those before them wrote.
     *
     * @return a copy
     */
    public StateOptions compatible() {
        return new StateOptions(merge, ttl, defaultValue, namespaceSerializer, SchemaChange.Mode.MODE_COMPATIBLE);
    }

    StateDescriptor.Builder descriptor(String name, Serde<?> key, Serde<?> value) {
        StateDescriptor.Builder descriptor = StateDescriptor.newBuilder().setName(name).setMerge(merge);
        if (!key.id().isEmpty()) {
            descriptor.setKeySerializer(serializer(key));
        }
        if (value != null && !value.id().isEmpty()) {
            descriptor.setValueSerializer(serializer(value));
        }
        if (namespaceSerializer != null) {
            descriptor.setNamespaceSerializer(namespaceSerializer);
        }
        if (ttl != null) {
            descriptor.setTtl(ttl);
        }
        if (defaultValue != null) {
            descriptor.setDefaultValue(ByteString.copyFrom(defaultValue));
        }
        return descriptor;
    }

    private static Serializer serializer(Serde<?> serde) {
        return Serializer.newBuilder().setId(serde.id()).setVersion(serde.version()).build();
    }
}
