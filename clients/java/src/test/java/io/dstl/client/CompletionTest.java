package io.dstl.client;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import java.util.concurrent.atomic.AtomicReference;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;

class CompletionTest {
    private final ExecutorService executor = Executors.newSingleThreadExecutor(task -> new Thread(task, "callbacks"));

    @AfterEach
    void end() {
        executor.shutdownNow();
    }

    @Test
    void wakesEveryThreadThatWaitsSpinningOrParked() throws Exception {
        for (Duration spin : List.of(Duration.ZERO, Duration.ofMillis(200))) {
            Completion<String> completion = new Completion<>(executor, spin);
            List<Thread> waiting = new ArrayList<>();
            List<AtomicReference<String>> answers = new ArrayList<>();
            for (int at = 0; at < 5; at++) {
                AtomicReference<String> answer = new AtomicReference<>();
                answers.add(answer);
                Thread thread = new Thread(() -> {
                    try {
                        answer.set(completion.await());
                    } catch (InterruptedException interrupt) {
                        answer.set("interrupted");
                    }
                });
                thread.start();
                waiting.add(thread);
            }
            Thread.sleep(20);
            assertThat(completion.complete("yes")).isTrue();
            assertThat(completion.complete("no")).isFalse();
            for (Thread thread : waiting) {
                thread.join(TimeUnit.SECONDS.toMillis(10));
            }
            assertThat(answers).allSatisfy(answer -> assertThat(answer.get()).isEqualTo("yes"));
        }
    }

    @Test
    void callsBackOnTheExecutorWhichAfterItsEndIsTheCompletingThread() throws Exception {
        Completion<String> completion = new Completion<>(executor);
        AtomicReference<String> thread = new AtomicReference<>();
        completion.whenDone((answer, error) -> thread.set(Thread.currentThread().getName()));
        completion.complete("yes");
        assertThat(completion.future().get(10, TimeUnit.SECONDS)).isEqualTo("yes");
        Eventually.holds("it is called", () -> thread.get() != null);
        assertThat(thread.get()).isEqualTo("callbacks");

        executor.shutdown();
        Completion<String> late = new Completion<>(executor);
        late.whenDone((answer, error) -> thread.set(Thread.currentThread().getName()));
        late.complete("yes");
        assertThat(thread.get()).isEqualTo(Thread.currentThread().getName());
    }

    @Test
    void timesOutAndIsInterruptedWithoutLosingTheAnswer() throws Exception {
        Completion<String> completion = new Completion<>(executor);
        assertThatThrownBy(() -> completion.await(Duration.ofMillis(10))).isInstanceOf(TimeoutException.class);
        Thread.currentThread().interrupt();
        assertThatThrownBy(completion::await).isInstanceOf(InterruptedException.class);
        completion.fail(Errors.closed());
        assertThatThrownBy(completion::await).isInstanceOf(SessionLostException.class);
        assertThat(completion.future()).isCompletedExceptionally();
    }
}
