package faults;

import io.github.nonblockingffi.Context;
import io.github.nonblockingffi.Host;
import java.io.IOException;
import java.io.RandomAccessFile;
import java.lang.invoke.MethodHandles;
import java.lang.invoke.VarHandle;
import java.lang.management.ManagementFactory;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.channels.FileChannel;
import java.nio.charset.StandardCharsets;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.ScheduledThreadPoolExecutor;
import java.util.concurrent.TimeUnit;

/**
 * What the plugin {@code fault} is in C: it does as it is told, and counts in the
 * file that its config names, where the counts outlive the worker.
 */
public final class Faults implements AutoCloseable {
    private static final int STARTED = 0;
    private static final int ENDED = 1;
    private static final int CANCELLED = 2;
    private static final int INITS = 6;
    private static final int CLOSES = 7;
    private static final int RUNNING = 8;
    /** Behind so many come the counts of the ids. */
    private static final int IDS = 16;

    private static final VarHandle LONG =
            MethodHandles.byteBufferViewVarHandle(long[].class, ByteOrder.nativeOrder());
    /** What a class that is not unloaded costs. */
    private static final byte[] BALLAST = new byte[1 << 20];
    private static final ThreadLocal<Holder> HELD = new ThreadLocal<>();

    private final ByteBuffer counters;
    private final ScheduledExecutorService timer = new ScheduledThreadPoolExecutor(1);

    /** Its class is this one's, and so it keeps this one. */
    private static final class Holder {
        final byte[] ballast = BALLAST;
    }

    Faults(Host host) throws IOException {
        try (RandomAccessFile file = new RandomAccessFile(host.config(), "rw")) {
            counters = file.getChannel().map(FileChannel.MapMode.READ_WRITE, 0, file.length());
        }
        add(INITS, 1);
    }

    private void add(int counter, long number) {
        LONG.getAndAdd(counters, counter * 8, number);
    }

    byte[] call(byte[] request, Context context) throws InterruptedException {
        String[] words = new String(request, StandardCharsets.UTF_8).split(" ");
        add(STARTED, 1);
        add(RUNNING, 1);
        try {
            if (words.length > 2) {
                add(IDS + Integer.parseInt(words[2]), 1);
            }
            long millis = words.length > 1 ? Long.parseLong(words[1]) : 0;
            return run(words[0], millis, context) ? request : null;
        } finally {
            add(RUNNING, -1);
            add(ENDED, 1);
        }
    }

    private boolean run(String verb, long millis, Context context) throws InterruptedException {
        switch (verb) {
            case "sleep":
                Thread.sleep(millis);
                break;
            case "spin":
                long end = System.nanoTime() + TimeUnit.MILLISECONDS.toNanos(millis);
                while (System.nanoTime() - end < 0) {
                    Thread.onSpinWait();
                }
                break;
            case "linger":
                while (!context.isCancelled()) {
                    Thread.onSpinWait();
                }
                add(CANCELLED, 1);
                break;
            case "remember":
                HELD.set(new Holder());
                break;
            case "echo":
                break;
            case "null":
                // Once it is compiled, nothing looks whether it is null: the
                // access to it faults, and a handler of signals makes an
                // exception of that.
                for (int i = 0; i < 20_000; i++) {
                    touched += touch(this) + 1;
                }
                touch(null);
                break;
            default:
                throw new IllegalArgumentException(verb);
        }
        return true;
    }

    private int touched;

    private static int touch(Faults faults) {
        return faults.touched & 1;
    }

    /** The request, {@code "<verb> <ms> <id>"}, so much later. */
    CompletableFuture<byte[]> later(byte[] request) {
        String[] words = new String(request, StandardCharsets.UTF_8).split(" ");
        add(STARTED, 1);
        add(IDS + Integer.parseInt(words[2]), 1);
        CompletableFuture<byte[]> future = new CompletableFuture<>();
        timer.schedule(() -> {
            add(ENDED, 1);
            future.complete(request);
        }, Long.parseLong(words[1]), TimeUnit.MILLISECONDS);
        return future;
    }

    /** Echo alone, for very many of them. */
    static byte[] echo(byte[] request) {
        return request;
    }

    static ByteBuffer echoBuffer(ByteBuffer request) {
        return request;
    }

    static CompletableFuture<byte[]> echoFuture(byte[] request) {
        return CompletableFuture.supplyAsync(() -> request);
    }

    /** What is in use after a collection, in lines that the tests' harness reads. */
    static byte[] memory(byte[] request) {
        System.gc();
        Runtime runtime = Runtime.getRuntime();
        long heap = runtime.totalMemory() - runtime.freeMemory();
        int classes = ManagementFactory.getClassLoadingMXBean().getLoadedClassCount();
        int threads = ManagementFactory.getThreadMXBean().getThreadCount();
        return ("heap=" + heap + "\nclasses=" + classes + "\nthreads=" + threads
                + "\nversion=" + Runtime.version().feature() + "\n").getBytes();
    }

    @Override
    public void close() {
        timer.shutdownNow();
        add(CLOSES, 1);
    }
}
