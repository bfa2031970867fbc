package io.github.nonblockingffi.host;

import io.github.nonblockingffi.Context;
import java.lang.invoke.MethodHandle;
import java.util.concurrent.CancellationException;

/** A task that runs in a virtual thread, and ends when that does. */
final class PendingThread extends Pending implements Runnable {
    private final Handler handler;
    private final Object request;
    private final Context context;
    private Thread thread;
    private boolean unwanted;

    PendingThread(Handler handler, long task, Object request, Context context) {
        super(handler.runtime, task);
        this.handler = handler;
        this.request = request;
        this.context = context;
    }

    void begin(MethodHandle start) throws Throwable {
        runtime.pending().add(this);
        Watch.wakeIfAsleep();
        try {
            Thread started = (Thread) start.invokeExact((Runnable) this);
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
