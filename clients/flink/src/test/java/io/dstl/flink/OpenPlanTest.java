package io.dstl.flink;

import static org.assertj.core.api.Assertions.assertThat;

import com.google.protobuf.ByteString;
import io.dstl.flink.HandleCodec.Part;
import io.dstl.flink.OpenPlan.Settings;
import io.dstl.flink.OpenPlan.Task;
import io.dstl.proto.v1.ClaimMode;
import io.dstl.proto.v1.InnerBackend;
import java.util.List;
import org.junit.jupiter.api.Test;

class OpenPlanTest {
    private static final ByteString GRAPH = bytes("graph-0123456789");
    private static final ByteString RUN = bytes("an-earlier-graph");
    private static final Settings SETTINGS = new Settings(InnerBackend.INNER_BACKEND_HASHMAP, 3, 120_000);

    private static ByteString bytes(String text) {
        return ByteString.copyFromUtf8(text);
    }

    private static Task task(long origin, boolean claim, int attempt) {
        return new Task("job", "op", 1, 2, 8, 15, 16, GRAPH, attempt, origin, claim);
    }

    private static Part part(String job, long origin) {
        return new Part(job, "op", 0, RUN, origin, bytes("handle of " + job));
    }

    @Test
    void begins_empty_in_a_new_run_without_handles() {
        OpenPlan plan = OpenPlan.of(task(0, false, 0), List.of(), SETTINGS);

        assertThat(plan.request().getRestore().hasEmpty()).isTrue();
        assertThat(plan.run()).isEqualTo(GRAPH);
        assertThat(plan.job()).isEqualTo("job");
    }

    @Test
    void peers_have_one_group_and_a_token_of_their_own_attempt() {
        OpenPlan low = OpenPlan.of(task(0, false, 0), List.of(), SETTINGS);
        OpenPlan high = OpenPlan.of(task(0, false, 1), List.of(), SETTINGS);

        assertThat(low.request().getPeerGroup()).isEqualTo(high.request().getPeerGroup()).isEqualTo(GRAPH);
        assertThat(low.request().getAttemptToken()).isNotEqualTo(high.request().getAttemptToken());
        assertThat(low.request().getAttempt()).isZero();
        assertThat(low.request().getFresh()).isTrue();
    }

    @Test
    void a_fail_over_goes_on_with_its_run_and_claims() {
        OpenPlan plan = OpenPlan.of(task(7, false, 1), List.of(part("job", 7)), SETTINGS);

        assertThat(plan.run()).isEqualTo(RUN);
        assertThat(plan.request().getClaimMode()).isEqualTo(ClaimMode.CLAIM_MODE_CLAIM);
        assertThat(plan.request().getRestore().getHandles().getVouched()).isTrue();
        assertThat(plan.adopts()).isFalse();
    }

    @Test
    void whoever_starts_from_a_checkpoint_begins_a_new_run() {
        assertThat(OpenPlan.of(task(8, false, 0), List.of(part("job", 7)), SETTINGS).run()).isEqualTo(GRAPH);
        assertThat(OpenPlan.of(task(8, true, 0), List.of(part("job", 7)), SETTINGS).run()).isEqualTo(GRAPH);
    }

    @Test
    void no_claim_copies_under_its_own_name() {
        OpenPlan plan = OpenPlan.of(task(8, false, 0), List.of(part("other", 7)), SETTINGS);

        assertThat(plan.job()).isEqualTo("job");
        assertThat(plan.request().getClaimMode()).isEqualTo(ClaimMode.CLAIM_MODE_NO_CLAIM);
        assertThat(plan.adopts()).isFalse();
    }

    @Test
    void claim_adopts_the_other_name_and_keeps_it_through_fail_overs() {
        OpenPlan first = OpenPlan.of(task(8, true, 0), List.of(part("other", 7)), SETTINGS);
        assertThat(first.job()).isEqualTo("other");
        assertThat(first.request().getClaimMode()).isEqualTo(ClaimMode.CLAIM_MODE_CLAIM);
        assertThat(first.adopts()).isTrue();

        Part own = new Part("other", "op", 1, first.run(), 8, bytes("own"));
        OpenPlan second = OpenPlan.of(task(8, true, 1), List.of(own), SETTINGS);
        assertThat(second.job()).isEqualTo("other");
        assertThat(second.run()).isEqualTo(first.run());
        assertThat(second.adopts()).isFalse();
    }

    @Test
    void handles_of_several_jobs_are_copied_whatever_the_claim_mode() {
        OpenPlan plan = OpenPlan.of(task(8, true, 0), List.of(part("a", 7), part("b", 7)), SETTINGS);

        assertThat(plan.job()).isEqualTo("job");
        assertThat(plan.request().getClaimMode()).isEqualTo(ClaimMode.CLAIM_MODE_NO_CLAIM);
    }
}
