package io.github.nonblockingffi.runtime;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.List;
import java.util.concurrent.CopyOnWriteArrayList;

/**
 * The memory that a pool thread and the shared object share, as Java sees it. The
 * thread runs one task in it after the other.
 *
 * <p>Small requests and responses pass through it, so that a task costs one
 * crossing and no object of JNI's. Its layout is that of {@code src/frame.rs}.
 */
final class Frame {
    /** The size of the request area, and of the response area. */
    private static final int SMALL = 4096;
    /** Java itself copies responses in direct buffers of up to this size. */
    private static final int TINY = 512;

    private static final int TASK = 8;
    private static final int REQUEST = 64;
    private static final int RESPONSE = REQUEST + SMALL;

    private static final List<Frame> ALL = new CopyOnWriteArrayList<>();

    private final Thread thread = Thread.currentThread();
    private final long address;
    private final ByteBuffer memory;
    private final ByteBuffer readOnly;

    Frame(long address, ByteBuffer memory) {
        if (memory.capacity() != RESPONSE + SMALL) {
            throw new IllegalStateException("a frame has " + memory.capacity() + " bytes");
        }
        this.address = address;
        this.memory = memory.order(ByteOrder.nativeOrder());
        this.readOnly = memory.asReadOnlyBuffer();
        ALL.add(this);
    }

    /** The thread leaves Java. */
    void retire() {
        ALL.remove(this);
    }

    /**
     * Interrupts the thread that runs a task, if one does and its runtime allows
     * it. The thread cannot leave the task meanwhile, and clears the interrupt when
     * it does: no other task sees it.
     */
    static void interrupt(long task) {
        for (Frame frame : ALL) {
            long epoch = Native.claim(frame.address, task);
            if (epoch != 0) {
                try {
                    frame.thread.interrupt();
                } finally {
                    Native.release(frame.address, epoch);
                }
            }
        }
    }

    /** Runs the task in the frame, whose request has this length, and those behind it. */
    void run(JavaRuntime runtime, long length) {
        ClassLoader before = thread.getContextClassLoader();
        thread.setContextClassLoader(runtime.loader());
        try {
            Handler handler = runtime.handler();
            while (length >= 0) {
                long response;
                try {
                    response = handler.serve(this, (int) length);
                } catch (Throwable thrown) {
                    response = Completion.fail(runtime, task(), thrown);
                }
                length = Native.next(address, response);
                // An interrupt was for the task that has ended.
                Thread.interrupted();
            }
        } finally {
            thread.setContextClassLoader(before);
        }
    }

    long task() {
        return memory.getLong(TASK);
    }

    /** The request, copied. */
    byte[] bytes(int length) {
        if (length > SMALL) {
            return Native.requestBytes(address);
        }
        byte[] request = new byte[length];
        memory.get(REQUEST, request);
        return request;
    }

    /** The request, read-only, for as long as the task runs on this thread. */
    ByteBuffer buffer(int length) {
        return length > SMALL ? nativeBuffer() : readOnly.slice(REQUEST, length);
    }

    /** The request, read-only, for a task that goes on in another thread. */
    ByteBuffer lastingBuffer(int length) {
        return length > SMALL ? nativeBuffer() : ByteBuffer.wrap(bytes(length)).asReadOnlyBuffer();
    }

    private ByteBuffer nativeBuffer() {
        return Native.requestBuffer(address).asReadOnlyBuffer();
    }

    /** Answers the task, or gets the answer ready for {@link Native#next}. */
    long respond(Object value) {
        if (value instanceof byte[] array) {
            return respond(array, 0, array.length);
        }
        if (value instanceof ByteBuffer buffer) {
            int length = buffer.remaining();
            if (buffer.hasArray()) {
                return respond(buffer.array(), buffer.arrayOffset() + buffer.position(), length);
            }
            if (buffer.isDirect() && length > TINY) {
                Native.respondDirect(address, task(), buffer, buffer.position(), length);
                return Native.DONE;
            }
            if (length <= SMALL) {
                memory.put(RESPONSE, buffer, buffer.position(), length);
                return length;
            }
        }
        Completion.respond(task(), value);
        return Native.DONE;
    }

    private long respond(byte[] array, int offset, int length) {
        if (length > SMALL) {
            Native.respondArray(task(), array, offset, length);
            return Native.DONE;
        }
        memory.put(RESPONSE, array, offset, length);
        return length;
    }
}
