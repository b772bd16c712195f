package io.dstl.flink;

import static org.assertj.core.api.Assertions.assertThat;

import org.apache.flink.runtime.executiongraph.ExecutionAttemptID;
import org.junit.jupiter.api.Test;

class TaskNamesTest {
    @Test
    void one_job_id_in_two_clusters_makes_two_names() {
        assertThat(TaskNames.job("00", "s3://a/checkpoints")).isNotEqualTo(TaskNames.job("00", "s3://b/checkpoints"));
        assertThat(TaskNames.job("00", "s3://a/checkpoints")).matches("00-[0-9a-f]{8}");
    }

    @Test
    void an_operator_is_named_by_its_id() {
        String id = "0123456789abcdef0123456789abcdef";
        assertThat(TaskNames.operator("StreamMap_" + id + "_(3/4)")).isEqualTo(id);
        assertThat(TaskNames.operator("test_op")).isEqualTo("test_op");
        assertThat(TaskNames.operator("a b")).matches("a_b-[0-9a-f]{16}");
    }

    @Test
    void the_execution_graph_is_read_from_the_attempt() {
        ExecutionAttemptID attempt = ExecutionAttemptID.randomId();
        assertThat(TaskNames.graph(attempt.toString()).size()).isEqualTo(16);
    }

    @Test
    void long_names_stay_different() {
        String common = "x".repeat(300);
        assertThat(TaskNames.fitState(common + "a", 256)).hasSize(256).isNotEqualTo(TaskNames.fitState(common + "b", 256));
        assertThat(TaskNames.fitState("event time/ä", 256)).isEqualTo("event time/ä");
    }
}
