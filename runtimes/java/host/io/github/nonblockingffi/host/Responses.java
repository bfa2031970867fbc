package io.github.nonblockingffi.host;

import java.nio.ByteBuffer;

/** Answering a task from any thread. */
final class Responses {
    private static final byte[] NOTHING = {};

    private Responses() {}

    /** Completes a task with what a method, or its future, has returned. */
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
}
