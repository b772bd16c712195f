package io.dstl.client;

import java.time.Duration;
import java.util.function.BooleanSupplier;

/** Waits for what comes by itself. */
final class Eventually {
    private Eventually() {}

    static void holds(String what, Duration patience, BooleanSupplier condition) {
        long deadline = System.nanoTime() + patience.toNanos();
        while (!condition.getAsBoolean()) {
            if (System.nanoTime() > deadline) {
                throw new AssertionError("not within " + patience + ": " + what);
            }
            try {
                Thread.sleep(10);
            } catch (InterruptedException interrupt) {
                throw new AssertionError(interrupt);
            }
        }
    }

    static void holds(String what, BooleanSupplier condition) {
        holds(what, Duration.ofSeconds(20), condition);
    }
}
