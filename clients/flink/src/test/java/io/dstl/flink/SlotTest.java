package io.dstl.flink;

import static org.assertj.core.api.Assertions.assertThat;

import io.dstl.client.Batch;
import java.util.List;
import org.junit.jupiter.api.Test;

/** A read fills only what nobody wrote since it was asked. */
class SlotTest {
    private static final StateRef STATE = new StateRef("s", 1, new AbsentFilter(0, true));
    private static final byte[] OLD = {1};
    private static final byte[] NEW = {2};

    private static Place place() {
        return new Place(STATE, 0, new byte[] {1}, Batch.NONE);
    }

    @Test
    void a_late_answer_does_not_cover_a_newer_value() {
        ValueSlot slot = new ValueSlot(place());
        slot.await(1);
        slot.set(NEW);
        slot.fill(1, OLD);
        assertThat(slot.value()).isEqualTo(NEW);
    }

    @Test
    void an_answer_fills_only_the_slot_that_waits_for_that_very_request() {
        ValueSlot slot = new ValueSlot(place());
        slot.await(1);
        slot.setUnknown();
        slot.await(2);
        slot.fill(1, OLD);
        assertThat(slot.known()).isFalse();
        slot.fill(2, NEW);
        assertThat(slot.value()).isEqualTo(NEW);
    }

    @Test
    void a_late_page_does_not_make_a_map_complete_that_was_written() {
        MapSlot slot = new MapSlot(place());
        MapSlot.MapKey key = new MapSlot.MapKey(new byte[] {7});
        slot.await(1);
        slot.set(key, NEW);
        slot.fill(1, List.of(new MapSlot.Cell(key, OLD)));
        assertThat(slot.complete()).isFalse();
        assertThat(slot.cell(key).value).isEqualTo(NEW);
    }

    @Test
    void a_late_answer_does_not_cover_a_newer_entry() {
        MapSlot slot = new MapSlot(place());
        MapSlot.MapKey key = new MapSlot.MapKey(new byte[] {7});
        slot.await(key, 1);
        slot.set(key, NEW);
        slot.fill(key, 1, OLD);
        assertThat(slot.cell(key).value).isEqualTo(NEW);
    }

    @Test
    void a_late_list_does_not_hide_what_was_appended() {
        ListSlot slot = new ListSlot(place());
        slot.await(1);
        slot.add(NEW);
        slot.fill(1, List.of(OLD));
        assertThat(slot.whole()).isNull();
    }

    @Test
    void an_iteration_walks_a_copy() {
        MapSlot slot = new MapSlot(place());
        slot.setAbsent();
        MapSlot.MapKey key = new MapSlot.MapKey(new byte[] {7});
        slot.set(key, OLD);
        List<MapSlot.Cell> copy = slot.entries();
        slot.set(key, null);
        assertThat(copy.get(0).value).isEqualTo(OLD);
    }
}
