package io.github.nonblockingffi.test;

import io.github.nonblockingffi.CallException;
import io.github.nonblockingffi.Context;
import java.nio.ByteBuffer;
import java.util.concurrent.CompletableFuture;

/** Methods of every kind that answer with the request. */
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

    /** Fails if the request says so, or nothing. */
    public static byte[] picky(byte[] request) {
        if (request.length == 0) {
            throw new CallException(7, "empty");
        }
        if (request[0] == 'b') {
            throw new IllegalArgumentException(new String(request));
        }
        return request;
    }

    public static CompletableFuture<byte[]> future(byte[] request) {
        return CompletableFuture.completedFuture(request);
    }
}
