package io.github.nonblockingffi.runtime;

import java.nio.ByteBuffer;

/**
 * The functions of the shared object ({@code src/natives.rs}). A task is the
 * host's handle, a frame its address. None blocks except {@link #awaitCancelled}.
 */
final class Native {
    /** Told to {@link #next}: the task has ended, or another thread will end it. */
    static final long DONE = -1;

    private Native() {}

    /**
     * Ends a frame's task and begins the next one: responds with the first
     * {@code response} bytes of the response area, unless that is {@link #DONE}.
     *
     * @return the length of the next request; negative if there is no task
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

    /** Whether it is cancelled, or its deadline has passed. */
    static native boolean isUnwanted(long task);

    /** On the clock of {@link System#nanoTime}; -1 if there is none. */
    static native long deadline(long task);

    /** Runtime 0 is any one that is open. */
    static native void log(long runtime, int level, byte[] text, int length);

    /** Has {@link #awaitCancelled} return the task when nobody waits for it any more. */
    static native void onCancel(long task);

    /** Waits for a task that nobody waits for any more. */
    static native long awaitCancelled();

    /**
     * Keeps the frame's thread in this task until {@link #release}, if it runs it
     * and may be interrupted.
     *
     * @return what to release; 0 if the thread is not in this task
     */
    static native long claim(long frame, long task);

    static native void release(long frame, long epoch);
}
