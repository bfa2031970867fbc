package io.github.nonblockingffi.runtime;

import io.github.nonblockingffi.CallException;
import java.lang.System.Logger.Level;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;

/** Ends a task, from any thread. */
final class Completion {
    /** The code of an exception that has none of its own. */
    private static final long CODE = 1;
    private static final byte[] NOTHING = {};
    /** For when no memory is left to describe what was thrown. */
    private static final byte[] OUT_OF_MEMORY = utf8("java.lang.OutOfMemoryError");

    private Completion() {}

    /** Responds with what a method, or its future, has returned. */
    static void respond(long task, Object value) {
        if (value == null) {
            Native.respondArray(task, NOTHING, 0, 0);
        } else if (value instanceof byte[] array) {
            Native.respondArray(task, array, 0, array.length);
        } else if (value instanceof ByteBuffer buffer) {
            respond(task, buffer);
        } else {
            throw new ClassCastException("the future's value is of " + value.getClass()
                    + ", neither byte[] nor ByteBuffer");
        }
    }

    private static void respond(long task, ByteBuffer buffer) {
        int length = buffer.remaining();
        if (buffer.isDirect()) {
            Native.respondDirect(0, task, buffer, buffer.position(), length);
        } else if (buffer.hasArray()) {
            int offset = buffer.arrayOffset() + buffer.position();
            Native.respondArray(task, buffer.array(), offset, length);
        } else {
            // Read-only: its array is nobody else's to see.
            byte[] copy = new byte[length];
            buffer.get(buffer.position(), copy);
            Native.respondArray(task, copy, 0, length);
        }
    }

    /**
     * Fails a task with what was thrown, and logs that if anybody waits for the task.
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
            boolean wanted = !Native.isUnwanted(task);
            String text = Traces.describe(thrown);
            Native.fail(task, CODE, utf8(text));
            if (wanted) {
                runtime.log(Level.ERROR, text);
            }
        } catch (Throwable worse) {
            Native.fail(task, CODE, OUT_OF_MEMORY);
        }
        return Native.DONE;
    }

    private static byte[] utf8(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }
}
