package io.github.nonblockingffi.host;

import java.lang.System.Logger.Level;
import java.net.URLConnection;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;

/** What the shared object calls ({@code src/java.rs}). */
final class Boot {
    /** What the first fields of {@link #open} are; the others are the class path. */
    private static final int NAME = 0;
    private static final int ENTRY = 1;
    private static final int CONFIG = 2;
    private static final int FLAGS = 3;
    private static final int CLASS_PATH = 4;

    private Boot() {}

    /** Once, in a JVM that has just been made. */
    static void start() {
        Output.install();
        LoggingConfig.install();
        ExitGuard.install();
        // The cache would keep jars of closed runtimes open.
        URLConnection.setDefaultUseCaches("jar", false);
    }

    /** Watches, on the thread that made the JVM. Never returns. */
    static void watch() {
        Watch.run();
    }

    /**
     * The worker ends.
     *
     * @return whether shutdown hooks are to be run
     */
    static boolean end() {
        return ExitGuard.end();
    }

    /**
     * Makes a runtime.
     *
     * @return the {@link JavaRuntime}; or, as {@code byte[]}, why there is none
     */
    static Object open(long id, byte[][] fields) {
        try {
            List<String> classPath = new ArrayList<>();
            for (int i = CLASS_PATH; i < fields.length; i++) {
                classPath.add(text(fields[i]));
            }
            String flags = text(fields[FLAGS]);
            return JavaRuntime.open(new JavaRuntime.Options(
                    id,
                    text(fields[NAME]),
                    text(fields[ENTRY]),
                    text(fields[CONFIG]),
                    flags.contains("interrupt"),
                    flags.contains("virtual"),
                    classPath));
        } catch (Refusal refusal) {
            return Failures.utf8(refusal.getMessage());
        } catch (Throwable thrown) {
            String description = Traces.describe(thrown);
            Log.write(id, Level.ERROR, description);
            return Failures.utf8(description);
        }
    }

    private static String text(byte[] field) {
        return new String(field, StandardCharsets.UTF_8);
    }

    static void close(JavaRuntime runtime) {
        runtime.close();
    }

    /** The calling thread begins to work for us, with this memory. */
    static Worker enter(long frame, ByteBuffer memory) {
        return new Worker(frame, memory);
    }

    /** It leaves again. */
    static void leave(Worker worker) {
        worker.retire();
    }
}
