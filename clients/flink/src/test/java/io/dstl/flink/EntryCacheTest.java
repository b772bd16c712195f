package io.dstl.flink;

import static org.assertj.core.api.Assertions.assertThat;

import java.util.ArrayList;
import java.util.List;
import org.junit.jupiter.api.Test;

class EntryCacheTest {
    private static final StateRef STATE = new StateRef("state", 1, new AbsentFilter(0, false));

    private static ValueSlot slot(int key, int bytes) {
        ValueSlot slot = new ValueSlot(new Place(STATE, 0, new byte[] {(byte) (key >>> 16), (byte) (key >>> 8), (byte) key}, new byte[0]));
        slot.set(new byte[bytes]);
        return slot;
    }

    @Test
    void all_caches_of_a_process_together_take_a_tenth_of_its_heap_at_most() {
        List<EntryCache> caches = new ArrayList<>();
        for (int i = 0; i < 64; i++) {
            caches.add(new EntryCache(Long.MAX_VALUE));
        }
        long all = caches.stream().mapToLong(EntryCache::limit).sum();
        assertThat(all).isLessThanOrEqualTo(Runtime.getRuntime().maxMemory() / 10);
        caches.forEach(EntryCache::close);
    }

    @Test
    void slots_with_writes_stay_however_full_it_is_and_the_others_go() {
        EntryCache cache = new EntryCache(0);
        for (int key = 0; key < 1000; key++) {
            ValueSlot slot = slot(key, 100);
            slot.queued = key % 10 == 0;
            cache.add(slot);
        }
        assertThat(cache.over()).isTrue();
        cache.shrink();
        for (int key = 0; key < 1000; key += 10) {
            assertThat(cache.find(slot(key, 0).place)).as("key " + key).isNotNull();
        }
        assertThat(cache.size()).isLessThan(1000);
        cache.close();
    }
}
