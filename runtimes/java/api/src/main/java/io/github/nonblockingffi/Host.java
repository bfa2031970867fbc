package io.github.nonblockingffi;

import java.lang.System.Logger.Level;

/**
 * The runtime that a class was loaded for: its name, its configuration, and
 * nginx's error log.
 *
 * <p>A class whose constructor takes a {@code Host} is given it. Every method may
 * be called from any thread; once the runtime is closed, {@link #log} does
 * nothing.
 */
public interface Host {
    /**
     * The runtime's name in logs and statistics.
     *
     * @return what {@code load} was given as {@code name}, or made up
     */
    String name();

    /**
     * The text that {@code load} was given as {@code config}.
     *
     * @return the text, {@code ""} if there was none
     */
    String config();

    /**
     * Writes to nginx's error log, without blocking. nginx leaves out what is
     * less severe than its {@code error_log} directive says.
     *
     * <p>{@code ERROR} is nginx's {@code error}, {@code WARNING} its
     * {@code warn}, {@code INFO} its {@code info}; {@code DEBUG} and
     * {@code TRACE} are its {@code debug}. {@code ALL} and {@code OFF} write
     * nothing.
     *
     * @param level how severe it is
     * @param message one line, or several
     */
    void log(Level level, String message);

    /**
     * The same, followed by a stack trace.
     *
     * @param level how severe it is
     * @param message one line, or several
     * @param thrown what is to be described; may be {@code null}
     */
    void log(Level level, String message, Throwable thrown);
}
