package io.github.nonblockingffi.host;

import io.github.nonblockingffi.Context;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.List;
import java.util.concurrent.CopyOnWriteArrayList;

/**
 * A pool thread as seen from Java: it takes task after task until there is none.
 *
 * <p>Small requests and responses pass through memory that the shared object and
 * Java both see, the frame, so that a task costs one crossing and no object of
 * JNI's. Its layout is that of {@code src/frame.rs}.
 */
final class Worker {
    /** Set in a turn's number while a task runs. */
    static final long RUNNING = 2;

    /** The size of a frame's request area, and of its response area. */
    private static final int SMALL = 4096;
    /** Responses from direct buffers up to here are copied by Java. */
    private static final int TINY = 512;

    private static final int TASK = 8;
    private static final int REQUEST = 64;
    private static final int RESPONSE = REQUEST + SMALL;

    private static final List<Worker> ALL = new CopyOnWriteArrayList<>();

    final Thread thread = Thread.currentThread();
    final long frame;
    /** The turn that {@link Watch} saw when it last looked. */
    long seen;

    private final ByteBuffer memory;
    private final ByteBuffer readOnly;

    Worker(long frame, ByteBuffer memory) {
        if (memory.capacity() != RESPONSE + SMALL) {
            throw new IllegalStateException("a frame has " + memory.capacity() + " bytes");
        }
        this.frame = frame;
        this.memory = memory.order(ByteOrder.nativeOrder());
        this.readOnly = memory.asReadOnlyBuffer();
        ALL.add(this);
    }

    static List<Worker> all() {
        return ALL;
    }

    /** The thread leaves Java. */
    void retire() {
        ALL.remove(this);
    }

    /** Runs the task in the frame, whose request is so long, and those behind it. */
    void run(JavaRuntime runtime, long length) {
        Watch.wakeIfAsleep();
        ClassLoader before = thread.getContextClassLoader();
        thread.setContextClassLoader(runtime.loader());
        try {
            Handler handler = runtime.handler();
            while (length >= 0) {
                long response;
                try {
                    response = handler.serve(this, (int) length);
                } catch (Throwable thrown) {
                    response = Failures.fail(runtime, task(), thrown);
                }
                length = Native.next(frame, response);
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
            return Native.requestBytes(frame);
        }
        byte[] request = new byte[length];
        memory.get(REQUEST, request);
        return request;
    }

    /** The request, read-only, for as long as the task runs on this thread. */
    ByteBuffer buffer(int length) {
        if (length > SMALL) {
            return Native.requestBuffer(frame).asReadOnlyBuffer();
        }
        return readOnly.slice(REQUEST, length);
    }

    /** The same for a task that goes on in another thread. */
    ByteBuffer lastingBuffer(int length) {
        if (length > SMALL) {
            return Native.requestBuffer(frame).asReadOnlyBuffer();
        }
        return ByteBuffer.wrap(bytes(length)).asReadOnlyBuffer();
    }

    Context context(JavaRuntime runtime) {
        return new TaskContext(runtime, task());
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
                Native.respondDirect(frame, task(), buffer, buffer.position(), length);
                return Native.DONE;
            }
            if (length <= SMALL) {
                memory.put(RESPONSE, buffer, buffer.position(), length);
                return length;
            }
        }
        Responses.respond(task(), value);
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
