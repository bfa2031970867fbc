package io.github.nonblockingffi.runtime;

import java.lang.System.Logger.Level;
import java.nio.charset.StandardCharsets;

/** nginx's error log. */
final class Log {
    static final int ERROR = 4;
    static final int WARN = 5;
    static final int NOTICE = 6;
    static final int INFO = 7;
    static final int DEBUG = 8;

    private Log() {}

    /**
     * Writes each line as an entry. The host escapes control characters, which
     * would make the tabs of stack traces unreadable.
     */
    static void write(long runtime, Level level, String message) {
        int nginx = level(level);
        if (nginx != 0) {
            byte[] text = message.replace("\t", "    ").getBytes(StandardCharsets.UTF_8);
            Native.log(runtime, nginx, text, text.length);
        }
    }

    /** nginx's level, 0 for none. */
    private static int level(Level level) {
        return switch (level) {
            case ERROR -> ERROR;
            case WARNING -> WARN;
            case INFO -> INFO;
            case DEBUG, TRACE -> DEBUG;
            case ALL, OFF -> 0;
        };
    }
}
