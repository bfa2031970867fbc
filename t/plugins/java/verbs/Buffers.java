package verbs;

import io.github.nonblockingffi.Context;
import java.nio.ByteBuffer;
import java.nio.ReadOnlyBufferException;
import java.nio.charset.StandardCharsets;

/** Methods that take and return buffers. */
final class Buffers {
    private static final ByteBuffer LARGE = ByteBuffer.allocateDirect(1 << 20);

    private Buffers() {}

    static ByteBuffer echo(ByteBuffer request) {
        return request;
    }

    /** Without its first and its last byte. */
    static ByteBuffer inner(ByteBuffer request) {
        return request.slice(1, request.remaining() - 2);
    }

    static ByteBuffer heap(ByteBuffer request) {
        byte[] copy = new byte[request.remaining() + 10];
        request.get(request.position(), copy, 5, request.remaining());
        return ByteBuffer.wrap(copy, 5, request.remaining());
    }

    static ByteBuffer readOnlyHeap(ByteBuffer request) {
        return heap(request).slice().asReadOnlyBuffer();
    }

    /** A buffer of the class's own, from its middle on. */
    static ByteBuffer own(ByteBuffer request, Context context) {
        int length = Integer.parseInt(StandardCharsets.US_ASCII.decode(request).toString());
        return LARGE.duplicate().position(1000).limit(1000 + length);
    }

    static byte[] describe(ByteBuffer request) {
        String text = "direct=" + request.isDirect() + " readonly=" + request.isReadOnly()
                + " order=" + request.order() + " remaining=" + request.remaining();
        try {
            request.put(0, (byte) 1);
            text += " written";
        } catch (ReadOnlyBufferException refused) {
            text += " refused";
        }
        return text.getBytes(StandardCharsets.US_ASCII);
    }

    static ByteBuffer fromBytes(byte[] request) {
        return ByteBuffer.wrap(request);
    }

    static void nothing(byte[] request) {}

    static ByteBuffer nil(byte[] request) {
        return null;
    }
}
