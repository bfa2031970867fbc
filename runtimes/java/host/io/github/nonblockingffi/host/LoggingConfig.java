package io.github.nonblockingffi.host;

import java.io.ByteArrayInputStream;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.util.logging.LogManager;

/**
 * Named in {@code java.util.logging.config.class}, so that it comes into play when
 * somebody uses that package, or {@code System.Logger}, which is built on it: the
 * root logger writes to nginx's error log.
 */
public final class LoggingConfig {
    /** What {@code java.util.logging} looks for. */
    static final String PROPERTY = "java.util.logging.config.class";

    /**
     * Called by {@code java.util.logging}.
     *
     * @throws IOException never: it reads from memory
     */
    public LoggingConfig() throws IOException {
        String properties = "handlers=" + LoggingHandler.class.getName() + "\n.level=INFO\n";
        LogManager.getLogManager().readConfiguration(
                new ByteArrayInputStream(properties.getBytes(StandardCharsets.ISO_8859_1)));
    }

    /** Unless the user has said something else. */
    static void install() {
        if (System.getProperty(PROPERTY) == null
                && System.getProperty("java.util.logging.config.file") == null) {
            System.setProperty(PROPERTY, LoggingConfig.class.getName());
        }
    }
}
