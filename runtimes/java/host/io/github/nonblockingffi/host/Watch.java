package io.github.nonblockingffi.host;

import java.util.concurrent.locks.LockSupport;

/**
 * Looks every few milliseconds whether what runs is still waited for, on the
 * thread that has made the JVM. While nothing runs it sleeps.
 *
 * <p>A pool thread that is in the same task at two looks, and whose caller is
 * gone, is interrupted, once. It is kept from leaving the task meanwhile, and
 * takes the interrupt back when it has left it, so that no other task sees it.
 */
final class Watch {
    /** Nanoseconds between two looks. */
    private static final long INTERVAL = 10_000_000;
    /** Looks that find nothing before it goes to sleep. */
    private static final int QUIET = 100;

    private static volatile boolean asleep;
    private static volatile Thread thread;

    private Watch() {}

    /**
     * To be called when something has begun. The beginning is written before this
     * reads {@code asleep}, and {@link #run} writes that before it looks a last
     * time: one of the two sees the other.
     */
    static void wakeIfAsleep() {
        if (asleep) {
            asleep = false;
            LockSupport.unpark(thread);
        }
    }

    /** Never returns. */
    static void run() {
        thread = Thread.currentThread();
        int quiet = 0;
        while (true) {
            boolean busy;
            try {
                busy = look();
            } catch (Throwable thrown) {
                // Out of memory, most likely; there is nobody to tell.
                busy = true;
            }
            quiet = busy ? 0 : quiet + 1;
            if (quiet < QUIET) {
                LockSupport.parkNanos(Watch.class, INTERVAL);
            } else if (!asleep) {
                // One more look, now that everybody can see it.
                asleep = true;
            } else {
                LockSupport.park(Watch.class);
                quiet = asleep ? quiet : 0;
            }
        }
    }

    private static boolean look() {
        boolean busy = false;
        for (Worker worker : Worker.all()) {
            busy |= look(worker);
        }
        long now = System.nanoTime();
        for (JavaRuntime runtime : JavaRuntime.all()) {
            for (Pending pending : runtime.pending()) {
                busy = true;
                pending.look(now);
            }
        }
        return busy;
    }

    private static boolean look(Worker worker) {
        long turn = Native.turn(worker.frame);
        if ((turn & Worker.RUNNING) == 0) {
            return false;
        }
        if (turn != worker.seen) {
            worker.seen = turn;
        } else if (Native.claim(worker.frame, turn)) {
            try {
                worker.thread.interrupt();
            } finally {
                Native.release(worker.frame, turn);
            }
        }
        return true;
    }
}
