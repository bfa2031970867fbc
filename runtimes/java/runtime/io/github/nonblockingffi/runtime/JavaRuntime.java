package io.github.nonblockingffi.runtime;

import io.github.nonblockingffi.Host;
import java.lang.System.Logger.Level;
import java.lang.invoke.MethodHandle;
import java.lang.invoke.MethodHandles;
import java.lang.invoke.MethodType;
import java.util.List;

/** A class path, an entry and a configuration. */
final class JavaRuntime implements Host {
    private final long id;
    private final String name;
    private final String config;
    private final boolean interrupts;
    private final Loader loader;
    private Handler handler;
    private Object instance;

    private JavaRuntime(Options options) throws Refusal {
        id = options.id();
        name = options.name();
        config = options.config();
        interrupts = options.interrupts();
        loader = Loader.open(name, id, options.classPath());
    }

    /** What {@code load} was given. */
    record Options(
            long id,
            String name,
            String entry,
            String config,
            boolean interrupts,
            boolean virtualThreads,
            List<String> classPath) {}

    static JavaRuntime open(Options options) throws Throwable {
        JavaRuntime runtime = new JavaRuntime(options);
        ClassLoader before = runtime.become();
        try {
            Drivers.load(runtime.loader, runtime);
            Entry entry = Entry.find(options.entry(), runtime);
            runtime.instance = entry.instance();
            runtime.handler = handler(runtime, entry, options.virtualThreads());
        } catch (Throwable thrown) {
            Drivers.forget(runtime.loader, runtime);
            runtime.loader.close();
            throw thrown;
        } finally {
            Thread.currentThread().setContextClassLoader(before);
        }
        return runtime;
    }

    private static Handler handler(JavaRuntime runtime, Entry entry, boolean virtual)
            throws Refusal {
        if (!virtual) {
            return entry.returnsFuture()
                    ? new Handler.Asynchronous(runtime, entry)
                    : new Handler.Blocking(runtime, entry);
        }
        if (entry.returnsFuture()) {
            throw new Refusal("virtual_threads is for methods that return the response itself, "
                    + "not a future of it");
        }
        try {
            MethodHandle starter = MethodHandles.publicLookup().findStatic(
                    Thread.class,
                    "startVirtualThread",
                    MethodType.methodType(Thread.class, Runnable.class));
            return new Handler.Virtual(runtime, entry, starter);
        } catch (ReflectiveOperationException missing) {
            throw new Refusal("virtual_threads needs Java 21 or later; this is "
                    + Runtime.version());
        }
    }

    /**
     * Makes the calling thread work for this runtime.
     *
     * @return the context class loader that it had
     */
    private ClassLoader become() {
        ClassLoader before = Thread.currentThread().getContextClassLoader();
        Thread.currentThread().setContextClassLoader(loader);
        return before;
    }

    /** Ends it, after its last task. */
    void close() {
        ClassLoader before = become();
        try {
            if (instance instanceof AutoCloseable closeable) {
                closeable.close();
            }
        } catch (Throwable thrown) {
            log(Level.ERROR, "close", thrown);
        } finally {
            Thread.currentThread().setContextClassLoader(before);
        }
        try {
            Drivers.forget(loader, this);
            loader.close();
        } catch (Throwable thrown) {
            log(Level.ERROR, "closing the class path", thrown);
        }
    }

    Loader loader() {
        return loader;
    }

    Handler handler() {
        return handler;
    }

    boolean interrupts() {
        return interrupts;
    }

    @Override
    public String name() {
        return name;
    }

    @Override
    public String config() {
        return config;
    }

    @Override
    public void log(Level level, String message) {
        Log.write(id, level, message);
    }

    @Override
    public void log(Level level, String message, Throwable thrown) {
        log(level, thrown == null ? message : message + ": " + Traces.describe(thrown));
    }
}
