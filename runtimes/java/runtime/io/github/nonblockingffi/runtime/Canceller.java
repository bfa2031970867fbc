package io.github.nonblockingffi.runtime;

/**
 * Gives up the tasks that nobody waits for any more, on the thread that has made
 * the JVM. It sleeps in native code until there is one.
 */
final class Canceller {
    private Canceller() {}

    /** Never returns. */
    static void run() {
        while (true) {
            long task = Native.awaitCancelled();
            try {
                Frame.interrupt(task);
                Pending.cancel(task);
            } catch (Throwable thrown) {
                // Memory is out, most likely. There is nobody to tell.
            }
        }
    }
}
