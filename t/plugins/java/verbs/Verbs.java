package verbs;

import io.github.nonblockingffi.CallException;
import io.github.nonblockingffi.Context;
import io.github.nonblockingffi.Host;
import java.lang.management.ManagementFactory;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.logging.Level;
import java.util.logging.Logger;

/** Does as the request says: a verb, a space, and what it is to work on. */
public final class Verbs implements AutoCloseable {
    private final Host host;
    private final AtomicInteger calls = new AtomicInteger();
    private final AtomicInteger cancelled = new AtomicInteger();
    private final AtomicInteger interrupted = new AtomicInteger();
    private final AtomicInteger dozing = new AtomicInteger();
    private final AtomicInteger meeting = new AtomicInteger();

    Verbs(Host host) {
        this.host = host;
        if (host.config().startsWith("throw ")) {
            throw new IllegalStateException(host.config().substring(6));
        }
    }

    byte[] call(byte[] request, Context context) throws Exception {
        calls.incrementAndGet();
        String text = new String(request, StandardCharsets.UTF_8);
        String[] words = text.split(" ", 2);
        Object answer = run(words[0], words.length == 1 ? "" : words[1], context);
        return answer == null ? null : answer.toString().getBytes(StandardCharsets.UTF_8);
    }

    private Object run(String verb, String rest, Context context) throws Exception {
        switch (verb) {
            case "echo":
                return rest;
            case "nothing":
                return null;
            case "sized":
                return "x".repeat(Integer.parseInt(rest));
            case "config":
                return host.name() + ": " + context.config();
            case "throw":
                throw new IllegalStateException(rest);
            case "caused":
                throw new Exception("outer", new RuntimeException(rest));
            case "error":
                throw new AssertionError(rest);
            case "fail":
                throw new CallException(Long.parseLong(rest.split(" ")[0]), rest.split(" ")[1]);
            case "status":
                context.setStatus(206, rest);
                return "done";
            case "recurse":
                return recurse(0);
            case "exhaust":
                return exhaust();
            case "npe":
                return nullReference(null);
            case "divide":
                return 1 / Integer.parseInt(rest);
            case "exit":
                System.exit(3);
                return "after exit";
            case "sleep":
                Thread.sleep(Long.parseLong(rest));
                return "slept";
            case "doze":
                return doze(Long.parseLong(rest));
            case "meet":
                return meet(Integer.parseInt(rest));
            case "spin":
                return spin(context);
            case "block":
                return block(context, Long.parseLong(rest));
            case "remaining":
                return context.remaining().map(left -> left.toMillis() + " ms").orElse("no limit");
            case "counts":
                return "calls=" + calls + " cancelled=" + cancelled + " interrupted=" + interrupted
                        + " dozing=" + dozing;
            case "interrupt":
                Thread.currentThread().interrupt();
                return "interrupted";
            case "is_interrupted":
                return Thread.currentThread().isInterrupted();
            case "out":
                System.out.println(rest);
                return "printed";
            case "err":
                System.err.print(rest.replace('|', '\n'));
                System.err.flush();
                return "printed";
            case "trace":
                new RuntimeException(rest).printStackTrace();
                return "printed";
            case "log":
                host.log(System.Logger.Level.valueOf(rest.split(" ", 2)[0]), rest.split(" ", 2)[1]);
                return "logged";
            case "logger":
                System.getLogger("my.logger").log(
                        System.Logger.Level.WARNING, "via System: {0}", rest);
                return "logged";
            case "jul":
                Logger.getLogger("my.jul").log(Level.SEVERE, rest, new RuntimeException("thrown"));
                return "logged";
            case "thread":
                Thread thread = new Thread(() -> System.out.println("from a thread: " + rest));
                thread.start();
                thread.join();
                return "joined";
            case "where":
                Thread here = Thread.currentThread();
                return here.getName() + " daemon=" + here.isDaemon() + " loader="
                        + here.getContextClassLoader();
            case "property":
                return System.getProperty(rest);
            case "memory":
                Runtime runtime = Runtime.getRuntime();
                System.gc();
                return "heap=" + (runtime.totalMemory() - runtime.freeMemory())
                        + " max=" + runtime.maxMemory()
                        + " classes="
                        + ManagementFactory.getClassLoadingMXBean().getLoadedClassCount();
            case "threads":
                return Thread.getAllStackTraces().size();
            default:
                throw new CallException(400, "what is " + verb + "?");
        }
    }

    private static int recurse(int depth) {
        return 1 + recurse(depth + 1);
    }

    private static int exhaust() {
        List<byte[]> all = new ArrayList<>();
        while (true) {
            all.add(new byte[1 << 20]);
        }
    }

    private static int nullReference(String text) {
        return text.length();
    }

    private String doze(long millis) {
        dozing.incrementAndGet();
        try {
            Thread.sleep(millis);
            return "dozed";
        } catch (InterruptedException woken) {
            interrupted.incrementAndGet();
            return "woken";
        } finally {
            dozing.decrementAndGet();
        }
    }

    /** Waits until so many tasks run at a time. */
    private String meet(int number) throws InterruptedException {
        synchronized (meeting) {
            meeting.incrementAndGet();
            meeting.notifyAll();
            while (meeting.get() < number) {
                meeting.wait();
            }
        }
        return "met";
    }

    /** Computes until nobody waits any more. */
    private String spin(Context context) {
        while (!context.isCancelled()) {
            if (Thread.currentThread().isInterrupted()) {
                interrupted.incrementAndGet();
                break;
            }
        }
        cancelled.incrementAndGet();
        return "spun";
    }

    /** Looks at what it is asked, as a client of a database would. */
    private String block(Context context, long millis) throws InterruptedException {
        long limit = Math.min(TimeUnit.MILLISECONDS.toNanos(millis), context.remainingNanos());
        new CountDownLatch(1).await(limit, TimeUnit.NANOSECONDS);
        return "blocked";
    }

    @Override
    public void close() {
        host.log(System.Logger.Level.INFO, "closed after " + calls + " calls");
        if (host.config().equals("bad close")) {
            throw new IllegalStateException("cannot close");
        }
    }
}
