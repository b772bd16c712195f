package org.apache.flink.runtime.state;

/** Flink's suite for operator state, as it is: the backend is Flink's own, so this is a smoke test. */
class FlinkOperatorStateSuite extends OperatorStateBackendTest {}
