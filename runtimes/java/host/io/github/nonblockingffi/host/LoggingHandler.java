package io.github.nonblockingffi.host;

import java.util.logging.Handler;
import java.util.logging.Level;
import java.util.logging.LogRecord;
import java.util.logging.SimpleFormatter;

/** {@code java.util.logging} into nginx's error log, levels included. */
public final class LoggingHandler extends Handler {
    /** Called by {@code java.util.logging}. */
    public LoggingHandler() {
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
}
