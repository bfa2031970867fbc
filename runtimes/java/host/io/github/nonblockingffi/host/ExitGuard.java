package io.github.nonblockingffi.host;

import java.lang.System.Logger.Level;
import java.util.HashSet;
import java.util.Set;

/**
 * {@code System.exit} in a worker would end nginx's worker process. As a shutdown
 * hook that does not return, this keeps the JVM from it: the thread that asked for
 * the exit waits for ever, and its task fails.
 */
final class ExitGuard implements Runnable {
    private static final long INTERVAL_MS = 100;

    private static final String MESSAGE = "System.exit was called";

    /** Whether somebody has called System.exit, and whether the worker ends. */
    private static volatile boolean begun;
    private static volatile boolean ending;

    /** Workers whose threads are lost. */
    private final Set<Worker> lost = new HashSet<>();

    private ExitGuard() {}

    static void install() {
        Runtime.getRuntime().addShutdownHook(new Thread(new ExitGuard(), "nbffi-exit"));
    }

    /**
     * The worker ends, and nothing is to be kept from it.
     *
     * @return whether shutdown hooks are still to be run
     */
    static boolean end() {
        ending = !begun;
        return ending;
    }

    @Override
    public void run() {
        if (ending) {
            return;
        }
        begun = true;
        while (true) {
            try {
                failThoseWhoExit();
                Thread.sleep(INTERVAL_MS);
            } catch (Throwable thrown) {
                // Whatever it is, returning would end the process.
            }
        }
    }

    private void failThoseWhoExit() {
        for (Worker worker : Worker.all()) {
            boolean running = (Native.turn(worker.frame) & Worker.RUNNING) != 0;
            if (running && !lost.contains(worker) && isExiting(worker.thread)) {
                lost.add(worker);
                Native.fail(worker.task(), Failures.CODE, Failures.utf8(MESSAGE));
                Log.write(0, Level.ERROR, MESSAGE + ": that does not end nginx's worker, but "
                        + worker.thread.getName() + " is lost, and shutdown hooks have run");
            }
        }
    }

    private static boolean isExiting(Thread thread) {
        for (StackTraceElement frame : thread.getStackTrace()) {
            if (frame.getClassName().equals("java.lang.Shutdown")) {
                return true;
            }
        }
        return false;
    }
}
