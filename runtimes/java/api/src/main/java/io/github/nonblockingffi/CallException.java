package io.github.nonblockingffi;

/**
 * Fails a call with a code and a message for the caller: Lua gets
 * {@code nil, "runtime error: <message>", code, message}.
 *
 * <p>It says that a request was wrong, not that the program is: there is no stack
 * trace in it, and nothing in nginx's error log. Any other exception is described
 * with its stack trace in both, and has the code 1.
 */
public class CallException extends RuntimeException {
    private static final long serialVersionUID = 1L;

    /** The code. */
    private final long code;

    /**
     * A failure.
     *
     * @param code a number of your own, which the Lua side can act on
     * @param message what is wrong
     */
    public CallException(long code, String message) {
        super(message, null, false, false);
        this.code = code;
    }

    /**
     * The number the Lua side gets.
     *
     * @return the code
     */
    public long code() {
        return code;
    }
}
