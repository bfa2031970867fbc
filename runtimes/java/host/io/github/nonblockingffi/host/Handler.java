package io.github.nonblockingffi.host;

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
     * Runs, or starts, the task of a worker's frame.
     *
     * @return what {@link Native#next} is to be told
     */
    abstract long serve(Worker worker, int length) throws Throwable;

    final Object invoke(Object request, Context context) throws Throwable {
        return (Object) method.invokeExact(request, context);
    }

    final Context context(Worker worker) {
        return takesContext ? worker.context(runtime) : null;
    }

    /** The method returns the response. */
    static final class Blocking extends Handler {
        Blocking(JavaRuntime runtime, Entry entry) {
            super(runtime, entry);
        }

        @Override
        long serve(Worker worker, int length) throws Throwable {
            Object request = takesBuffer ? worker.buffer(length) : worker.bytes(length);
            return worker.respond(invoke(request, context(worker)));
        }
    }

    /** The method returns a future of the response. */
    static final class Asynchronous extends Handler {
        Asynchronous(JavaRuntime runtime, Entry entry) {
            super(runtime, entry);
        }

        @Override
        long serve(Worker worker, int length) throws Throwable {
            // Copied: cancelling a future ends the task, and with it nginx's
            // request, but not whoever reads it.
            byte[] bytes = worker.bytes(length);
            Object request = takesBuffer ? ByteBuffer.wrap(bytes).asReadOnlyBuffer() : bytes;
            Object future = invoke(request, context(worker));
            if (future == null) {
                throw new NullPointerException("the method returned null instead of a future");
            }
            // Of that very class: those that extend it may not say.
            if (future.getClass() == CompletableFuture.class) {
                CompletableFuture<?> done = (CompletableFuture<?>) future;
                if (done.isDone() && !done.isCompletedExceptionally()) {
                    return worker.respond(done.join());
                }
            }
            new PendingFuture(runtime, worker.task(), (CompletionStage<?>) future).begin();
            return Native.DONE;
        }
    }

    /** The method returns the response, and runs in a virtual thread of its own. */
    static final class Virtual extends Handler {
        private final MethodHandle start;

        Virtual(JavaRuntime runtime, Entry entry, MethodHandle start) {
            super(runtime, entry);
            this.start = start;
        }

        @Override
        long serve(Worker worker, int length) throws Throwable {
            Object request = takesBuffer ? worker.lastingBuffer(length) : worker.bytes(length);
            Context context = context(worker);
            PendingThread pending = new PendingThread(this, worker.task(), request, context);
            pending.begin(start);
            return Native.DONE;
        }
    }
}
