package io.github.nonblockingffi.host;

import java.lang.System.Logger.Level;

/**
 * {@code System.exit} in a worker would end nginx's worker process. As a shutdown
 * hook that does not return, this keeps the JVM from it: the thread that asked for
 * the exit waits for ever, and its task fails.
 */
final class ExitGuard implements Runnable {
    private static final long INTERVAL_MS = 100;

    private ExitGuard() {}

    static void install() {
        Runtime.getRuntime().addShutdownHook(new Thread(new ExitGuard(), "nbffi-exit"));
    }

    @Override
    public void run() {
        Log.write(0, Level.ERROR, "System.exit was called: it does not end nginx's worker, but the"
                + " thread that called it is lost, and shutdown hooks have run");
        while (true) {
            try {
                failThoseWhoExit();
                Thread.sleep(INTERVAL_MS);
            } catch (Throwable thrown) {
                // Whatever it is, returning would end the process.
            }
        }
    }

    private static void failThoseWhoExit() {
        for (Worker worker : Worker.all()) {
            boolean running = (Native.turn(worker.frame) & Worker.RUNNING) != 0;
            if (running && isExiting(worker.thread)) {
                byte[] message = Failures.utf8("System.exit was called");
                Native.fail(worker.task(), Failures.CODE, message);
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
