package io.dstl.flink.jobs;

import io.dstl.flink.Daemon;

/** At a quarter of the records a task fails, at the half the daemon is killed, at three quarters a task fails again. */
final class Disturbance implements Runnable {
    private final Daemon daemon;
    private final String run;
    private int done;

    Disturbance(Daemon daemon, String run) {
        this.daemon = daemon;
        this.run = run;
    }

    /** How often it disturbed. */
    int done() {
        return done;
    }

    @Override
    public void run() {
        long processed = Cluster.PROCESSED.containsKey(run) ? Cluster.PROCESSED.get(run).get() : 0;
        if (done < 3 && processed > (long) Jobs.EVENTS * (done + 1) / 4) {
            if (done == 1) {
                daemon.kill();
                daemon.start(true);
            } else {
                Cluster.FAIL.put(run, true);
            }
            done++;
        }
    }
}
