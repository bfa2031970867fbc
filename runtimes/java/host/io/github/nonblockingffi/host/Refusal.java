package io.github.nonblockingffi.host;

/** A runtime that cannot be as it was asked for; the message says why. */
final class Refusal extends Exception {
    private static final long serialVersionUID = 1L;

    Refusal(String message) {
        super(message, null, false, false);
    }
}
