package io.dstl.client;

import io.dstl.proto.v1.Outcome;
import java.util.Arrays;

/**
 * One {@code BatchResult} message, looked at as it came: where its results lie, which operations they are of, and their
 * outcomes. Values are skipped over.
 */
final class ResultScan {
    private static final int NUMBER = 0x08;
    private static final int RESULT = 0x12;
    private static final int REPEATED = 0x18;
    private static final int OPERATION = 0x08;
    private static final int OUTCOME = 0x40;

    private final byte[] bytes;
    private long number;
    private boolean repeated;
    private boolean askAgain;
    private boolean refused;
    private int size;
    /** By result: its operation, where it begins and ends, its outcome. */
    private int[] operations = new int[16];
    private int[] from = new int[16];
    private int[] to = new int[16];
    private byte[] outcomes = new byte[16];

    /** Looks at the message in {@code bytes} from {@code start} to {@code end}. */
    ResultScan(byte[] bytes, int start, int end) {
        this.bytes = bytes;
        // A `QueryResult` has the same first two fields, and others behind them, which are of another wire type.
        Fields fields = new Fields(bytes, start, end);
        while (fields.next()) {
            switch (fields.tag()) {
                case NUMBER -> number = fields.number();
                case RESULT -> add(fields.from(), fields.to());
                case REPEATED -> repeated = fields.number() != 0;
                default -> { }
            }
        }
    }

    private void add(int start, int end) {
        if (size == operations.length) {
            operations = Arrays.copyOf(operations, 2 * size);
            from = Arrays.copyOf(from, 2 * size);
            to = Arrays.copyOf(to, 2 * size);
            outcomes = Arrays.copyOf(outcomes, 2 * size);
        }
        int operation = 0;
        int outcome = 0;
        Fields fields = new Fields(bytes, start, end);
        while (fields.next()) {
            if (fields.tag() == OPERATION) {
                operation = (int) fields.number();
            } else if (fields.tag() == OUTCOME) {
                outcome = (int) fields.number();
            }
        }
        operations[size] = operation;
        from[size] = start;
        to[size] = end;
        outcomes[size++] = (byte) outcome;
        askAgain |= outcome == Outcome.OUTCOME_ASK_AGAIN_VALUE;
        refused |= outcome != Outcome.OUTCOME_DONE_VALUE && outcome != Outcome.OUTCOME_ASK_AGAIN_VALUE;
    }

    long number() {
        return number;
    }

    /** Whether the batch had been applied before, so that there are no results. */
    boolean isRepeated() {
        return repeated;
    }

    /** Whether some reads did not fit the message. */
    boolean asksAgain() {
        return askAgain;
    }

    /** Whether a write was not done. */
    boolean hasRefused() {
        return refused;
    }

    /** Whether the read of this result did not fit the message. */
    boolean asksAgain(int at) {
        return outcomes[at] == Outcome.OUTCOME_ASK_AGAIN_VALUE;
    }

    int size() {
        return size;
    }

    int operation(int at) {
        return operations[at];
    }

    int outcome(int at) {
        return outcomes[at];
    }

    Fields fields(int at) {
        return new Fields(bytes, from[at], to[at]);
    }

    /** The place of an operation's result, as they are in order; negative: it has none. */
    int find(int operation) {
        // Where every operation has a result, it is there.
        if (operation < size && operations[operation] == operation) {
            return operation;
        }
        return Arrays.binarySearch(operations, 0, size, operation);
    }

    /**
     * Gives the results the indexes that their operations had in an earlier batch: {@code earlier} has them by index.
     */
    void translate(int[] earlier) {
        for (int at = 0; at < size; at++) {
            operations[at] = earlier[operations[at]];
        }
    }
}
