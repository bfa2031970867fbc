import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.util.zip.GZIPOutputStream;

/** What the demo has Java do: compress the request. */
public final class Gzip {
    private Gzip() {}

    public static byte[] call(byte[] request) throws IOException {
        ByteArrayOutputStream compressed = new ByteArrayOutputStream();
        try (GZIPOutputStream gzip = new GZIPOutputStream(compressed)) {
            gzip.write(request);
        }
        return compressed.toByteArray();
    }
}
