package io.github.nonblockingffi.host;

import java.util.concurrent.atomic.AtomicBoolean;

/**
 * A task that ends later, in some other thread. Its runtime keeps it until then,
 * so that {@link Watch} can give it up when nobody waits for it any more.
 */
abstract class Pending {
    final JavaRuntime runtime;
    final long task;

    private final long deadline;
    private final AtomicBoolean ended = new AtomicBoolean();
    /** Watch's own. */
    private boolean givenUp;

    Pending(JavaRuntime runtime, long task) {
        this.runtime = runtime;
        this.task = task;
        this.deadline = Native.deadline(task);
    }

    /** Stops the work; whoever does it notices, and ends the task. */
    abstract void giveUp();

    /** Looks whether anybody still waits for it, and gives it up if not. */
    final void look(long now) {
        if (givenUp) {
            return;
        }
        boolean late = deadline >= 0 && deadline - now <= 0;
        if (late || Native.isCancelled(task)) {
            givenUp = true;
            giveUp();
        }
    }

    /** True once: the caller is to end the task, and nobody else will. */
    final boolean end() {
        if (!ended.compareAndSet(false, true)) {
            return false;
        }
        runtime.pending().remove(this);
        return true;
    }

    final void respond(Object value) {
        if (!end()) {
            return;
        }
        try {
            Responses.respond(task, value);
        } catch (Throwable thrown) {
            Failures.fail(runtime, task, thrown);
        }
    }

    final void fail(Throwable thrown) {
        if (end()) {
            Failures.fail(runtime, task, thrown);
        }
    }
}
