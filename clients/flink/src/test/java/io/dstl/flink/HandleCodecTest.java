package io.dstl.flink;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.google.protobuf.ByteString;
import java.io.IOException;
import java.util.HexFormat;
import java.util.List;
import java.util.UUID;
import org.apache.flink.runtime.state.IncrementalKeyedStateHandle.HandleAndLocalPath;
import org.apache.flink.runtime.state.IncrementalRemoteKeyedStateHandle;
import org.apache.flink.runtime.state.KeyGroupRange;
import org.apache.flink.runtime.state.KeyGroupRangeOffsets;
import org.apache.flink.runtime.state.KeyGroupsStateHandle;
import org.apache.flink.runtime.state.memory.ByteStreamStateHandle;
import org.junit.jupiter.api.Test;

class HandleCodecTest {
    private static final HandleCodec.Part PART = new HandleCodec.Part("job", "op", 3, ByteString.copyFromUtf8("run"), 0x0102030405060708L,
            ByteString.copyFromUtf8("handle"));
    private static final String GOLDEN = "4453544c464c4e4b" + "01" + "00036a6f62" + "00026f70" + "00000003" + "000372756e"
            + "0102030405060708" + "000668616e646c65";

    @Test
    void the_bytes_of_version_1_stay_what_they_are() throws IOException {
        assertThat(HexFormat.of().formatHex(HandleCodec.bytes(PART))).isEqualTo(GOLDEN);
        assertThat(HandleCodec.part(HexFormat.of().parseHex(GOLDEN))).isEqualTo(PART);
    }

    @Test
    void a_newer_version_is_refused_by_name() {
        byte[] newer = HexFormat.of().parseHex(GOLDEN);
        newer[8] = 2;
        assertThatThrownBy(() -> HandleCodec.part(newer)).hasMessageContaining("format 2");
    }

    @Test
    void native_state_of_other_backends_is_refused() {
        ByteStreamStateHandle stream = new ByteStreamStateHandle("x", new byte[] {1});
        KeyGroupRange range = KeyGroupRange.of(0, 1);
        IncrementalRemoteKeyedStateHandle rocksdb = new IncrementalRemoteKeyedStateHandle(UUID.randomUUID(), range, 1, List.of(),
                List.of(HandleAndLocalPath.of(stream, "000001.sst")), stream);
        assertThatThrownBy(() -> HandleCodec.part(rocksdb)).hasMessageContaining("state.backend.type");
        assertThatThrownBy(() -> HandleCodec.own(List.of(new KeyGroupsStateHandle(new KeyGroupRangeOffsets(range), stream))))
                .hasMessageContaining("state.backend.type");
    }
}
