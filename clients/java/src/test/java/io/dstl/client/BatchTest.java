package io.dstl.client;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.google.protobuf.ByteString;
import io.dstl.proto.v1.Operation;
import io.dstl.proto.v1.OperationKind;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.BitSet;
import java.util.List;
import java.util.Random;
import org.junit.jupiter.api.Test;

class BatchTest {
    private static io.dstl.proto.v1.Batch parsed(Batch batch) throws Exception {
        return io.dstl.proto.v1.Batch.parseFrom(ByteString.copyFrom(batch.bytes(), 0, batch.encodedLength()));
    }

    private static byte[] random(Random random, int most) {
        byte[] bytes = new byte[random.nextInt(most)];
        random.nextBytes(bytes);
        return bytes;
    }

    @Test
    void encodesWhatProtobufReadsInAsManyBytesAsProtobufWrites() throws Exception {
        Random random = new Random(7);
        for (int round = 0; round < 200; round++) {
            Batch batch = new Batch(16);
            List<Operation> expected = new ArrayList<>();
            for (int at = 0; at < random.nextInt(20); at++) {
                Operation operation = randomOperation(random);
                expected.add(operation);
                add(batch, operation);
            }
            io.dstl.proto.v1.Batch parsed = parsed(batch);
            assertThat(parsed.getOperationsList()).isEqualTo(expected);
            assertThat(batch.encodedLength()).isEqualTo(parsed.getSerializedSize());
            assertThat(batch.operations()).isEqualTo(expected.size());
        }
    }

    private static Operation randomOperation(Random random) {
        OperationKind[] kinds = OperationKind.values();
        Operation.Builder operation = Operation.newBuilder()
                .setKind(kinds[1 + random.nextInt(kinds.length - 2)])
                .setState(random.nextInt(300))
                .setKey(ByteString.copyFrom(random(random, 200)))
                .setNamespace(ByteString.copyFrom(random(random, 30)))
                .setMapKey(ByteString.copyFrom(random(random, 20)))
                .setValue(ByteString.copyFrom(random(random, 20_000)))
                .setStart(random.nextInt(3) * 1000L)
                .setLimit(random.nextInt(3) * 100L)
                .setAllNamespaces(random.nextBoolean())
                .setToken(ByteString.copyFrom(random(random, 10)))
                .setTime(random.nextBoolean() ? 0 : random.nextLong())
                .setMapKeyTo(ByteString.copyFrom(random(random, 10)))
                .setMapPrefix(ByteString.copyFrom(random(random, 10)));
        for (int values = random.nextInt(4); values > 0; values--) {
            operation.addValues(ByteString.copyFrom(random(random, 10)));
        }
        if (random.nextBoolean()) {
            operation.setKeyGroup(random.nextInt(200));
        }
        return operation.build();
    }

    private static void add(Batch batch, Operation of) {
        byte[] value = of.getValue().toByteArray();
        byte[] shifted = new byte[value.length + 5];
        System.arraycopy(value, 0, shifted, 3, value.length);
        batch.begin(of.getKind(), of.getState())
                .key(of.getKey().toByteArray())
                .namespace(of.getNamespace().toByteArray())
                .mapKey(of.getMapKey().toByteArray())
                .value(shifted, 3, value.length)
                .values(of.getValuesList().stream().map(ByteString::toByteArray).toList())
                .start(of.getStart())
                .limit(of.getLimit())
                .keyGroup(of.hasKeyGroup() ? of.getKeyGroup() : Batch.HASHED)
                .token(of.getToken().toByteArray())
                .time(of.getTime())
                .mapKeyTo(of.getMapKeyTo().toByteArray())
                .mapPrefix(of.getMapPrefix().toByteArray());
        if (of.getAllNamespaces()) {
            batch.allNamespaces();
        }
        batch.end();
        Arrays.fill(shifted, (byte) 0);
    }

    @Test
    void keepsItsReadsAloneWhereTheyAreAskedAgain() throws Exception {
        Batch batch = new Batch();
        byte[] key = {1};
        batch.put(5, 0, key, Batch.NONE, new byte[300]);
        batch.get(6, 0, key, Batch.NONE);
        batch.timerRegister(7, Batch.HASHED, key, Batch.NONE, -1);
        batch.listGet(8, 0, key, Batch.NONE, 4, 0);
        BitSet wanted = batch.readIndexes();
        assertThat(wanted.stream().toArray()).containsExactly(1, 3);
        Batch reads = batch.onlyReads(wanted);
        assertThat(reads.operations()).isEqualTo(2);
        assertThat(parsed(reads).getOperationsList())
                .containsExactly(parsed(batch).getOperations(1), parsed(batch).getOperations(3));
    }

    @Test
    void costsCreditIfItWritesOrReadsWhatReadsTouch() {
        BitSet touched = new BitSet();
        touched.set(6);
        Batch reads = new Batch();
        reads.get(5, 0, new byte[1], Batch.NONE);
        assertThat(reads.writes(touched)).isFalse();
        reads.get(6, 0, new byte[1], Batch.NONE);
        assertThat(reads.writes(touched)).isTrue();
        for (int kept = 0; kept < 2; kept++) {
            BitSet wanted = new BitSet();
            wanted.set(kept);
            assertThat(reads.onlyReads(wanted).writes(touched)).as("only read %d", kept).isEqualTo(kept == 1);
        }
        Batch writes = new Batch();
        writes.clear(5, 0, new byte[1], Batch.NONE);
        assertThat(writes.writes(touched)).isTrue();
    }

    @Test
    void refusesOperationsThatAreOpenAndBatchesThatWereHandedOver() {
        Batch batch = new Batch();
        assertThatThrownBy(() -> batch.key(new byte[1])).isInstanceOf(IllegalStateException.class);
        batch.begin(OperationKind.OPERATION_KIND_GET, 1);
        assertThatThrownBy(() -> batch.begin(OperationKind.OPERATION_KIND_GET, 1)).isInstanceOf(IllegalStateException.class);
        assertThatThrownBy(batch::seal).isInstanceOf(IllegalStateException.class);
        batch.end();
        batch.seal();
        assertThatThrownBy(() -> batch.begin(OperationKind.OPERATION_KIND_GET, 1)).isInstanceOf(IllegalStateException.class);
    }
}
