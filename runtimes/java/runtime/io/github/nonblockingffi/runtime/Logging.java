package io.github.nonblockingffi.runtime;

import java.io.ByteArrayInputStream;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.util.logging.Handler;
import java.util.logging.Level;
import java.util.logging.LogManager;
import java.util.logging.LogRecord;
import java.util.logging.SimpleFormatter;

/** Writes what {@code java.util.logging} is given to nginx's error log. */
public final class Logging extends Handler {
    /** Called by {@code java.util.logging}. */
    public Logging() {
        setFormatter(new SimpleFormatter());
    }

    @Override
    public void publish(LogRecord record) {
        if (!isLoggable(record)) {
            return;
        }
        String text = getFormatter().formatMessage(record);
        if (record.getLoggerName() != null) {
            text = record.getLoggerName() + ": " + text;
        }
        if (record.getThrown() != null) {
            text += ": " + Traces.describe(record.getThrown());
        }
        Log.write(Loader.currentRuntime(), level(record.getLevel()), text);
    }

    private static System.Logger.Level level(Level level) {
        int value = level.intValue();
        if (value >= Level.SEVERE.intValue()) {
            return System.Logger.Level.ERROR;
        }
        if (value >= Level.WARNING.intValue()) {
            return System.Logger.Level.WARNING;
        }
        return value >= Level.INFO.intValue()
                ? System.Logger.Level.INFO
                : System.Logger.Level.DEBUG;
    }

    @Override
    public void flush() {}

    @Override
    public void close() {}

    /**
     * Makes the root logger write here. {@code java.util.logging} makes an object of
     * this when it is first used, also by {@code System.Logger}, which builds on it.
     */
    public static final class Config {
        private static final String PROPERTY = "java.util.logging.config.class";

        /**
         * Called by {@code java.util.logging}.
         *
         * @throws IOException never: it reads from memory
         */
        public Config() throws IOException {
            String properties = "handlers=" + Logging.class.getName() + "\n.level=INFO\n";
            LogManager.getLogManager().readConfiguration(
                    new ByteArrayInputStream(properties.getBytes(StandardCharsets.ISO_8859_1)));
        }

        /** Does nothing if the user has a configuration. */
        static void install() {
            if (System.getProperty(PROPERTY) == null
                    && System.getProperty("java.util.logging.config.file") == null) {
                System.setProperty(PROPERTY, Config.class.getName());
            }
        }
    }
}
