package io.github.nonblockingffi.runtime;

import java.lang.System.Logger.Level;

/**
 * {@code System.exit} and {@code Runtime.halt} would end nginx's worker process, and
 * the former would first run the shutdown hooks of all runtimes, of which one is
 * that of {@code java.util.logging}. Both call {@code java.lang.Shutdown.beforeHalt}
 * before anything else. The shared object puts a function in its place that calls
 * this. So an exit is an exception where it was asked for, and nothing else.
 */
final class ExitGuard {
    private static final String MESSAGE = "System.exit was called";

    private ExitGuard() {}

    /** Called instead of ending the process. */
    static void refuse() {
        Log.write(Loader.currentRuntime(), Level.ERROR,
                MESSAGE + ": that does not end nginx's worker");
        throw new ExitRefused();
    }

    /** A {@code SecurityException}, as a {@code SecurityManager} would throw it. */
    static final class ExitRefused extends SecurityException {
        private static final long serialVersionUID = 1;

        ExitRefused() {
            super(MESSAGE);
        }
    }
}
