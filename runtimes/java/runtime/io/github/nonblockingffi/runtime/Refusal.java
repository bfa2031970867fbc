package io.github.nonblockingffi.runtime;

/** Why a runtime cannot be opened. {@code load} returns the message. */
final class Refusal extends Exception {
    private static final long serialVersionUID = 1L;

    Refusal(String message) {
        super(message, null, false, false);
    }

    /** What {@code load} returns: the message alone. */
    @Override
    public String toString() {
        return getMessage();
    }
}
