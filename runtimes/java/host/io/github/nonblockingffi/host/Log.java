package io.github.nonblockingffi.host;

import java.lang.System.Logger.Level;
import java.util.Arrays;

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

    /**
     * Writes each line as an entry, a long one as several: the host writes an entry on
     * one line, with control characters escaped, tabs of stack traces among them.
     */
    static void write(long runtime, Level level, String message) {
        int nginx = level(level);
        if (nginx != 0) {
            String text = message.replace("\t", "    ");
            text.lines().forEach(line -> write(runtime, nginx, Failures.utf8(line)));
        }
    }

    private static void write(long runtime, int level, byte[] line) {
        int start = 0;
        do {
            int end = end(line, start);
            byte[] entry = Arrays.copyOfRange(line, start, end);
            Native.log(runtime, level, entry, entry.length);
            start = end;
        } while (start < line.length);
    }

    /** Where the entry that begins at {@code start} ends: between characters. */
    private static int end(byte[] line, int start) {
        int end = start + ENTRY;
        if (end >= line.length) {
            return line.length;
        }
        while ((line[end] & 0xc0) == 0x80) {
            end--;
        }
        return end;
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
