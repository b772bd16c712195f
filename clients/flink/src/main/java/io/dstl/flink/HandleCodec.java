package io.dstl.flink;

import com.google.protobuf.ByteString;
import io.dstl.proto.v1.CheckpointCompleted;
import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.DataInputStream;
import java.io.DataOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.Collection;
import java.util.List;
import java.util.Objects;
import java.util.UUID;
import org.apache.flink.runtime.state.IncrementalKeyedStateHandle.HandleAndLocalPath;
import org.apache.flink.runtime.state.IncrementalRemoteKeyedStateHandle;
import org.apache.flink.runtime.state.KeyGroupRange;
import org.apache.flink.runtime.state.KeyGroupsSavepointStateHandle;
import org.apache.flink.runtime.state.KeyedStateHandle;
import org.apache.flink.runtime.state.StreamStateHandle;
import org.apache.flink.runtime.state.memory.ByteStreamStateHandle;

/**
 * Checkpoints of dstl as Flink's own keyed-state handles, so that the JobManager needs no class of ours: the meta stream has the
 * serializers (as RocksDB's), and the one private state has these bytes, which the JobManager keeps inside its metadata:
 *
 * <pre>{@code
 * "DSTLFLNK"  version: u8 = 1  job: UTF  operator: UTF  subtask: i32  run: u16 n + n bytes  origin: i64
 * dstl's handle: u16 n + n bytes
 * }</pre>
 */
final class HandleCodec {
    private static final byte[] MAGIC = "DSTLFLNK".getBytes(StandardCharsets.US_ASCII);
    private static final int VERSION = 1;
    private static final String PATH = "dstl";

    private HandleCodec() {}

    /**
     * A checkpoint of one subtask.
     *
     * @param job its name at dstl
     * @param operator its name at dstl
     * @param subtask whose chain has it
     * @param run which retention it belongs to
     * @param origin hash of the checkpoint that the job was started from by whoever started it
     * @param handle dstl's own
     */
    record Part(String job, String operator, int subtask, ByteString run, long origin, ByteString handle) {}

    /** Flink's handle of a checkpoint. */
    static KeyedStateHandle encode(UUID backend, KeyGroupRange keyGroups, long checkpoint, Part part,
            Completed completed) throws IOException {
        ByteStreamStateHandle own = new ByteStreamStateHandle(
                "dstl-" + part.job + "-" + part.operator + "-" + part.subtask + "-" + checkpoint + "-" + UUID.randomUUID(),
                bytes(part));
        return new IncrementalRemoteKeyedStateHandle(backend, keyGroups, checkpoint, List.of(),
                List.of(HandleAndLocalPath.of(own, PATH)), completed.meta,
                completed.answer.getIncrementalBytes() + completed.meta.getStateSize());
    }

    /**
     * What a checkpoint ended in.
     *
     * @param answer the daemon's
     * @param meta the stream with the serializers
     */
    record Completed(CheckpointCompleted answer, StreamStateHandle meta) {}

    static byte[] bytes(Part part) throws IOException {
        ByteArrayOutputStream bytes = new ByteArrayOutputStream();
        try (DataOutputStream out = new DataOutputStream(bytes)) {
            out.write(MAGIC);
            out.writeByte(VERSION);
            out.writeUTF(part.job);
            out.writeUTF(part.operator);
            out.writeInt(part.subtask);
            write(out, part.run);
            out.writeLong(part.origin);
            write(out, part.handle);
        }
        return bytes.toByteArray();
    }

    static Part part(byte[] bytes) throws IOException {
        DataInputStream in = new DataInputStream(new ByteArrayInputStream(bytes));
        byte[] magic = new byte[MAGIC.length];
        in.readFully(magic);
        if (!Arrays.equals(magic, MAGIC)) {
            throw foreign();
        }
        int version = in.readUnsignedByte();
        if (version != VERSION) {
            throw new IOException("a checkpoint of dstl in format " + version + ", this plug-in reads format " + VERSION
                    + ": use the plug-in that wrote it, or a newer one");
        }
        return new Part(in.readUTF(), in.readUTF(), in.readInt(), read(in), in.readLong(), read(in));
    }

    /** The handles of dstl among those that Flink gave, with nothing else among them. */
    static List<IncrementalRemoteKeyedStateHandle> own(Collection<KeyedStateHandle> handles) throws IOException {
        List<KeyedStateHandle> given = handles.stream().filter(Objects::nonNull).toList();
        for (KeyedStateHandle handle : given) {
            if (handle instanceof KeyGroupsSavepointStateHandle) {
                throw new IOException("savepoints cannot be restored by dstl yet: start from a checkpoint of dstl"
                        + " (`execution.state-recovery.path`)");
            }
            if (!(handle instanceof IncrementalRemoteKeyedStateHandle)) {
                throw foreign();
            }
        }
        return given.stream().map(IncrementalRemoteKeyedStateHandle.class::cast).toList();
    }

    static Part part(IncrementalRemoteKeyedStateHandle handle) throws IOException {
        if (handle.getPrivateState().size() != 1 || !handle.getPrivateState().get(0).getLocalPath().equals(PATH)) {
            throw foreign();
        }
        try (InputStream in = handle.getPrivateState().get(0).getHandle().openInputStream()) {
            return part(in.readAllBytes());
        }
    }

    private static IOException foreign() {
        return new IOException("the checkpoint to restore was written by another state backend in its native form: restore it with"
                + " that backend (`state.backend.type`), or start from a checkpoint of dstl (`execution.state-recovery.path`)");
    }

    private static void write(DataOutputStream out, ByteString bytes) throws IOException {
        out.writeShort(bytes.size());
        bytes.writeTo(out);
    }

    private static ByteString read(DataInputStream in) throws IOException {
        return ByteString.copyFrom(in.readNBytes(in.readUnsignedShort()));
    }
}
