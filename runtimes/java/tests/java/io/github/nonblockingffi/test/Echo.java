package io.github.nonblockingffi.test;

import io.github.nonblockingffi.Context;
import java.nio.ByteBuffer;
import java.util.concurrent.CompletableFuture;

/** Every kind of method that answers with the request. */
public final class Echo {
    private Echo() {}

    public static byte[] bytes(byte[] request) {
        return request;
    }

    public static ByteBuffer buffer(ByteBuffer request) {
        return request;
    }

    public static byte[] withContext(byte[] request, Context context) {
        return context.isCancelled() ? null : request;
    }

    public static CompletableFuture<byte[]> future(byte[] request) {
        return CompletableFuture.completedFuture(request);
    }

    public static CompletableFuture<ByteBuffer> later(ByteBuffer request) {
        return CompletableFuture.supplyAsync(() -> request);
    }
}
