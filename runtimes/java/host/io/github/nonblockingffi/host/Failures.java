package io.github.nonblockingffi.host;

import io.github.nonblockingffi.CallException;
import java.lang.System.Logger.Level;
import java.nio.charset.StandardCharsets;

/** Failing a task with what was thrown. */
final class Failures {
    /** The code of whatever has none of its own. */
    static final long CODE = 1;
    /** For when there is no memory left to say it better. */
    private static final byte[] BEYOND_WORDS = "java.lang.OutOfMemoryError".getBytes(
            StandardCharsets.UTF_8);

    private Failures() {}

    /**
     * Ends a task, and writes why to nginx's error log unless nobody waits for it.
     *
     * @return {@link Native#DONE}
     */
    static long fail(JavaRuntime runtime, long task, Throwable thrown) {
        try {
            if (thrown instanceof CallException failure) {
                String message = failure.getMessage();
                Native.fail(task, failure.code(), utf8(message == null ? "" : message));
                return Native.DONE;
            }
            if (thrown instanceof ExitGuard.ExitRefused refused) {
                // Logged already.
                Native.fail(task, CODE, utf8(refused.getMessage()));
                return Native.DONE;
            }
            boolean wanted = !isOver(task);
            String text = Traces.describe(thrown);
            Native.fail(task, CODE, utf8(text));
            if (wanted) {
                runtime.log(Level.ERROR, text);
            }
        } catch (Throwable worse) {
            Native.fail(task, CODE, BEYOND_WORDS);
        }
        return Native.DONE;
    }

    /** Whether nobody waits for a task any more. */
    private static boolean isOver(long task) {
        long deadline = Native.deadline(task);
        return deadline >= 0 && deadline - System.nanoTime() <= 0 || Native.isCancelled(task);
    }

    static byte[] utf8(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }
}
