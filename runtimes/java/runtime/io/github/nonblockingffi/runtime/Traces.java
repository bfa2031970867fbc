package io.github.nonblockingffi.runtime;

/** Stack traces in the usual form, but bounded, and without our own frames. */
final class Traces {
    /** Frames of each throwable. */
    private static final int FRAMES = 40;
    /** Causes below causes. */
    private static final int DEPTH = 8;
    /** Characters in all. */
    private static final int LENGTH = 8000;

    private static final String OURS = Traces.class.getPackageName() + ".";

    private Traces() {}

    /** {@code "java.lang.IllegalStateException: text\n\tat ..."}, with causes. */
    static String describe(Throwable thrown) {
        StringBuilder text = new StringBuilder(256);
        append(text, thrown, "", 0);
        if (text.length() > LENGTH) {
            text.setLength(LENGTH);
            text.append(" ...");
        }
        return text.toString();
    }

    private static void append(StringBuilder text, Throwable thrown, String role, int depth) {
        text.append(role).append(name(thrown));
        StackTraceElement[] frames = thrown.getStackTrace();
        int end = end(frames);
        for (int i = 0; i < Math.min(end, FRAMES); i++) {
            text.append("\n\tat ").append(frames[i]);
        }
        if (end > FRAMES) {
            text.append("\n\t... ").append(end - FRAMES).append(" more");
        }
        if (depth == DEPTH) {
            return;
        }
        for (Throwable suppressed : thrown.getSuppressed()) {
            append(text, suppressed, "\nSuppressed: ", DEPTH);
        }
        if (thrown.getCause() != null) {
            append(text, thrown.getCause(), "\nCaused by: ", depth + 1);
        }
    }

    /** Its {@code toString}, which may be the user's and throw. */
    private static String name(Throwable thrown) {
        try {
            return thrown.toString();
        } catch (RuntimeException worse) {
            return thrown.getClass().getName();
        }
    }

    /** Where our frames begin, and those of reflection above them. */
    private static int end(StackTraceElement[] frames) {
        int end = 0;
        while (end < frames.length && !frames[end].getClassName().startsWith(OURS)) {
            end++;
        }
        while (end < frames.length && end > 0 && isReflection(frames[end - 1].getClassName())) {
            end--;
        }
        return end;
    }

    private static boolean isReflection(String name) {
        return name.startsWith("java.lang.reflect.") || name.startsWith("java.lang.invoke.")
                || name.startsWith("jdk.internal.reflect.");
    }
}
