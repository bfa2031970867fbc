package io.github.nonblockingffi.runtime;

import java.security.AccessController;
import java.security.PrivilegedAction;
import java.util.concurrent.ForkJoinPool;
import java.util.concurrent.ForkJoinPool.ForkJoinWorkerThreadFactory;
import java.util.concurrent.ForkJoinWorkerThread;

/**
 * Makes the threads of {@code ForkJoinPool.commonPool()}, which runs
 * {@code CompletableFuture.supplyAsync} and parallel streams of all runtimes.
 *
 * <p>The JDK's own threads have the JVM's class loader as theirs, which knows no
 * class of any runtime: {@code ServiceLoader} finds nothing there. These have that
 * of the runtime whose code asks.
 */
public final class CommonPool implements ForkJoinWorkerThreadFactory {
    /** What the JDK looks for. */
    private static final String PROPERTY =
            "java.util.concurrent.ForkJoinPool.common.threadFactory";

    /** Called by {@code ForkJoinPool}. */
    public CommonPool() {}

    /** To be called before the pool is used. Does nothing if the user has a factory. */
    static void install() {
        if (System.getProperty(PROPERTY) == null) {
            System.setProperty(PROPERTY, CommonPool.class.getName());
        }
    }

    /** Without the privileges of the code that submits the first task: the thread would
     * keep its classes. */
    @Override
    @SuppressWarnings("removal")
    public ForkJoinWorkerThread newThread(ForkJoinPool pool) {
        return AccessController.doPrivileged(
                (PrivilegedAction<ForkJoinWorkerThread>) () -> new PoolThread(pool));
    }

    private static final class PoolThread extends ForkJoinWorkerThread {
        /** Set by code of {@link #chooser}. */
        private ClassLoader chosen;
        private Loader chooser;

        PoolThread(ForkJoinPool pool) {
            super(pool);
            super.setContextClassLoader(ClassLoader.getSystemClassLoader());
        }

        /** Only the runtime that has set one sees it. */
        @Override
        public ClassLoader getContextClassLoader() {
            Loader caller = Thread.currentThread() == this ? Loader.ofCaller() : null;
            if (caller == null) {
                return super.getContextClassLoader();
            }
            return caller == chooser ? chosen : caller;
        }

        @Override
        public void setContextClassLoader(ClassLoader loader) {
            Loader caller = Thread.currentThread() == this ? Loader.ofCaller() : null;
            // Most code restores the loader that was there before.
            chooser = loader == caller ? null : caller;
            chosen = loader == caller ? null : loader;
        }
    }
}
