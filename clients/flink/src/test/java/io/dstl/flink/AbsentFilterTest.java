package io.dstl.flink;

import static org.assertj.core.api.Assertions.assertThat;

import java.util.Random;
import org.junit.jupiter.api.Test;

class AbsentFilterTest {
    @Test
    void knows_what_was_never_written_and_never_denies_what_was() {
        AbsentFilter filter = new AbsentFilter(16 << 20, true);
        Random random = new Random(1);
        for (int i = 0; i < 200_000; i++) {
            filter.add(random.nextLong());
        }
        random = new Random(1);
        for (int i = 0; i < 200_000; i++) {
            assertThat(filter.absent(random.nextLong())).isFalse();
        }
        int absent = 0;
        for (int i = 0; i < 100_000; i++) {
            absent += filter.absent(random.nextLong()) ? 1 : 0;
        }
        assertThat(absent).isGreaterThan(90_000);
    }

    @Test
    void answers_nothing_after_a_restore_until_every_key_was_listed() {
        AbsentFilter filter = new AbsentFilter(1 << 20, false);
        assertThat(filter.absent(1)).isFalse();
        assertThat(filter.wantsRebuild()).isTrue();

        filter.beginRebuild();
        filter.listed(2);
        filter.add(3);
        assertThat(filter.absent(1)).isFalse();
        filter.endRebuild();

        assertThat(filter.absent(1)).isTrue();
        assertThat(filter.absent(2)).isFalse();
        assertThat(filter.absent(3)).isFalse();
    }

    @Test
    void forgets_by_a_second_generation_into_which_writes_go_from_before_the_first_page() {
        AbsentFilter filter = new AbsentFilter(16 << 20, true);
        Random random = new Random(2);
        long first = random.nextLong();
        filter.add(first);
        while (!filter.wantsRebuild()) {
            filter.add(random.nextLong());
        }
        int before = filter.generation();
        filter.beginRebuild();
        assertThat(filter.generation()).isNotEqualTo(before);
        long meanwhile = random.nextLong();
        filter.add(meanwhile);
        assertThat(filter.absent(first)).isFalse();
        filter.endRebuild();

        assertThat(filter.absent(first)).isTrue();
        assertThat(filter.absent(meanwhile)).isFalse();
        assertThat(filter.wantsRebuild()).isFalse();
    }

    @Test
    void is_given_up_beyond_its_memory() {
        AbsentFilter filter = new AbsentFilter(8 << 10, true);
        for (long i = 0; i < 20_000; i++) {
            filter.add(i * 0x9E3779B97F4A7C15L);
        }
        assertThat(filter.isComplete()).isFalse();
        assertThat(filter.absent(-1)).isFalse();
        assertThat(filter.wantsRebuild()).isFalse();
    }
}
