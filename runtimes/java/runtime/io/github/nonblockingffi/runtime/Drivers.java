package io.github.nonblockingffi.runtime;

import java.lang.System.Logger.Level;
import java.lang.reflect.Field;
import java.sql.Driver;
import java.sql.DriverManager;
import java.util.Collection;
import java.util.Iterator;
import java.util.ServiceLoader;

/**
 * The JDBC drivers of a runtime. {@code DriverManager} looks for drivers once in a
 * JVM, for its first caller, and gives each caller those of its own class loader
 * only; so each runtime's are loaded with it, which registers them.
 */
final class Drivers {
    private static final String SERVICE = "META-INF/services/java.sql.Driver";

    private Drivers() {}

    /** Loads the drivers that the class path names. */
    static void load(Loader loader, JavaRuntime runtime) {
        if (loader.findResource(SERVICE) == null) {
            return;
        }
        try {
            Iterator<Driver> drivers = ServiceLoader.load(Driver.class, loader).iterator();
            while (true) {
                try {
                    if (!drivers.hasNext()) {
                        return;
                    }
                    drivers.next();
                } catch (java.util.ServiceConfigurationError broken) {
                    // As DriverManager does: others may work.
                    runtime.log(Level.DEBUG, "a JDBC driver cannot be loaded", broken);
                }
            }
        } catch (LinkageError missing) {
            runtime.log(Level.DEBUG, "no JDBC in this JVM", missing);
        }
    }

    /**
     * Has {@code DriverManager} forget them, and with them their classes. It lets
     * only code that can use a driver deregister it, so this changes its list, which
     * {@code --add-opens} allows (src/options.rs).
     */
    static void forget(Loader loader, JavaRuntime runtime) {
        if (loader.findResource(SERVICE) == null) {
            return;
        }
        try {
            Field field = DriverManager.class.getDeclaredField("registeredDrivers");
            field.setAccessible(true);
            ((Collection<?>) field.get(null)).removeIf(info -> isOf(loader, info));
        } catch (ReflectiveOperationException | RuntimeException | LinkageError failure) {
            runtime.log(Level.DEBUG, "JDBC drivers stay", failure);
        }
    }

    private static boolean isOf(Loader loader, Object info) {
        try {
            Field field = info.getClass().getDeclaredField("driver");
            field.setAccessible(true);
            return Loader.of(field.get(info).getClass().getClassLoader()) == loader;
        } catch (ReflectiveOperationException failure) {
            throw new IllegalStateException(failure);
        }
    }
}
