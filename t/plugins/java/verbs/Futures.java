package verbs;

import io.github.nonblockingffi.CallException;
import io.github.nonblockingffi.Context;
import io.github.nonblockingffi.Host;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.ScheduledThreadPoolExecutor;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;

/** Methods that return futures. */
public class Futures implements AutoCloseable {
    private final ScheduledExecutorService timer = new ScheduledThreadPoolExecutor(2);
    private final AtomicInteger given = new AtomicInteger();
    private final AtomicInteger cancelled = new AtomicInteger();
    private final Host host;

    public Futures(Host host) {
        this.host = host;
    }

    /** {@code "<ms> <text>"}: the text, so much later, from another thread. */
    public CompletableFuture<byte[]> later(byte[] request) {
        String text = new String(request, StandardCharsets.UTF_8);
        int space = text.indexOf(' ');
        byte[] answer = text.substring(space + 1).getBytes(StandardCharsets.UTF_8);
        CompletableFuture<byte[]> future = new CompletableFuture<>();
        timer.schedule(() -> future.complete(answer),
                Long.parseLong(text.substring(0, space)), TimeUnit.MILLISECONDS);
        return future;
    }

    /** {@code counts}, or a future that nobody completes. */
    public CompletionStage<byte[]> never(byte[] request) {
        String text = new String(request, StandardCharsets.UTF_8);
        if (text.equals("counts")) {
            String answer = "given=" + given + " cancelled=" + cancelled;
            return CompletableFuture.completedStage(answer.getBytes(StandardCharsets.UTF_8));
        }
        given.incrementAndGet();
        CompletableFuture<byte[]> future = new CompletableFuture<>();
        future.whenComplete((value, thrown) -> {
            if (future.isCancelled()) {
                cancelled.incrementAndGet();
            }
        });
        // Sees no end, and cannot be cancelled itself.
        return text.equals("stage") ? future.minimalCompletionStage() : future;
    }

    /** Ends in the way that it is told. */
    public CompletableFuture<?> how(ByteBuffer request, Context context) {
        String how = StandardCharsets.UTF_8.decode(request).toString();
        switch (how) {
            case "null":
                return null;
            case "nothing":
                return CompletableFuture.completedFuture(null);
            case "string":
                return CompletableFuture.completedFuture("a string");
            case "later string":
                return CompletableFuture.supplyAsync(() -> "a string");
            case "direct":
                return CompletableFuture.supplyAsync(() -> ByteBuffer.allocateDirect(5)
                        .put(how.getBytes(StandardCharsets.UTF_8), 0, 5).flip());
            case "throw":
                throw new IllegalStateException("at once");
            case "fail":
                return CompletableFuture.failedFuture(new IllegalStateException("failed"));
            case "code":
                return CompletableFuture.supplyAsync(() -> {
                    throw new CallException(7, "seven");
                });
            case "status":
                return CompletableFuture.supplyAsync(() -> {
                    context.setStatus(206, "partly");
                    return new byte[] {'o', 'k'};
                });
            case "twice":
                CompletableFuture<byte[]> future = new CompletableFuture<>();
                timer.execute(() -> {
                    future.complete(new byte[] {'1'});
                    future.complete(new byte[] {'2'});
                    future.completeExceptionally(new RuntimeException());
                });
                return future;
            default:
                return CompletableFuture.supplyAsync(
                        () -> request.duplicate().rewind());
        }
    }

    @Override
    public void close() {
        timer.shutdownNow();
        host.log(System.Logger.Level.INFO, "futures closed");
    }
}
