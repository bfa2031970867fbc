package io.github.nonblockingffi.host;

import java.lang.System.Logger.Level;

/** Lines for nginx's error log. */
final class Log {
    static final int ERROR = 4;
    static final int WARN = 5;
    static final int NOTICE = 6;
    static final int INFO = 7;
    static final int DEBUG = 8;

    /** nginx cuts an entry after 2048 bytes, of which some are its own. */
    private static final int ENTRY = 1800;

    private Log() {}

    /** Writes what may have several lines, as one entry if it is short enough. */
    static void write(long runtime, Level level, String message) {
        int nginx = level(level);
        if (nginx != 0) {
            write(runtime, nginx, Failures.utf8(message));
        }
    }

    private static void write(long runtime, int level, byte[] text) {
        int start = 0;
        do {
            int end = end(text, start);
            byte[] entry = new byte[end - start];
            System.arraycopy(text, start, entry, 0, entry.length);
            Native.log(runtime, level, entry, entry.length);
            start = end < text.length && text[end] == '\n' ? end + 1 : end;
        } while (start < text.length);
    }

    /** Where the entry that begins at {@code start} ends: behind whole lines. */
    private static int end(byte[] text, int start) {
        if (text.length - start <= ENTRY) {
            return text.length;
        }
        for (int at = start + ENTRY; at > start; at--) {
            if (text[at] == '\n') {
                return at;
            }
        }
        return start + ENTRY;
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
