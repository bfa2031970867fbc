package io.github.nonblockingffi.runtime;

import java.lang.System.Logger.Level;
import java.net.URLConnection;
import java.nio.ByteBuffer;
import java.util.Arrays;
import java.util.List;

/** What the shared object calls ({@code src/java.rs}). */
final class Boot {
    /** The strings that {@link #open} takes; the others are the class path. */
    private static final int NAME = 0;
    private static final int ENTRY = 1;
    private static final int CONFIG = 2;
    private static final int CLASS_PATH = 3;

    private Boot() {}

    /** Prepares a JVM that has just been made. */
    static void start() {
        Output.install();
        Logging.Config.install();
        CommonPool.install();
        // The cache would keep jars of closed runtimes open.
        URLConnection.setDefaultUseCaches("jar", false);
    }

    /** Gives up the tasks that nobody waits for any more. Never returns. */
    static void cancelForever() {
        Canceller.run();
    }

    /** Makes a runtime. What this throws says why there is none. */
    static JavaRuntime open(long id, boolean interrupts, boolean virtualThreads, String[] given)
            throws Refusal {
        List<String> classPath = List.of(Arrays.copyOfRange(given, CLASS_PATH, given.length));
        try {
            return JavaRuntime.open(new JavaRuntime.Options(
                    id, given[NAME], given[ENTRY], given[CONFIG], interrupts, virtualThreads,
                    classPath));
        } catch (Refusal refusal) {
            throw refusal;
        } catch (Throwable thrown) {
            String description = Traces.describe(thrown);
            Log.write(id, Level.ERROR, description);
            throw new Refusal(description);
        }
    }

    static void close(JavaRuntime runtime) {
        runtime.close();
    }

    /** Makes a frame of the calling thread, in this memory. */
    static Frame enter(long address, ByteBuffer memory) {
        return new Frame(address, memory);
    }

    static void leave(Frame frame) {
        frame.retire();
    }
}
