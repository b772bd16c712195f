package io.dstl.flink;

import java.io.IOException;
import org.apache.flink.api.common.typeutils.TypeSerializer;
import org.apache.flink.core.memory.DataInputDeserializer;
import org.apache.flink.core.memory.DataOutputSerializer;

/** Keys in bytes: as the serializer writes them, and one byte where it writes none (keys of dstl are not empty). */
final class KeyBytes {
    private KeyBytes() {}

    static <K> byte[] of(K key, TypeSerializer<K> serializer, DataOutputSerializer output) throws IOException {
        output.clear();
        serializer.serialize(key, output);
        if (output.length() == 0) {
            output.writeByte(0);
        }
        return output.getCopyOfBuffer();
    }

    static <K> K read(byte[] key, TypeSerializer<K> serializer, DataInputDeserializer input) throws IOException {
        input.setBuffer(key);
        return serializer.deserialize(input);
    }
}
