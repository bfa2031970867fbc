package io.github.nonblockingffi.runtime;

import java.io.OutputStream;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;

/**
 * {@code System.out} and {@code System.err}: each line is an entry of nginx's error
 * log, of the runtime that the printing thread works for.
 */
final class Output extends OutputStream {
    /** Longer lines are split. */
    private static final int LINE = 1800;

    private final int level;
    private final byte[] line = new byte[LINE];
    private int length;

    private Output(int level) {
        this.level = level;
    }

    static void install() {
        System.setOut(new PrintStream(new Output(Log.NOTICE), false, StandardCharsets.UTF_8));
        System.setErr(new PrintStream(new Output(Log.ERROR), false, StandardCharsets.UTF_8));
    }

    @Override
    public synchronized void write(int value) {
        if (value == '\n') {
            end();
            return;
        }
        if (length == LINE) {
            end();
        }
        line[length++] = (byte) value;
    }

    @Override
    public synchronized void write(byte[] bytes, int offset, int count) {
        for (int i = 0; i < count; i++) {
            write(bytes[offset + i]);
        }
    }

    /** An unfinished line is written as a line of its own. */
    @Override
    public synchronized void flush() {
        if (length > 0) {
            end();
        }
    }

    private void end() {
        if (length > 0) {
            Native.log(Loader.currentRuntime(), level, line, length);
        }
        length = 0;
    }
}
