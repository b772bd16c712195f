package io.dstl.client;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.dstl.proto.v1.CheckpointCompleted;
import io.dstl.proto.v1.NoticeKind;
import io.dstl.proto.v1.NoticeOutcome;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.atomic.AtomicBoolean;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

/** Connections that break, answers that are lost, daemons that are killed. */
class BrokenStreamTest {
    private TestDaemon daemon;
    private SocketProxy proxy;
    private DstlClient client;
    private Backend backend;
    private AggregatingState<String, Long, Long> sums;

    @BeforeEach
    void open() throws Exception {
        daemon = TestDaemon.start();
        proxy = new SocketProxy(daemon);
        client = TestDaemon.connect(proxy.path());
        backend = client.open(OpenOptions.of("broken", "op").attempt(1).build()).await();
        sums = backend.aggregatingState("sums", Serdes.string(), Aggregation.sum(), StateOptions.NONE);
    }

    @AfterEach
    void close() {
        client.close();
        proxy.close();
        daemon.close();
    }

    private Batch add(String key) {
        Batch batch = new Batch();
        sums.add(batch, key, 1L);
        return batch;
    }

    @Test
    void appliesEveryBatchOnceHoweverOftenTheConnectionBreaks() throws Exception {
        Session session = backend.session(SessionOptions.DEFAULT).await();
        AtomicBoolean writing = new AtomicBoolean(true);
        Thread breaker = new Thread(() -> {
            while (writing.get()) {
                try {
                    Thread.sleep(15);
                } catch (InterruptedException interrupt) {
                    return;
                }
                proxy.breakAll();
            }
        });
        breaker.start();
        List<Pending<Results>> pending = new ArrayList<>();
        List<Pending<CheckpointCompleted>> checkpoints = new ArrayList<>();
        for (int at = 1; at <= 20_000; at++) {
            pending.add(session.send(add("k")));
            if (at % 2000 == 0) {
                checkpoints.add(session.barrier(at, Batch.NONE));
                Thread.sleep(20);
            }
        }
        writing.set(false);
        breaker.join();
        long number = 0;
        for (Pending<Results> one : pending) {
            assertThat(one.await().number()).isEqualTo(number++);
        }
        assertThat(sums.get(session, "k")).isEqualTo(20_000);
        for (int at = 0; at < checkpoints.size(); at++) {
            assertThat(checkpoints.get(at).await().getAppliedTo()).isEqualTo(2000L * (at + 1));
        }
        assertThat(proxy.connections()).isGreaterThan(3);
        session.finish().await();
    }

    @Test
    void answersWhatTheOldStreamOwed() throws Exception {
        Session session = backend.session(SessionOptions.DEFAULT).await();
        session.send(add("k")).await();
        proxy.loseAnswers();
        Pending<Results> write = session.send(add("k"));
        Batch reads = session.batch();
        Read<Long> read = sums.get(reads, "k");
        Pending<Results> results = session.send(reads);
        Pending<CheckpointCompleted> checkpoint = session.barrier(1, Batch.NONE);
        Pending<Long> persisted = session.persist();
        Pending<NoticeOutcome> notice = session.notify(NoticeKind.NOTICE_KIND_COMPLETE, session.checkpoint(99));
        Thread.sleep(300);
        assertThat(results.isDone()).isFalse();
        proxy.breakAndHeal();
        assertThat(write.await().number()).isEqualTo(1);
        assertThat(read.from(results.await())).isEqualTo(2);
        assertThat(checkpoint.await(Duration.ofSeconds(20)).getAppliedTo()).isEqualTo(3);
        assertThat(persisted.await(Duration.ofSeconds(20))).isGreaterThanOrEqualTo(3);
        assertThat(notice.await(Duration.ofSeconds(20))).isEqualTo(NoticeOutcome.NOTICE_OUTCOME_UNKNOWN);
        session.finish().await();
    }

    @Test
    void failsWhereReadsMustNotBeAskedAgain() throws Exception {
        Session session = backend.session(SessionOptions.DEFAULT).await();
        proxy.loseAnswers();
        Batch batch = session.batch().readsOnce();
        sums.get(batch, "k");
        sums.add(batch, "k", 1L);
        Pending<Results> results = session.send(batch);
        Thread.sleep(300);
        proxy.breakAndHeal();
        assertThatThrownBy(results::await).isInstanceOf(AnswerLostException.class);
        assertThat(session.failure()).isPresent();
    }

    @Test
    void tellsThatFiredTimersAreLost() throws Exception {
        TimerState<String> timers = backend.timerState("timers", Serdes.string(), StateOptions.NONE);
        Session session = backend.session(SessionOptions.DEFAULT).await();
        Batch batch = session.batch();
        timers.register(batch, "k", 5);
        session.send(batch).await();
        proxy.loseAnswers();
        Batch fire = session.batch();
        timers.fire(fire, 10, 0);
        Pending<Results> fired = session.send(fire);
        Thread.sleep(300);
        proxy.breakAndHeal();
        assertThatThrownBy(fired::await).isInstanceOf(AnswerLostException.class);
        assertThat(session.failure()).isEmpty();
    }

    @Test
    void endsTheSessionWhenTheDaemonWasRestarted() throws Exception {
        Session session = backend.session(SessionOptions.DEFAULT).await();
        session.send(add("k")).await();
        daemon.restart();
        assertThatThrownBy(() -> session.send(add("k")).await())
                .isInstanceOf(SessionLostException.class)
                .hasMessageContaining("restarted");
    }

    @Test
    void givesUpWhenNobodyAnswersForTheWholeTime() throws Exception {
        Session session = backend.session(SessionOptions.DEFAULT.withReconnectTimeout(Duration.ofMillis(500))).await();
        proxy.refuse();
        assertThatThrownBy(() -> session.send(add("k")).await())
                .isInstanceOf(SessionLostException.class)
                .hasMessageContaining("did not answer");
        Pending<Boolean> closing = backend.close();
        assertThatThrownBy(closing::await).isInstanceOf(ConnectionException.class);
    }

    @Test
    void failsPendingCallsWhenTheClientIsClosed() throws Exception {
        Session session = backend.session(SessionOptions.DEFAULT).await();
        daemon.suspend();
        Pending<Results> pending = session.send(add("k"));
        client.close();
        daemon.resume();
        assertThatThrownBy(pending::await).isInstanceOf(SessionLostException.class).hasMessageContaining("closed");
        assertThatThrownBy(() -> session.send(add("k"))).isInstanceOf(SessionLostException.class);
        assertThatThrownBy(() -> backend.describe().await()).isInstanceOf(ConnectionException.class);
    }
}
