package io.dstl.flink;

import java.lang.invoke.MethodHandles;
import java.lang.invoke.VarHandle;
import java.nio.ByteOrder;
import java.util.Arrays;

/** Where an entry is: state, key and namespace, in bytes. The arrays must not change. */
final class Place {
    private static final VarHandle LONG = MethodHandles.byteArrayViewVarHandle(long[].class, ByteOrder.LITTLE_ENDIAN);

    final StateRef state;
    final int group;
    final byte[] key;
    final byte[] namespace;
    /** Of key and namespace, spread over all 64 bits: table and filter take different ones. */
    final long hash;

    Place(StateRef state, int group, byte[] key, byte[] namespace) {
        this.state = state;
        this.group = group;
        this.key = key;
        this.namespace = namespace;
        this.hash = hash(key, namespace);
    }

    /** With another namespace. */
    Place in(byte[] other) {
        return new Place(state, group, key, other);
    }

    boolean same(Place other) {
        return hash == other.hash && state == other.state && Arrays.equals(key, other.key)
                && Arrays.equals(namespace, other.namespace);
    }

    /** Heap that it takes, about. */
    int heap() {
        return 72 + key.length + namespace.length;
    }

    static long hash(byte[] key, byte[] namespace) {
        return mix(mix(0x9E3779B97F4A7C15L ^ namespace.length, namespace), key);
    }

    private static long mix(long hash, byte[] bytes) {
        int at = 0;
        for (; at + 8 <= bytes.length; at += 8) {
            hash = mix(hash, (long) LONG.get(bytes, at));
        }
        long rest = bytes.length;
        for (; at < bytes.length; at++) {
            rest = rest << 8 | (bytes[at] & 0xff);
        }
        return mix(hash, rest);
    }

    /** One round: the finalizer of splitmix64. */
    private static long mix(long hash, long more) {
        long z = (hash ^ more) + 0x9E3779B97F4A7C15L;
        z = (z ^ (z >>> 30)) * 0xBF58476D1CE4E5B9L;
        z = (z ^ (z >>> 27)) * 0x94D049BB133111EBL;
        return z ^ (z >>> 31);
    }
}
