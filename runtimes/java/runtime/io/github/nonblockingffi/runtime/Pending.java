package io.github.nonblockingffi.runtime;

import io.github.nonblockingffi.Context;
import java.lang.invoke.MethodHandle;
import java.util.Map;
import java.util.concurrent.CancellationException;
import java.util.concurrent.CompletionException;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.Future;
import java.util.function.BiConsumer;

/** A task that ends later, in another thread than the one that began it. */
abstract class Pending {
    private static final Map<Long, Pending> ALL = new ConcurrentHashMap<>();

    final JavaRuntime runtime;
    private final long task;

    private Pending(JavaRuntime runtime, long task) {
        this.runtime = runtime;
        this.task = task;
    }

    /** Stops the work: nobody waits for it any more. */
    abstract void giveUp();

    /** To be called before the work can end. */
    final void begin() {
        ALL.put(task, this);
        Native.onCancel(task);
    }

    /** Gives a task up, if it is pending. */
    static void cancel(long task) {
        Pending pending = ALL.get(task);
        if (pending != null) {
            pending.giveUp();
        }
    }

    /** True once: the caller is to end the task, and nobody else will. */
    private boolean end() {
        return ALL.remove(task, this);
    }

    final void respond(Object value) {
        if (!end()) {
            return;
        }
        try {
            Completion.respond(task, value);
        } catch (Throwable thrown) {
            Completion.fail(runtime, task, thrown);
        }
    }

    final void fail(Throwable thrown) {
        if (end()) {
            Completion.fail(runtime, task, thrown);
        }
    }

    /** Ends when a future does. */
    static final class OfFuture extends Pending implements BiConsumer<Object, Throwable> {
        private final CompletionStage<?> stage;

        OfFuture(JavaRuntime runtime, long task, CompletionStage<?> stage) {
            super(runtime, task);
            this.stage = stage;
        }

        void start() {
            begin();
            stage.whenComplete(this);
        }

        @Override
        public void accept(Object value, Throwable thrown) {
            if (thrown == null) {
                respond(value);
            } else {
                fail(thrown instanceof CompletionException && thrown.getCause() != null
                        ? thrown.getCause()
                        : thrown);
            }
        }

        /** The task ends also if the future cannot be cancelled. */
        @Override
        void giveUp() {
            try {
                if (stage instanceof Future<?> future) {
                    future.cancel(true);
                } else {
                    stage.toCompletableFuture().cancel(true);
                }
            } finally {
                fail(new CancellationException());
            }
        }
    }

    /** Runs in a virtual thread, and ends when that does. */
    static final class OfThread extends Pending implements Runnable {
        private final Handler handler;
        private final Object request;
        private final Context context;
        private Thread thread;
        private boolean unwanted;

        OfThread(Handler handler, long task, Object request, Context context) {
            super(handler.runtime, task);
            this.handler = handler;
            this.request = request;
            this.context = context;
        }

        /** {@code starter} is {@code Thread.startVirtualThread}. */
        void start(MethodHandle starter) {
            begin();
            try {
                Thread started = (Thread) starter.invokeExact((Runnable) this);
            } catch (Throwable thrown) {
                fail(thrown);
            }
        }

        @Override
        public void run() {
            if (!enter()) {
                fail(new CancellationException());
                return;
            }
            try {
                respond(handler.invoke(request, context));
            } catch (Throwable thrown) {
                fail(thrown);
            }
        }

        private synchronized boolean enter() {
            thread = Thread.currentThread();
            return !unwanted;
        }

        /** The task ends with the thread, which may be reading the request. */
        @Override
        synchronized void giveUp() {
            unwanted = true;
            if (thread != null && runtime.interrupts()) {
                thread.interrupt();
            }
        }
    }
}
