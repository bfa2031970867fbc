package jdbc;

import java.lang.reflect.Field;
import java.nio.charset.StandardCharsets;
import java.sql.Connection;
import java.sql.DriverManager;
import java.util.Collection;
import java.util.Collections;
import java.util.ServiceLoader;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ForkJoinPool;
import java.util.logging.Logger;
import java.util.stream.IntStream;

/** Uses what all runtimes of a JVM share. */
public final class Shared {
    public Shared() {}

    public byte[] call(byte[] request) throws Exception {
        return call(new String(request, StandardCharsets.UTF_8)).getBytes(StandardCharsets.UTF_8);
    }

    private static String call(String request) throws Exception {
        switch (request) {
            case "connect":
                try (Connection connection = DriverManager.getConnection("jdbc:test:tea")) {
                    return connection.getCatalog() + " "
                            + Collections.list(DriverManager.getDrivers()).size();
                }
            case "registered":
                Field drivers = DriverManager.class.getDeclaredField("registeredDrivers");
                drivers.setAccessible(true);
                return String.valueOf(((Collection<?>) drivers.get(null)).size());
            case "pool":
                return CompletableFuture.supplyAsync(Shared::look, ForkJoinPool.commonPool())
                        .get();
            case "stream":
                return String.valueOf(IntStream.range(0, 1000).parallel()
                        .mapToObj(i -> look()).distinct().count());
            case "chosen":
                return ForkJoinPool.commonPool().submit(Shared::choose).get();
            case "log":
                Logger.getLogger("shared").warning("to java.util.logging");
                System.getLogger("shared").log(System.Logger.Level.WARNING, "to System.Logger");
                return "logged";
            case "exit":
                System.exit(2);
                return "after exit";
            case "halt":
                Runtime.getRuntime().halt(2);
                return "after halt";
            case "thread":
                Thread thread = new Thread(() -> System.exit(2));
                thread.start();
                thread.join();
                return "joined";
            default:
                throw new IllegalArgumentException();
        }
    }

    private static String look() {
        ClassLoader loader = Thread.currentThread().getContextClassLoader();
        try {
            boolean same = Class.forName("jdbc.Shared", true, loader) == Shared.class;
            return ServiceLoader.load(Greeter.class).findFirst().map(Greeter::greet).orElse("none")
                    + " " + same;
        } catch (ClassNotFoundException failure) {
            return failure.toString();
        }
    }

    private static String choose() {
        Thread thread = Thread.currentThread();
        ClassLoader before = thread.getContextClassLoader();
        thread.setContextClassLoader(null);
        boolean taken = thread.getContextClassLoader() != before;
        thread.setContextClassLoader(before);
        return taken + " " + look();
    }
}
