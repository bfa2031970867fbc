package io.github.nonblockingffi.runtime;

import io.github.nonblockingffi.Context;
import java.lang.invoke.MethodHandle;
import java.nio.ByteBuffer;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionStage;

/** How a runtime's method is called. */
abstract class Handler {
    final JavaRuntime runtime;
    /** {@code (Object request, Context) -> Object}. */
    final MethodHandle method;
    final boolean takesBuffer;
    final boolean takesContext;

    Handler(JavaRuntime runtime, Entry entry) {
        this.runtime = runtime;
        this.method = entry.method();
        this.takesBuffer = entry.takesBuffer();
        this.takesContext = entry.takesContext();
    }

    /**
     * Runs, or starts, the task of a frame.
     *
     * @return what {@link Native#next} is to be told
     */
    abstract long serve(Frame frame, int length) throws Throwable;

    final Object invoke(Object request, Context context) throws Throwable {
        return (Object) method.invokeExact(request, context);
    }

    final Context context(Frame frame) {
        return takesContext ? new TaskContext(runtime, frame.task()) : null;
    }

    /** The method returns the response. */
    static final class Blocking extends Handler {
        Blocking(JavaRuntime runtime, Entry entry) {
            super(runtime, entry);
        }

        @Override
        long serve(Frame frame, int length) throws Throwable {
            Object request = takesBuffer ? frame.buffer(length) : frame.bytes(length);
            return frame.respond(invoke(request, context(frame)));
        }
    }

    /** The method returns a future of the response. */
    static final class Asynchronous extends Handler {
        Asynchronous(JavaRuntime runtime, Entry entry) {
            super(runtime, entry);
        }

        @Override
        long serve(Frame frame, int length) throws Throwable {
            // A copy: cancelling the future ends the task and frees nginx's
            // request, which another thread may still be reading.
            byte[] bytes = frame.bytes(length);
            Object request = takesBuffer ? ByteBuffer.wrap(bytes).asReadOnlyBuffer() : bytes;
            Object future = invoke(request, context(frame));
            if (future == null) {
                throw new NullPointerException("the method returned null instead of a future");
            }
            // Not of a subclass, which may override these methods.
            if (future.getClass() == CompletableFuture.class) {
                CompletableFuture<?> done = (CompletableFuture<?>) future;
                if (done.isDone() && !done.isCompletedExceptionally()) {
                    return frame.respond(done.join());
                }
            }
            new Pending.OfFuture(runtime, frame.task(), (CompletionStage<?>) future).start();
            return Native.DONE;
        }
    }

    /** The method returns the response, and runs in a virtual thread of its own. */
    static final class Virtual extends Handler {
        private final MethodHandle starter;

        Virtual(JavaRuntime runtime, Entry entry, MethodHandle starter) {
            super(runtime, entry);
            this.starter = starter;
        }

        @Override
        long serve(Frame frame, int length) throws Throwable {
            Object request = takesBuffer ? frame.lastingBuffer(length) : frame.bytes(length);
            new Pending.OfThread(this, frame.task(), request, context(frame)).start(starter);
            return Native.DONE;
        }
    }
}
