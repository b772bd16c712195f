package io.dstl.client;

import java.util.ArrayList;
import java.util.BitSet;
import java.util.List;

/** One batch on its way, and who waits for it. */
final class Outgoing {
    private final Batch batch;
    /** What it costs credit for. */
    private final boolean writes;
    /** Null once answered. */
    private Completion<Results> waiter;
    private Runnable answered;
    /** For reads that are asked again: the number and the operation indexes of the batch that they were in first. */
    private final long firstNumber;
    private final int[] indexes;
    /** What came before, while other reads are asked again. */
    private final List<ResultScan> parts;

    /** A batch as it was handed in; {@code answered} runs when its waiter was told. */
    Outgoing(Batch batch, BitSet touched, Completion<Results> waiter, Runnable answered) {
        this.batch = batch;
        this.writes = batch.writes(touched);
        this.waiter = waiter;
        this.answered = answered;
        this.firstNumber = -1;
        this.indexes = null;
        this.parts = new ArrayList<>(1);
    }

    private Outgoing(Batch reads, BitSet touched, Outgoing of, long firstNumber, int[] indexes) {
        this.batch = reads;
        this.writes = reads.writes(touched);
        this.waiter = of.waiter;
        this.answered = of.answered;
        this.firstNumber = firstNumber;
        this.indexes = indexes;
        this.parts = of.parts;
    }

    Batch batch() {
        return batch;
    }

    /** What sending it as {@code number} takes off the credit. */
    long cost(long number) {
        return writes ? Wire.batchLength(number, batch.encodedLength()) : 0;
    }

    /** The most that it may cost, whatever its number. */
    long mostCost() {
        return cost(Long.MAX_VALUE);
    }

    /** Whether an answer without results leaves somebody without what was read, or fired. */
    boolean lacksResults() {
        return waiter != null && (batch.reads() > 0 || batch.fires());
    }

    /** Takes in results; returns the reads that the message had no room for, to be asked again, or null. */
    Outgoing answer(long number, ResultScan scan, BitSet touched) {
        if (waiter == null) {
            return null;
        }
        BitSet leftOut = new BitSet();
        if (scan.asksAgain()) {
            for (int at = 0; at < scan.size(); at++) {
                leftOut.set(scan.operation(at), scan.asksAgain(at));
            }
            leftOut.and(batch.readIndexes());
        }
        Outgoing rest = leftOut.isEmpty() ? null : readsOf(number, leftOut, touched);
        if (indexes != null) {
            scan.translate(indexes);
        }
        parts.add(scan);
        if (rest == null) {
            complete(number);
        } else {
            waiter = null;
        }
        return rest;
    }

    /**
     * Its reads, to be asked again for the same waiter; this one was applied as {@code number}, and its answer lost.
     */
    Outgoing readsAgain(long number, BitSet touched) {
        Outgoing again = readsOf(number, batch.readIndexes(), touched);
        waiter = null;
        return again;
    }

    private Outgoing readsOf(long number, BitSet wanted, BitSet touched) {
        int[] originals = wanted.stream().map(index -> indexes == null ? index : indexes[index]).toArray();
        return new Outgoing(batch.onlyReads(wanted), touched, this, indexes == null ? number : firstNumber, originals);
    }

    /** Answers whoever waits with what came so far. */
    void complete(long number) {
        if (waiter != null) {
            Completion<Results> told = waiter;
            waiter = null;
            answered.run();
            told.complete(new Results(indexes == null ? number : firstNumber, parts.toArray(new ResultScan[0])));
        }
    }

    /** Tells whoever waits why it has no answer. */
    void fail(DstlException error) {
        if (waiter != null) {
            Completion<Results> told = waiter;
            waiter = null;
            answered.run();
            told.fail(error);
        }
    }
}
