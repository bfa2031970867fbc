package io.github.nonblockingffi.runtime;

import io.github.nonblockingffi.Context;
import java.lang.System.Logger.Level;
import java.nio.charset.StandardCharsets;

/** The context of one call. It outlives its task: handles carry a generation. */
final class TaskContext implements Context {
    private final JavaRuntime runtime;
    private final long task;
    private final long deadline;

    TaskContext(JavaRuntime runtime, long task) {
        this.runtime = runtime;
        this.task = task;
        this.deadline = Native.deadline(task);
    }

    @Override
    public boolean isCancelled() {
        return Native.isCancelled(task);
    }

    @Override
    public long remainingNanos() {
        return deadline < 0 ? Long.MAX_VALUE : Math.max(0, deadline - System.nanoTime());
    }

    @Override
    public void setStatus(long code, String message) {
        Native.setStatus(task, code, message.getBytes(StandardCharsets.UTF_8));
    }

    @Override
    public String name() {
        return runtime.name();
    }

    @Override
    public String config() {
        return runtime.config();
    }

    @Override
    public void log(Level level, String message) {
        runtime.log(level, message);
    }

    @Override
    public void log(Level level, String message, Throwable thrown) {
        runtime.log(level, message, thrown);
    }
}
