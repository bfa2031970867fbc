import java.io.IOException;
import java.net.StandardProtocolFamily;
import java.net.UnixDomainSocketAddress;
import java.nio.ByteBuffer;
import java.nio.channels.SelectionKey;
import java.nio.channels.Selector;
import java.nio.channels.ServerSocketChannel;
import java.nio.channels.SocketChannel;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.attribute.PosixFilePermissions;

/**
 * Echo in Java: as a plugin, and as its rival behind a unix socket, one thread
 * with a selector.
 *
 * <pre>java Echo.java /path/of/socket</pre>
 *
 * <p>A message is its length, 4 bytes with the highest first, and its bytes; the
 * answer has the same form, as that of {@code bench/src/echo_server.rs}.
 */
public final class Echo {
    private static final int HEAD = 4;
    private static final int BUFFER = 16 * 1024;

    private Echo() {}

    static byte[] call(byte[] request) {
        return request;
    }

    static ByteBuffer buffer(ByteBuffer request) {
        return request;
    }

    public static void main(String[] arguments) throws IOException {
        Path path = Path.of(arguments[0]);
        try (Selector selector = Selector.open();
                ServerSocketChannel server =
                        ServerSocketChannel.open(StandardProtocolFamily.UNIX)) {
            server.bind(UnixDomainSocketAddress.of(path), 1024);
            Files.setPosixFilePermissions(path, PosixFilePermissions.fromString("rwxrwxrwx"));
            server.configureBlocking(false);
            server.register(selector, SelectionKey.OP_ACCEPT);
            while (true) {
                selector.select(key -> {
                    try {
                        if (key.isAcceptable()) {
                            accept(server, selector);
                        } else {
                            ((Connection) key.attachment()).run(key);
                        }
                    } catch (IOException gone) {
                        close(key);
                    }
                });
            }
        }
    }

    private static void accept(ServerSocketChannel server, Selector selector) throws IOException {
        SocketChannel channel = server.accept();
        if (channel != null) {
            channel.configureBlocking(false);
            channel.register(selector, SelectionKey.OP_READ, new Connection(channel));
        }
    }

    private static void close(SelectionKey key) {
        try {
            key.channel().close();
        } catch (IOException ignored) {
            // It is gone either way.
        }
    }

    /** One client. What is read is written back once a message is whole. */
    private static final class Connection {
        private final SocketChannel channel;
        /** From 0 to {@code whole}: answers. From there to its position: read. */
        private ByteBuffer buffer = ByteBuffer.allocateDirect(BUFFER);
        private int written;
        private int whole;

        Connection(SocketChannel channel) {
            this.channel = channel;
        }

        void run(SelectionKey key) throws IOException {
            if (key.isReadable() && channel.read(buffer) < 0) {
                throw new IOException("the client has closed");
            }
            int next = length(whole);
            while (next > 0 && whole + next <= buffer.position()) {
                whole += next;
                next = length(whole);
            }
            ByteBuffer answers = buffer.duplicate().position(written).limit(whole);
            channel.write(answers);
            written = answers.position();
            if (written == whole) {
                buffer.limit(buffer.position()).position(whole);
                buffer.compact();
                written = 0;
                whole = 0;
            }
            int needed = whole + next;
            if (needed > buffer.capacity() || buffer.remaining() == 0) {
                int size = Math.max(buffer.capacity() * 2, needed);
                buffer = ByteBuffer.allocateDirect(size).put(buffer.flip());
            }
            key.interestOps(written < whole
                    ? SelectionKey.OP_READ | SelectionKey.OP_WRITE
                    : SelectionKey.OP_READ);
        }

        /** How long the message is that begins there, with its head; 0 if that is not there. */
        private int length(int start) {
            return start + HEAD > buffer.position() ? 0 : HEAD + buffer.getInt(start);
        }
    }
}
