package io.dstl.client;

import com.google.protobuf.MessageLite;
import io.grpc.Drainable;
import io.grpc.KnownLength;
import io.grpc.MethodDescriptor;
import io.grpc.Status;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;

/**
 * Messages of streams as bytes: batches go out as they were encoded, answers come in whole, to be read where they are
 * needed.
 *
 * <pre>
 *  SessionRequest  12 len | 08 number | 12 len operation | 12 len operation | ...
 *                         +- Batch ---+- what a `Batch` of this package holds ---
 * </pre>
 */
final class Wire {
    /** Most bytes that a request has around the operations of its batch: two tags with length and number. */
    static final int BATCH_OVERHEAD = 17;

    private static final int BATCH_IN_REQUEST = 0x12;
    private static final int NUMBER_IN_BATCH = 0x08;

    private Wire() {}

    /** The length of a `Batch` message: what it costs if it writes. */
    static long batchLength(long number, int operationsLength) {
        return (number == 0 ? 0 : 1 + Varint.length(number)) + (long) operationsLength;
    }

    /** A message to send. */
    interface Frame {
        int length();

        void writeTo(OutputStream target) throws IOException;
    }

    /** A batch under its number. */
    record BatchFrame(long number, Batch batch) implements Frame {
        @Override
        public int length() {
            int length = (int) batchLength(number, batch.encodedLength());
            return 1 + Varint.length(length) + length;
        }

        @Override
        public void writeTo(OutputStream target) throws IOException {
            byte[] head = new byte[BATCH_OVERHEAD + 5];
            head[0] = BATCH_IN_REQUEST;
            int end = Varint.put(head, 1, batchLength(number, batch.encodedLength()));
            if (number != 0) {
                head[end++] = NUMBER_IN_BATCH;
                end = Varint.put(head, end, number);
            }
            target.write(head, 0, end);
            target.write(batch.bytes(), 0, batch.encodedLength());
        }
    }

    /** Anything else. */
    record MessageFrame(MessageLite message) implements Frame {
        @Override
        public int length() {
            return message.getSerializedSize();
        }

        @Override
        public void writeTo(OutputStream target) throws IOException {
            message.writeTo(target);
        }
    }

    /** A stream that sends {@link Frame}s and hands out answers as bytes. */
    static MethodDescriptor<Frame, byte[]> stream(MethodDescriptor<?, ?> generated) {
        return MethodDescriptor.<Frame, byte[]>newBuilder()
                .setType(MethodDescriptor.MethodType.BIDI_STREAMING)
                .setFullMethodName(generated.getFullMethodName())
                .setRequestMarshaller(new Requests())
                .setResponseMarshaller(new Responses())
                .build();
    }

    private static final class Requests implements MethodDescriptor.Marshaller<Frame> {
        @Override
        public InputStream stream(Frame frame) {
            return new Encoded(frame);
        }

        @Override
        public Frame parse(InputStream stream) {
            throw new UnsupportedOperationException("a client reads no requests");
        }
    }

    private static final class Responses implements MethodDescriptor.Marshaller<byte[]> {
        @Override
        public InputStream stream(byte[] bytes) {
            throw new UnsupportedOperationException("a client sends no responses");
        }

        @Override
        public byte[] parse(InputStream stream) {
            try {
                byte[] bytes = new byte[stream.available()];
                int read = stream.readNBytes(bytes, 0, bytes.length);
                assert read == bytes.length && stream.available() == 0 : "gRPC tells a message's length";
                return bytes;
            } catch (IOException broken) {
                throw Status.INTERNAL.withDescription("reading a response").withCause(broken).asRuntimeException();
            }
        }
    }

    /** gRPC drains it into its own buffer, and asks for its length before. */
    private static final class Encoded extends InputStream implements Drainable, KnownLength {
        private final Frame frame;
        private int left;

        Encoded(Frame frame) {
            this.frame = frame;
            this.left = frame.length();
        }

        @Override
        public int available() {
            return left;
        }

        @Override
        public int drainTo(OutputStream target) throws IOException {
            int drained = left;
            frame.writeTo(target);
            left = 0;
            return drained;
        }

        @Override
        public int read() {
            throw new UnsupportedOperationException("it is drained");
        }
    }
}
