package io.github.nonblockingffi.host;

import java.util.concurrent.CancellationException;
import java.util.concurrent.CompletionException;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.Future;
import java.util.function.BiConsumer;

/** A task that ends when a future does. */
final class PendingFuture extends Pending implements BiConsumer<Object, Throwable> {
    private final CompletionStage<?> stage;

    PendingFuture(JavaRuntime runtime, long task, CompletionStage<?> stage) {
        super(runtime, task);
        this.stage = stage;
    }

    void begin() {
        runtime.pending().add(this);
        Watch.wakeIfAsleep();
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

    @Override
    void giveUp() {
        try {
            if (stage instanceof Future<?> future) {
                future.cancel(true);
            } else {
                stage.toCompletableFuture().cancel(true);
            }
        } catch (RuntimeException thrown) {
            // A stage of somebody's own that cannot be cancelled: the task ends
            // all the same.
        }
        fail(new CancellationException());
    }
}
