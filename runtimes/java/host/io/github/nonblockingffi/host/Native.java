package io.github.nonblockingffi.host;

import java.nio.ByteBuffer;

/**
 * The functions of the shared object ({@code src/natives.rs}). A task is the
 * host's handle, a frame the address of a pool thread's memory, and a buffer or
 * array the one to read from. None of them blocks.
 */
final class Native {
    /** Told to {@link #next}: the task is answered, or in other hands. */
    static final long DONE = -1;

    private Native() {}

    /**
     * Ends a worker's turn and begins the next one: responds with the first
     * {@code response} bytes of the frame's response area, unless that is
     * {@link #DONE}, and takes the next task.
     *
     * @return the length of the next request; or a negative number if there is no
     *         task
     */
    static native long next(long frame, long response);

    /** The request of the frame's task. */
    static native byte[] requestBytes(long frame);

    /** The same in place: readable until the task has ended. */
    static native ByteBuffer requestBuffer(long frame);

    static native void respondArray(long task, byte[] array, int offset, int length);

    /** {@code frame} is that of the task, or 0. */
    static native void respondDirect(
            long frame, long task, ByteBuffer buffer, int position, int length);

    static native void fail(long task, long code, byte[] message);

    static native void setStatus(long task, long code, byte[] message);

    static native boolean isCancelled(long task);

    /** On the clock of {@link System#nanoTime}; -1 if there is none. */
    static native long deadline(long task);

    /** Runtime 0 is whichever there is; -1 the process's standard error. */
    static native void log(long runtime, int level, byte[] line, int length);

    /** The number of the frame's turn, with its flags. */
    static native long turn(long frame);

    /**
     * Keeps a frame in its turn until {@link #release}, if it still is in that
     * turn, nobody waits for its task, and it may be interrupted.
     */
    static native boolean claim(long frame, long turn);

    static native void release(long frame, long turn);
}
